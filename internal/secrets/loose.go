package secrets

import (
	"math/bits"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
)

// loose is a precise rule for texts in which anything may stand beside a match. It is made when it is first needed.
type loose struct {
	re       *syntax.Regexp
	rule     *syntax.Regexp // what else is looked for in the same places; nil: nothing
	chance   bool           // random text in an alphabet smaller than that of base64 often has a match
	keywords []string

	once  sync.Once
	ready looseBody
}

type looseBody struct {
	reach *reach
	regex *regexp.Regexp
	// likely says that any long run of base64 may have a match somewhere: it counts where something may begin.
	likely bool
}

const (
	// minPrecise is the shortest secret whose rule is precise, in characters, if it begins with a keyword; a keyword elsewhere must be long.
	minPrecise     = 18
	minInner       = 8
	maxPreciseLoop = 4
)

// loosen returns nil for a rule that is not precise.
func (b *body) loosen(expression string, keywords []string) *loose {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil || b.everything() || b.tail != nil || b.right.loops > maxPreciseLoop || shortest(re) < minPrecise {
		return nil
	}
	if b.head == nil && slices.ContainsFunc(keywords, func(k string) bool { return len(k) < minInner }) {
		return nil
	}
	return &loose{re: relaxed(re), keywords: keywords}
}

// patterns are the shapes of tokens whose rule has more in its expression, by rule: what its expression must hold, and the shape; an empty one
// says that the rule has none.
var patterns = map[string]struct{ of, shape string }{
	awsRule: {"AKIA", `(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}|(?:akia|asia|abia|acca)[a-z2-7]{16}`},
	// Its name must begin with a lower case letter or a digit; before it, there is a border in the rule.
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

// shapeOf returns the shape of a rule's tokens, or nil for a rule that knows a secret by a name or by its surroundings.
func shapeOf(id, expression string, keywords []string) *loose {
	re, err := syntax.Parse(expression, syntax.Perl)
	if p, ok := patterns[id]; ok && strings.Contains(expression, p.of) {
		shape, bad := syntax.Parse(p.shape, syntax.Perl)
		if p.shape == "" || err != nil || bad != nil {
			return nil
		}
		return &loose{re: shape, rule: relaxed(re), chance: id == awsRule, keywords: keywords} // base32 has its alphabet
	}
	if err != nil || strings.Contains(expression, nameBefore) || shortest(re) < minPrecise {
		return nil
	}
	return &loose{re: relaxed(re), keywords: keywords}
}

// unbordered is the rule's expression for a match that may have anything beside it, or nil.
func (b *body) unbordered(how manner) *loose {
	if how == joined || b.shape == nil && how == decoded {
		return b.loose
	}
	return b.shape
}

func (l *loose) made() looseBody {
	l.once.Do(func() {
		text := l.re.String()
		all := text
		if l.rule != nil {
			all = "(?:" + l.rule.String() + "|" + text + ")"
		}
		reach := reachOf(all, l.keywords)
		l.ready = looseBody{&reach, regexp.MustCompile(text), l.likely()}
	})
	return l.ready
}

// How unlikely a match in random base64 must be, as a power of two: with a keyword that base64 itself cannot have, and without.
const (
	markedBits = 25
	minBits    = 34
)

func (l *loose) likely() bool {
	bits := bitsOf(l.re)
	plain := slices.ContainsFunc(l.keywords, func(k string) bool { return !strings.ContainsAny(k, "_-.") })
	return l.chance || bits < markedBits || plain && bits < minBits
}

// dense tells whether a text changes between lower case, upper case and digits as often as random text does, and prose or source code without what
// stands between its words does not. What is in all tokens of a kind, at their beginning, does not count.
func dense(secret string) bool {
	if strings.Contains(secret, "PRIVATE KEY") {
		return true
	}
	secret = secret[min(len(secret), minMark):]
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

// minLetters is how many letters in both cases are enough to ask for fewer changes: no words are so long without anything between them.
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
	// minMark is the shortest keyword that is looked for in disguise.
	minMark = 4
	// leastSpreads bounds the keywords of one Scan after which a spread token is looked for; a long text has one more for every bytesPerTry.
	leastSpreads = 8 << 10
	// maxSpread is over how many bytes a token may be spread.
	maxSpread = 1 << 10
)

// maxBetweens is how many different bytes may stand between the characters of a token. In something binary, there are letters and digits enough for any.
const maxBetweens = 16

func count(set [4]uint64) (n int) {
	for _, w := range set {
		n += bits.OnesCount64(w)
	}
	return n
}

// spread looks for a token behind its keyword, with anything between its characters.
func (r *run) spread(text string, i, start, end int) (spans []span) {
	b := r.rules.rules[i].body()
	if b.loose == nil || b.head == nil || end-start < minMark {
		return nil
	}
	made := b.loose.made()
	if made.likely && r.rules.rules[i].id != awsRule { // there is a hash or an id of four such letters sooner or later, and something behind it
		return nil
	}
	if r.rules.rules[i].id == awsRule && end < len(text) && isWord(text, end) { // the name of something that has these letters in it
		return nil
	}
	if made.reach.head.begins(text[start:]) { // nothing stands in between; what stands behind it is not what the rule wants
		return nil
	}
	if r.spreads--; r.spreads < 0 { // no text has so many keywords without what belongs to them
		r.nested = true
		return nil
	}
	for _, keep := range []string{"-_", "_"} {
		token := []byte(text[start:end])
		var places []int
		var between [4]uint64 // which bytes
		for at := end; at < min(len(text), end+maxSpread) && len(places) < made.reach.right.bounded && count(between) <= maxBetweens; at++ {
			if kindOf(text[at]) != 0 || strings.IndexByte(keep, text[at]) >= 0 {
				token = append(token, text[at])
				places = append(places, at+1)
			} else {
				between[text[at]>>6] |= 1 << (text[at] & 63)
			}
		}
		if len(token) == end-start || !made.reach.head.begins(string(token)) {
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

// mirror is a keyword turned round.
type mirror struct {
	rules []int
	turn  func(string) string
}

// turns are disguises of a text as long as itself. Each undoes itself.
var turns = []func(string) string{reversed, rot13}

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

// turned looks around a keyword that is turned round. It notes in seen up to where it has, by keyword.
func (r *run) turned(text string, n, start, end int, seen map[int]int) (spans []span) {
	if seen[n] >= end+maxSpread {
		return nil
	}
	from, to := max(0, start-2*maxSpread), min(len(text), end+2*maxSpread)
	m := r.rules.mirror[n]
	plain := ""
	for _, i := range m.rules {
		b := r.rules.rules[i].body()
		if b.loose == nil || r.reach(i, joined) == nil {
			continue
		}
		if plain == "" {
			plain = m.turn(text[from:to])
		}
		expression := b.loose.made().regex
		if b.loose.made().likely {
			expression = b.regex
		}
		for _, s := range r.matches(expression, plain, i, pieced) {
			if m.turn("ab") == "ba" {
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
