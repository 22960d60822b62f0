package pipelock

import (
	"bytes"
	"context"
	"encoding/base32"
	"encoding/hex"
	"hash/maphash"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"airlock/internal/policy"
	"airlock/internal/seenset"
)

// The agent chooses part of a name that matches a wildcard, and the domain's name server receives
// it in the DNS query. A name is therefore checked before it is resolved.
const (
	// maxRandomPart is the longest random-looking part of a label, between hyphens: a SHA-1 in
	// hexadecimal.
	maxRandomPart = 40
	// maxRandomTotal bounds the random-looking characters of all labels together.
	maxRandomTotal = 56
	// maxDigitRun and maxDigitTotal bound the digits of an ordinary name, in a row and in total.
	maxDigitRun, maxDigitTotal = 20, 28
	// maxAgentLabels bounds the length of all labels under a wildcard, in bytes.
	maxAgentLabels = 120
	// minDecoded is how many bytes of a decoded label must look like text: fewer are chance.
	minDecoded = 10
	// maxNewNames is how many new names with at least minRandomChars random-looking characters are
	// allowed under one wildcard within historyTTL.
	maxNewNames, minRandomChars = 64, 16
)

// agentLabels returns the labels of a host that the agent has chosen, and the wildcard that matches
// it. There are none where the operator names the host.
func (r rules) agentLabels(a policy.Authority, now time.Time) (labels []string, pattern string) {
	if _, named := r.hosts[a.Host]; named {
		return nil, ""
	}
	for _, e := range r.allow {
		p := e.Host
		if !p.MatchesAuthority(a, 443, 80) || !e.At(now) {
			continue
		}
		if _, exact := p.Exact(); exact {
			return nil, ""
		}
		if pattern == "" || len(p.String()) > len(pattern) {
			pattern = p.String()
		}
	}
	all := strings.Split(a.Host.String(), ".")
	n := strings.Count(pattern, ".")
	if pattern == "" || n >= len(all) {
		return nil, ""
	}
	return all[:len(all)-n], pattern
}

// checkName refuses a name that carries data. Names that have passed are cached.
func (s *scanner) checkName(ctx context.Context, a policy.Authority, labels []string, pattern string) policy.Verdict {
	if len(labels) == 0 {
		return policy.Allowed("scan")
	}
	sum := maphash.String(seed, a.Host.String())*prime + maphash.String(seed, pattern)
	if s.dnsNames.clean.Has(sum) {
		return policy.Allowed("scan")
	}
	v := s.scanText(ctx, "host name", hostText(a.Host.String()))
	if v.Allow {
		v = s.scanDecodedName(ctx, labels)
	}
	if !v.Allow {
		return v
	}
	why := dataReason(labels)
	if why == "" && randomChars(labels) >= minRandomChars && !s.dnsNames.countNew(pattern, time.Now()) {
		why = "so many new names under " + pattern + " look drawn by chance that they may carry data"
	}
	if why != "" {
		return policy.Denied(ruleName, why+"; a name that is in the allowlist itself passes")
	}
	s.dnsNames.clean.Add(sum)
	return v
}

// ruleName is the rule of a name that carries data.
const ruleName = "host name"

// dataReason says why labels seem to carry data; empty when they do not.
func dataReason(labels []string) string {
	for _, text := range joinedLabels(labels) {
		if slices.ContainsFunc(decodings(text), isText) {
			return "the name holds text in hexadecimal, base32 or base36"
		}
	}
	return shapeReason(labels)
}

// shapeReason is dataReason by length and randomness alone.
func shapeReason(labels []string) string {
	if n := len(strings.Join(labels, ".")); n > maxAgentLabels {
		return "the name below the wildcard is too long for an ordinary one"
	}
	for _, l := range labels {
		if randomChars([]string{l}) > maxRandomPart {
			return "a label of the name looks as if it carried data"
		}
	}
	if randomChars(labels) > maxRandomTotal {
		return "the labels of the name look as if they carried data"
	}
	return ""
}

var uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// randomChars counts the random-looking characters of labels. The first UUID is not counted.
func randomChars(labels []string) (n int) {
	uuid := false
	for _, l := range labels {
		if at := uuids.FindStringIndex(l); at != nil && !uuid {
			uuid, l = true, l[:at[0]]+"-"+l[at[1]:]
		}
		parts := strings.FieldsFunc(l, func(r rune) bool { return r == '-' || r == '_' })
		own, numbers := 0, 0
		parts = slices.DeleteFunc(parts, func(part string) bool { // accounts, dates, addresses
			number := strings.Trim(part, "0123456789") == "" && len(part) <= maxDigitRun
			if number {
				numbers += len(part)
			}
			return number
		})
		for _, part := range parts {
			if labelLooksRandom(part) {
				own += len(part)
			}
		}
		if numbers > maxDigitTotal {
			own += numbers
		}
		// Hyphens must not hide what is one run without them.
		if whole := strings.Join(parts, ""); len(whole) >= 32 && letterDigitChanges(whole)*4 >= len(whole) {
			own = max(own, len(whole))
		}
		n += own
	}
	return n
}

