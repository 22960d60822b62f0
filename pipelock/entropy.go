package pipelock

import (
	"bytes"
	"math"
	"slices"

	"airlock/internal/bundle"
	"airlock/internal/secrets"
)

// entropyDetector finds random-looking runs, whatever kind of token they are.
type entropyDetector bundle.Entropy

// ruleEntropy is the rule of such a finding.
const ruleEntropy = "high-entropy"

// maxEntropyRun is the longest run that is taken for a token, in bytes: longer ones are images and
// files.
const maxEntropyRun = 1 << 10

// find returns the runs with enough bits per character, except UUIDs, digests and images. It tests
// where a run of the minimum length would have its last byte and walks back from there, so that
// most of a text is skipped.
func (c entropyDetector) find(data []byte) (found []secrets.Finding) {
	least := max(1, c.Length)
	done := 0
	for at := least - 1; at < len(data); {
		start := at + 1
		for start > done && tokenByte[data[start-1]] {
			start--
		}
		if at+1-start < least {
			done, at = start, start+least-1
			continue
		}
		end := at + 1
		for end < len(data) && tokenByte[data[end]] {
			end++
		}
		if end-start <= maxEntropyRun && c.looksRandom(data, start, end) {
			found = append(found, secrets.Finding{Rule: ruleEntropy, Start: start, End: end})
		}
		done, at = end, end+least
	}
	return found
}

func (c entropyDetector) looksRandom(data []byte, start, end int) bool {
	run := data[start:end]
	if !mixesClasses(run) || isUUID(string(run)) || isDigest(run) || isImage(data, start) {
		return false
	}
	return shannonBits(run) >= c.Bits
}

// tokenByte are the characters of base64 in both alphabets.
var tokenByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = charClass[c] != 0 && c != '.' && c != '~'
	}
	return t
}()

// mixesClasses reports whether a run has digits and changes between character classes more often
// than words do.
func mixesClasses(run []byte) bool {
	changes, digits, last := 0, 0, byte(0)
	for _, b := range run {
		c := charClass[b]
		if c == 3 {
			digits++
		}
		if c != 4 && last != 0 && c != last {
			changes++
		}
		if c != 4 {
			last = c
		}
	}
	return digits > 0 && changes*6 >= len(run)
}

// digestLengths are those of common digests in hexadecimal.
var digestLengths = []int{32, 40, 48, 56, 64, 96, 128}

// digestNames begin a digest in base64, as in Subresource Integrity and
// lockfiles.
var digestNames = [][]byte{[]byte("sha1-"), []byte("sha256-"), []byte("sha384-"), []byte("sha512-"), []byte("sha256/"), []byte("h1-"), []byte("md5-")}

// isDigest reports whether a run has the usual form of a digest: a hash may look random but is not
// a secret.
func isDigest(run []byte) bool {
	notHex := func(r rune) bool { return r > 0x7f || !isHexDigit(byte(r)) }
	if slices.Contains(digestLengths, len(run)) && !bytes.ContainsFunc(run, notHex) {
		return true
	}
	return slices.ContainsFunc(digestNames, func(name []byte) bool { return bytes.HasPrefix(run, name) })
}

// imageStarts are how files of images begin in base64.
var imageStarts = [][]byte{[]byte("iVBORw0KGgo"), []byte("/9j/"), []byte("R0lGOD"), []byte("UklGR"), []byte("PHN2Zy")}

// isImage reports whether the run at start is an image, or is declared to be one.
func isImage(data []byte, start int) bool {
	if bytes.HasSuffix(data[max(0, start-64):start], []byte(";base64,")) {
		return true
	}
	return slices.ContainsFunc(imageStarts, func(s []byte) bool { return bytes.HasPrefix(data[start:], s) })
}

// shannonBits is Shannon's entropy in bits per character.
func shannonBits(run []byte) (sum float64) {
	var counts [256]int
	for _, c := range run {
		counts[c]++
	}
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(run))
			sum -= p * math.Log2(p)
		}
	}
	return sum
}

func isHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
