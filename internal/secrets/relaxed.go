package secrets

import (
	"math/bits"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
)

// relaxedRule is a precise rule for texts in which anything may be adjacent to a match. It is
// compiled when it is first needed.
type relaxedRule struct {
	re            *syntax.Regexp
	rule          *syntax.Regexp // what else is looked for in the same places; nil: nothing
	smallAlphabet bool           // its alphabet is so small that random text often matches
	keywords      []string

	once  sync.Once
	ready compiledRelaxed
}

type compiledRelaxed struct {
	window *matchWindow
	regex  *regexp.Regexp
	// likelyByChance says that a long run of base64 may match by chance: a match counts where a
	// token may start.
	likelyByChance bool
}

const (
	// minPrecise is the shortest secret whose rule is precise, in characters, if it begins with a
	// keyword; a keyword elsewhere must be long.
	minPrecise     = 18
	minInner       = 8
	maxPreciseLoop = 4
)

// relax returns the relaxed form of a rule, or nil for a rule that is not precise.
func (b *body) relax(expression string, keywords []string) *relaxedRule {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil || b.seesAll() || b.tail != nil || b.right.loops > maxPreciseLoop || minMatchLen(re) < minPrecise {
		return nil
	}
	if b.head == nil && slices.ContainsFunc(keywords, func(k string) bool { return len(k) < minInner }) {
		return nil
	}
	return &relaxedRule{re: withoutContext(re), keywords: keywords}
}

// tokenShapes are the shapes of tokens whose rule has more in its expression, by rule: what its
// expression must contain, and the shape; an empty one says that the rule has none.
var tokenShapes = map[string]struct{ of, shape string }{
	awsRule: {"AKIA", `(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}|(?:akia|asia|abia|acca)[a-z2-7]{16}`},
	// Its name must begin with a lower case letter or a digit; before it, there is a border in the
	// rule.
	"azure-ad-client-secret": {"Q~", `[a-zA-Z0-9_~.]{3}[0-9]Q~[a-zA-Z0-9_~.-]{31,34}`},
	// The rule also takes any 40 hexadecimal digits, as a commit has, in a text that has the word.
	"sourcegraph-access-token": {"sgp_", `(?i)sgp_(?:(?:[a-f0-9]{16}|local)_)?[a-f0-9]{40}`},
	// The older form, s. and 24 letters, looks like a call of a method.
	"vault-service-token":    {"hvs", `hvs\.[\w-]{90,120}`},
	"curl-auth-header":       {},
	"curl-auth-user":         {},
	"kubernetes-secret-yaml": {},
	"nuget-config-password":  {},
	"freemius-secret-key":    {},
	"private-key":            {}, // its expression has no border
}

// shapeOf returns the shape of a rule's tokens, or nil for a rule that recognises a secret by a
// name or by its surroundings.
func shapeOf(id, expression string, keywords []string) *relaxedRule {
	re, err := syntax.Parse(expression, syntax.Perl)
	if p, ok := tokenShapes[id]; ok && strings.Contains(expression, p.of) {
		shape, bad := syntax.Parse(p.shape, syntax.Perl)
		if p.shape == "" || err != nil || bad != nil {
			return nil
		}
		return &relaxedRule{re: shape, rule: withoutContext(re), smallAlphabet: id == awsRule, keywords: keywords} // base32 has its alphabet
	}
	if err != nil || strings.Contains(expression, nameBefore) || minMatchLen(re) < minPrecise {
		return nil
	}
	return &relaxedRule{re: withoutContext(re), keywords: keywords}
}

// relaxedFor returns the rule's expression for a match that may have anything adjacent to it, or
// nil.
func (b *body) relaxedFor(how scanMode) *relaxedRule {
	if how == joined || b.shape == nil && how == decoded {
		return b.relaxed
	}
	return b.shape
}

func (l *relaxedRule) compiled() compiledRelaxed {
	l.once.Do(func() {
		text := l.re.String()
		all := text
		if l.rule != nil {
			all = "(?:" + l.rule.String() + "|" + text + ")"
		}
		reach := matchWindowOf(all, l.keywords)
		l.ready = compiledRelaxed{&reach, regexp.MustCompile(text), l.isLikelyByChance()}
	})
	return l.ready
}

// How unlikely a match in random base64 must be, as a power of two: with a keyword that base64
// itself cannot have, and without.
const (
	markedBits = 25
	minBits    = 34
)

func (l *relaxedRule) isLikelyByChance() bool {
	bits := matchBits(l.re)
	plain := slices.ContainsFunc(l.keywords, func(k string) bool { return !strings.ContainsAny(k, "_-.") })
	return l.smallAlphabet || bits < markedBits || plain && bits < minBits
}