// labelLooksRandom reports whether part of a label looks random: letters and digits alternate, or
// there are hardly any vowels.
func labelLooksRandom(part string) bool {
	switch {
	case len(part) < 8 || strings.HasPrefix(part, "xn"):
		return false
	case strings.Trim(part, "0123456789") == "":
		return true
	case letterDigitChanges(part)*5 >= len(part):
		return true
	}
	if len(part) < 16 {
		return false
	}
	vowels := len(part) - len(strings.Map(func(r rune) rune {
		if strings.ContainsRune("aeiouy", r) {
			return -1
		}
		return r
	}, part))
	return vowels*5 < len(part) || len(part) > maxRandomPart
}

// letterDigitChanges counts the changes between letters and digits.
func letterDigitChanges(s string) (n int) {
	for i := 1; i < len(s); i++ {
		if (charClass[s[i]] == 3) != (charClass[s[i-1]] == 3) {
			n++
		}
	}
	return n
}

// base32Alphabets are the base32 encodings that a name can hold.
var base32Alphabets = []*base32.Encoding{
	base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding),
	base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding),
	base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding),
}

// scanDecodedName scans what labels decode to.
func (s *scanner) scanDecodedName(ctx context.Context, labels []string) policy.Verdict {
	for _, text := range joinedLabels(labels) {
		for _, plain := range decodings(text) {
			if v := s.scanText(ctx, "host name", plain); !v.Allow {
				return v
			}
		}
	}
	return policy.Allowed("scan")
}

// joinedLabels returns the labels without hyphens: each by itself, and all of them joined in both
// orders.
func joinedLabels(labels []string) []string {
	strip := strings.NewReplacer("-", "", "_", "")
	back := slices.Clone(labels)
	slices.Reverse(back)
	texts := []string{strip.Replace(strings.Join(labels, "")), strip.Replace(strings.Join(back, ""))}
	for _, l := range labels {
		texts = append(texts, strip.Replace(l))
	}
	slices.Sort(texts)
	return slices.Compact(texts)
}

// decodings returns what a label may decode to. Some characters before the encoded text may not
// belong to it.
func decodings(text string) (all [][]byte) {
	if len(text) < 16 {
		return nil
	}
	for skip := range 8 {
		rest := text[skip:]
		if n := len(rest) &^ 1; skip < 2 && n >= 2*minDecoded {
			if plain, err := hex.DecodeString(rest[:n]); err == nil {
				all = append(all, plain)
			}
		}
		for _, alphabet := range base32Alphabets {
			whole := rest[:len(rest)-base32Excess[len(rest)%8]]
			if plain, err := alphabet.DecodeString(whole); err == nil && len(plain) >= minDecoded {
				all = append(all, plain)
			}
		}
	}
	if n, ok := new(big.Int).SetString(text, 36); ok && len(n.Bytes()) >= minDecoded {
		all = append(all, n.Bytes())
	}
	return all
}

// base32Excess is, by length modulo 8, how many characters at the end of base32 do not make up a
// byte.
var base32Excess = [8]int{1: 1, 3: 1, 6: 1}

// isText reports whether bytes consist of the characters of tokens and texts.
func isText(b []byte) bool {
	return len(b) >= minDecoded && !bytes.ContainsFunc(b, func(r rune) bool {
		return r > 0x7f || charClass[r] == 0 && !strings.ContainsRune(" =:@,;&\"'{}\n", r)
	})
}

// nameHistory holds what is known of the names that the agent has chosen.
type nameHistory struct {
	clean seenset.Set[uint64]

	mu     sync.Mutex
	recent map[string][]time.Time // by wildcard; bounded by the allowlist
}

// countNew counts a new name under a wildcard. It returns false when there are too many.
func (n *nameHistory) countNew(pattern string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.recent == nil {
		n.recent = map[string][]time.Time{}
	}
	own := slices.DeleteFunc(n.recent[pattern], func(t time.Time) bool { return now.Sub(t) > historyTTL })
	if len(own) < maxNewNames {
		own = append(own, now)
		n.recent[pattern] = own
		return true
	}
	n.recent[pattern] = own
	return false
}
