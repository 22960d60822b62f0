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

// Under a wildcard the agent writes a part of the name itself, and whoever
// serves the domain reads it in the DNS query: a name is judged before it is
// looked up.
const (
	// longestRandom is the longest part of a label, between hyphens, that may look
	// drawn by chance: as a SHA-1 in hexadecimal.
	longestRandom = 40
	// allRandom is how much of all labels together may look so.
	allRandom = 56
	// longestNumber and allNumbers are how many digits an ordinary label has, in
	// a row and in all.
	longestNumber, allNumbers = 20, 28
	// longestBelow bounds what stands below a wildcard at all.
	longestBelow = 120
	// minDecoded is how much of a decoded label must look like text: less is there by chance.
	minDecoded = 10
	// newNames is how many names with manyRandom such characters may be new
	// under one wildcard within keptFor.
	newNames, manyRandom = 64, 16
)

// below are the labels of a host that the agent has chosen: none where the
// operator names the host.
func (r rules) below(a policy.Authority, now time.Time) (labels []string, pattern string) {
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

// judgeName refuses a name that carries data. What was read before is not read
// again.
func (s *scanner) judgeName(ctx context.Context, a policy.Authority, labels []string, pattern string) policy.Verdict {
	if len(labels) == 0 {
		return policy.Allowed("scan")
	}
	sum := maphash.String(seed, a.Host.String())*prime + maphash.String(seed, pattern)
	if s.names.clean.Has(sum) {
		return policy.Allowed("scan")
	}
	v := s.look(ctx, "host name", hostText(a.Host.String()))
	if v.Allow {
		v = s.decodedName(ctx, labels)
	}
	if !v.Allow {
		return v
	}
	why := dataIn(labels)
	if why == "" && randomIn(labels) >= manyRandom && !s.names.take(pattern, time.Now()) {
		why = "so many new names under " + pattern + " look drawn by chance that they may carry data"
	}
	if why != "" {
		return policy.Denied(ruleName, why+"; a name that is in the allowlist itself passes")
	}
	s.names.clean.Add(sum)
	return v
}

// ruleName is the rule of a name that carries data.
const ruleName = "host name"

// dataIn says why labels are no ordinary ones, or nothing.
func dataIn(labels []string) string {
	for _, text := range wordsOf(labels) {
		if slices.ContainsFunc(decodings(text), isText) {
			return "the name holds text in hexadecimal, base32 or base36"
		}
	}
	return carriesData(labels)
}

// carriesData judges labels by what they look like.
func carriesData(labels []string) string {
	if n := len(strings.Join(labels, ".")); n > longestBelow {
		return "the name below the wildcard is too long for an ordinary one"
	}
	for _, l := range labels {
		if randomIn([]string{l}) > longestRandom {
			return "a label of the name looks as if it carried data"
		}
	}
	if randomIn(labels) > allRandom {
		return "the labels of the name look as if they carried data"
	}
	return ""
}

var uuids = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// randomIn is how many characters of labels look drawn by chance. The first UUID is
// none of them.
func randomIn(labels []string) (n int) {
	uuid := false
	for _, l := range labels {
		if at := uuids.FindStringIndex(l); at != nil && !uuid {
			uuid, l = true, l[:at[0]]+"-"+l[at[1]:]
		}
		parts := strings.FieldsFunc(l, func(r rune) bool { return r == '-' || r == '_' })
		own, numbers := 0, 0
		parts = slices.DeleteFunc(parts, func(part string) bool { // accounts, dates, addresses
			number := strings.Trim(part, "0123456789") == "" && len(part) <= longestNumber
			if number {
				numbers += len(part)
			}
			return number
		})
		for _, part := range parts {
			if drawn(part) {
				own += len(part)
			}
		}
		if numbers > allNumbers {
			own += numbers
		}
		// Hyphens must not hide what is one run without them.
		if whole := strings.Join(parts, ""); len(whole) >= 32 && turns(whole)*4 >= len(whole) {
			own = max(own, len(whole))
		}
		n += own
	}
	return n
}

// drawn tells whether a part of a label looks drawn by chance: letters and
// digits take turns, or there are hardly any vowels.
func drawn(part string) bool {
	switch {
	case len(part) < 8 || strings.HasPrefix(part, "xn"):
		return false
	case strings.Trim(part, "0123456789") == "":
		return true
	case turns(part)*5 >= len(part):
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
	return vowels*5 < len(part) || len(part) > longestRandom
}

// turns counts where a letter follows a digit or the other way round.
func turns(s string) (n int) {
	for i := 1; i < len(s); i++ {
		if (crumbClass[s[i]] == 3) != (crumbClass[s[i-1]] == 3) {
			n++
		}
	}
	return n
}

// alphabets are those of base32 that a name can hold.
var alphabets = []*base32.Encoding{
	base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding),
	base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding),
	base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding),
}

// decodedName looks for secrets in what labels mean in another alphabet.
func (s *scanner) decodedName(ctx context.Context, labels []string) policy.Verdict {
	for _, text := range wordsOf(labels) {
		for _, plain := range decodings(text) {
			if v := s.look(ctx, "host name", plain); !v.Allow {
				return v
			}
		}
	}
	return policy.Allowed("scan")
}

// wordsOf are the labels without hyphens: each of them, and all of them as one in both
// directions.
func wordsOf(labels []string) []string {
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

// decodings are what a label may mean. What does not belong to an encoding
// may stand before it.
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
		for _, alphabet := range alphabets {
			whole := rest[:len(rest)-badRest[len(rest)%8]]
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

// badRest is how many characters at the end of a group of base32 are no byte.
var badRest = [8]int{1: 1, 3: 1, 6: 1}

// isText tells whether bytes are what tokens and texts are made of.
func isText(b []byte) bool {
	return len(b) >= minDecoded && !bytes.ContainsFunc(b, func(r rune) bool {
		return r > 0x7f || crumbClass[r] == 0 && !strings.ContainsRune(" =:@,;&\"'{}\n", r)
	})
}

// names are what is known of the names that the agent has chosen.
type names struct {
	clean seenset.Set[uint64]

	mu    sync.Mutex
	fresh map[string][]time.Time // by pattern, of which there are as many as in the file
}

// take counts a new name under a pattern, unless there are too many.
func (n *names) take(pattern string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fresh == nil {
		n.fresh = map[string][]time.Time{}
	}
	own := slices.DeleteFunc(n.fresh[pattern], func(t time.Time) bool { return now.Sub(t) > keptFor })
	if len(own) < newNames {
		own = append(own, now)
		n.fresh[pattern] = own
		return true
	}
	n.fresh[pattern] = own
	return false
}