// looksRandom reports whether a text changes between lower case, upper case and digits as often as
// random text does. Prose and source code without punctuation do not. The prefix that all tokens of
// a kind have does not count.
func looksRandom(secret string) bool {
	if strings.Contains(secret, "PRIVATE KEY") {
		return true
	}
	secret = secret[min(len(secret), minHiddenKeyword):]
	changes, digits, lower, n := 0, 0, 0, 0
	before := byte(0)
	for i := range len(secret) {
		kind := kindOf(secret[i])
		if kind == 0 {
			continue
		}
		if n++; before != 0 && kind != before {
			changes++
		}
		before = kind
		switch kind {
		case 'd':
			digits++
		case 'l':
			lower++
		}
	}
	if digits == 0 && lower > 0 && lower < n && n >= minLetters {
		return changes*4 > n
	}
	return changes*5 > 2*n || digits > 0 && (changes*4 >= n || digits*4 >= n || lower == 0)
}

// minLetters is how many letters in both cases are enough to require fewer changes: no words are so
// long without a separator.
const minLetters = 30

func kindOf(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return 'd'
	case c >= 'a' && c <= 'z':
		return 'l'
	case c >= 'A' && c <= 'Z':
		return 'u'
	}
	return 0
}

const (
	// minHiddenKeyword is the shortest keyword that is looked for interleaved or transformed.
	minHiddenKeyword = 4
	// minInterleaved bounds the keywords of one Scan after which an interleaved token is looked
	// for; a long text has one more for every bytesPerCharge.
	minInterleaved = 8 << 10
	// maxInterleaved is over how many bytes a token may be interleaved.
	maxInterleaved = 1 << 10
)

// maxSeparators is how many different bytes may separate the characters of a token. Binary data has
// enough letters and digits for any token.
const maxSeparators = 16

func count(set [4]uint64) (n int) {
	for _, w := range set {
		n += bits.OnesCount64(w)
	}
	return n
}

// interleaved looks for a token after its keyword, with other bytes between its characters.
func (r *run) interleaved(text string, i, start, end int) (spans []span) {
	b := r.rules.rules[i].body()
	if b.relaxed == nil || b.head == nil || end-start < minHiddenKeyword {
		return nil
	}
	made := b.relaxed.compiled()
	if made.likelyByChance && r.rules.rules[i].id != awsRule { // there is a hash or an id of four such letters sooner or later, and text after it
		return nil
	}
	if r.rules.rules[i].id == awsRule && end < len(text) && isWord(text, end) { // the name of something that has these letters in it
		return nil
	}
	if made.window.head.mayMatch(text[start:]) { // nothing is interleaved; what follows is not a match
		return nil
	}
	if r.interleavedLeft--; r.interleavedLeft < 0 { // no text has so many keywords without what belongs to them
		r.nested = true
		return nil
	}
	for _, keep := range []string{"-_", "_"} {
		token := []byte(text[start:end])
		var places []int
		var between [4]uint64 // which bytes
		for at := end; at < min(len(text), end+maxInterleaved) && len(places) < made.window.right.bounded && count(between) <= maxSeparators; at++ {
			if kindOf(text[at]) != 0 || strings.IndexByte(keep, text[at]) >= 0 {
				token = append(token, text[at])
				places = append(places, at+1)
			} else {
				between[text[at]>>6] |= 1 << (text[at] & 63)
			}
		}
		if len(token) == end-start || !made.window.head.mayMatch(string(token)) {
			continue
		}
		for _, s := range r.matches(made.regex, string(token), i, pieced) {
			if last := s.end - (end - start); last > 0 && isIdentifier(text[end:places[last-1]]) { // source code
				continue
			}
			if last := s.end - (end - start); s.start == 0 && last > 0 {
				spans = append(spans, span{rule: s.rule, start: start, end: places[last-1]})
			}
		}
	}
	return spans
}

// transformedKeyword is a keyword as it is in a reversed or rot13 text.
type transformedKeyword struct {
	rules     []int
	transform func(string) string
}

// transforms hide a text without changing its length. Each is its own inverse.
var transforms = []func(string) string{reversed, rot13}

func rot13(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch kindOf(c) {
		case 'l':
			b[i] = 'a' + (c-'a'+13)%26
		case 'u':
			b[i] = 'A' + (c-'A'+13)%26
		}
	}
	return string(b)
}

// transformed scans around a keyword that is reversed or in rot13. It records in seen how far it
// has scanned, by keyword.
func (r *run) transformed(text string, n, start, end int, seen map[int]int) (spans []span) {
	if seen[n] >= end+maxInterleaved {
		return nil
	}
	from, to := max(0, start-2*maxInterleaved), min(len(text), end+2*maxInterleaved)
	m := r.rules.transformed[n]
	plain := ""
	for _, i := range m.rules {
		b := r.rules.rules[i].body()
		if b.relaxed == nil || r.windowOf(i, joined) == nil {
			continue
		}
		if plain == "" {
			plain = m.transform(text[from:to])
		}
		expression := b.relaxed.compiled().regex
		if b.relaxed.compiled().likelyByChance {
			expression = b.regex
		}
		for _, s := range r.matches(expression, plain, i, pieced) {
			if m.transform("ab") == "ba" {
				s.start, s.end = len(plain)-s.end, len(plain)-s.start
			}
			spans = append(spans, span{rule: s.rule, start: from + s.start, end: from + s.end})
		}
	}
	if plain != "" {
		seen[n] = to
	}
	return spans
}
