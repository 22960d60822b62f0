package secrets

import (
	"math"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// matchWindow tells how far from a keyword a match of an expression can extend. The zero value says
// that the expression must see the whole text, because a match need not contain a keyword.
type matchWindow struct {
	left, right extent
	loop        [256]bool // what endless repetitions can run over
	// A cheap test before the expression runs: what must start with a keyword, or follow it; nil:
	// not known.
	head, tail  *prefixDFA
	atWordStart bool // where there is a head: no word may end where it begins
}

// extent is how far a match can extend to one side of its keyword.
type extent struct {
	bounded int // bytes that everything but endless repetitions can match
	loops   int // how many of these there are
}

// ruledOut reports whether no match can have this keyword at this position.
func (r *matchWindow) ruledOut(text string, start, end int) bool {
	return r.head != nil && !r.head.mayMatch(text[start:]) || r.tail != nil && !r.tail.mayMatch(text[end:])
}

// insideWord reports whether a keyword is inside a word, where no match starts.
func (r *matchWindow) insideWord(text string, start int) bool {
	return r.atWordStart && isWord(text, start-1)
}

// beginsAtBoundary reports whether an expression begins at a word boundary.
func beginsAtBoundary(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpWordBoundary:
		return true
	case syntax.OpConcat, syntax.OpCapture:
		return beginsAtBoundary(re.Sub[0])
	}
	return false
}

// maxLoops is how many unbounded repetitions are followed.
const maxLoops = 8

// matchWindowOf analyses an expression.
func matchWindowOf(expression string, keywords []string) matchWindow {
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil || !requiresKeyword(re, keywords) {
		return matchWindow{}
	}
	var r matchWindow
	all := r.measure(re)
	if all.loops > maxLoops || all.bounded > longest {
		return matchWindow{}
	}
	r.left, r.right = all, all
	if r.head = headDFA(re, keywords); r.head != nil {
		r.left, r.atWordStart = extent{}, beginsAtBoundary(re)
	} else if i := keywordIn(re, keywords); i >= 0 {
		r.tail = tailDFA(re.Sub[i+1:])
		r.left, r.right = r.measureRow(re.Sub[:i+1]), r.measureRow(re.Sub[i+1:])
	}
	r.left.bounded += margin // so that no match that counts touches the edge
	r.right.bounded += margin
	return r
}

// margin is how many bytes more than a match are scanned, on each side.
const margin = 8

// seesAll reports whether the expression must see the whole text.
func (r *matchWindow) seesAll() bool { return r.right.bounded == 0 }

// around returns the window of text that holds every match that contains the keyword
// text[start:end]. A later keyword that ends before covered-r.right.bounded would give nothing
// more: the same run of characters would extend it to the same end.
func (r *matchWindow) around(text string, start, end int) (s stretch, covered int) {
	least, most := max(0, start-maxWindow), min(len(text), end+maxWindow)
	last := most - longest // from there on, a match may need to see more
	if most == len(text) {
		last = most + r.right.bounded
	}
	if r.seesAll() {
		return stretch{least, most}, last
	}
	start -= r.left.bounded
	for range r.left.loops {
		for start > least && r.loop[text[start-1]] {
			start--
		}
		start -= r.left.bounded
	}
	end += r.right.bounded
	covered = end
	for i := range r.right.loops {
		for end < most && r.loop[text[end]] {
			end++
		}
		if i == 0 {
			covered = end
		}
		end += r.right.bounded
	}
	return stretch{max(least, start), min(most, end)}, min(covered, last)
}

// measure adds up the longest match, in bytes, and collects what endless repetitions may run over.
func (r *matchWindow) measure(re *syntax.Regexp) (s extent) {
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			s.bounded += utf8.RuneLen(c)
		}
		return s
	case syntax.OpCharClass:
		return extent{bounded: maxRuneBytes(re.Rune)}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return extent{bounded: utf8.UTFMax}
	case syntax.OpStar, syntax.OpPlus:
		return r.unboundedRepeat(re.Sub[0])
	case syntax.OpRepeat:
		if re.Max < 0 {
			s = r.unboundedRepeat(re.Sub[0])
			s.bounded = re.Min * r.measure(re.Sub[0]).bounded
			return s
		}
		s = r.measure(re.Sub[0])
		return extent{s.bounded * re.Max, s.loops * re.Max}
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			one := r.measure(sub)
			s = extent{max(s.bounded, one.bounded), max(s.loops, one.loops)}
		}
		return s
	}
	return r.measureRow(re.Sub)
}

func (r *matchWindow) measureRow(subs []*syntax.Regexp) (s extent) {
	for _, sub := range subs {
		one := r.measure(sub)
		s = extent{s.bounded + one.bounded, s.loops + one.loops}
	}
	return s
}

// unboundedRepeat records every byte that a repetition without an upper limit can match.
func (r *matchWindow) unboundedRepeat(re *syntax.Regexp) extent {
	r.collect(re)
	return extent{loops: 1}
}

func (r *matchWindow) collect(re *syntax.Regexp) {
	switch re.Op {
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			r.add(re.Rune[i], re.Rune[i+1])
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		r.add(0, utf8.MaxRune)
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			r.add(unicode.ToLower(c), unicode.ToLower(c))
			r.add(unicode.ToUpper(c), unicode.ToUpper(c))
		}
	}
	for _, sub := range re.Sub {
		r.collect(sub)
	}
}

// add marks the bytes of a range of characters; of those beyond ASCII, every byte.
func (r *matchWindow) add(from, to rune) {
	for c := from; c <= min(to, 0x7f); c++ {
		r.loop[c] = true
	}
	for c := 0x80; c < 256 && to > 0x7f; c++ {
		r.loop[c] = true
	}
}

// maxRuneBytes is how many bytes a character of the class may take. The long s and the Kelvin sign,
// which case folding adds to every class of letters, do not count: no secret is made of them.
func maxRuneBytes(ranges []rune) int {
	for i := 0; i+1 < len(ranges); i += 2 {
		if c := ranges[i+1]; c >= 0x80 && c != '\u017f' && c != '\u212a' {
			return 4
		}
	}
	return 1
}

// headDFA returns the DFA of an expression of which every match begins with a keyword, otherwise
// nil.
func headDFA(re *syntax.Regexp, keywords []string) *prefixDFA {
	if !beginsWithKeyword(re, keywords) {
		return nil
	}
	return prefixDFAOf(re)
}

// beginsWithKeyword reports whether every match begins with a keyword whose first byte is a word
// character: a \b before it then holds at the start of a text whenever it holds inside one.
func beginsWithKeyword(re *syntax.Regexp, keywords []string) bool {
	if words, ok := spell(re); ok {
		return len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return !startsWith(w, keywords) })
	}
	switch re.Op {
	case syntax.OpCapture, syntax.OpPlus:
		return beginsWithKeyword(re.Sub[0], keywords)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(s *syntax.Regexp) bool { return !beginsWithKeyword(s, keywords) })
	case syntax.OpConcat:
		return rowBeginsWithKeyword(re.Sub, keywords)
	}
	return false
}

// rowBeginsWithKeyword checks the first part, and as many following ones as can be spelled out
// together with it.
func rowBeginsWithKeyword(subs []*syntax.Regexp, keywords []string) bool {
	for len(subs) > 0 && subs[0].Op == syntax.OpWordBoundary {
		subs = subs[1:]
	}
	if len(subs) == 0 {
		return false
	}
	for i := 1; i <= len(subs); i++ {
		words, ok := spellRow(subs[:i])
		if !ok {
			break
		}
		if !slices.ContainsFunc(words, func(w string) bool { return !startsWith(w, keywords) }) {
			return true
		}
	}
	return beginsWithKeyword(subs[0], keywords)
}

func startsWith(word string, keywords []string) bool {
	return slices.ContainsFunc(keywords, func(k string) bool {
		return k != "" && class[k[0]]&isB64 != 0 && !strings.ContainsRune("+-/", rune(k[0])) && strings.HasPrefix(word, strings.ToLower(k))
	})
}

// keywordIn returns the index of the part of a concatenation that is a keyword in every match, or
// ends in one; -1 when the expression does not have that form.
func keywordIn(re *syntax.Regexp, keywords []string) int {
	if re.Op != syntax.OpConcat {
		return -1
	}
	return slices.IndexFunc(re.Sub, func(sub *syntax.Regexp) bool {
		words, ok := spell(sub)
		return ok && len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return !endsIn(w, keywords) })
	})
}

// tailDFA returns the DFA of what must follow the end of a keyword; nil when that may depend on the
// text before.
func tailDFA(rest []*syntax.Regexp) *prefixDFA {
	re := &syntax.Regexp{Op: syntax.OpConcat, Sub: rest}
	if looksBack(re) {
		return nil
	}
	return prefixDFAOf(re)
}

// looksBack reports whether an expression may depend on the text before it.
func looksBack(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpWordBoundary, syntax.OpNoWordBoundary, syntax.OpBeginLine, syntax.OpBeginText:
		return true
	}
	return slices.ContainsFunc(re.Sub, looksBack)
}

func endsIn(word string, keywords []string) bool {
	return slices.ContainsFunc(keywords, func(k string) bool { return strings.HasSuffix(word, strings.ToLower(k)) })
}

// requiresKeyword reports whether every match must contain a keyword.
func requiresKeyword(re *syntax.Regexp, keywords []string) bool {
	if words, ok := spell(re); ok {
		return len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return !containsAny(w, keywords) })
	}
	switch re.Op {
	case syntax.OpCapture, syntax.OpPlus:
		return requiresKeyword(re.Sub[0], keywords)
	case syntax.OpRepeat:
		return re.Min > 0 && requiresKeyword(re.Sub[0], keywords)
	case syntax.OpAlternate:
		return !slices.ContainsFunc(re.Sub, func(s *syntax.Regexp) bool { return !requiresKeyword(s, keywords) })
	case syntax.OpConcat:
		return concatRequiresKeyword(re.Sub, keywords)
	}
	return false
}

// concatRequiresKeyword checks every row of parts that can be spelled out, and each part by itself.
func concatRequiresKeyword(subs []*syntax.Regexp, keywords []string) bool {
	for i := range subs {
		if requiresKeyword(subs[i], keywords) {
			return true
		}
		for j := i + 2; j <= len(subs); j++ {
			row := &syntax.Regexp{Op: syntax.OpConcat, Sub: subs[i:j]}
			words, ok := spell(row)
			if !ok {
				break
			}
			if !slices.ContainsFunc(words, func(w string) bool { return !containsAny(w, keywords) }) {
				return true
			}
		}
	}
	return false
}

func containsAny(word string, keywords []string) bool {
	return slices.ContainsFunc(keywords, func(k string) bool { return strings.Contains(word, strings.ToLower(k)) })
}

// maxSpelled bounds the words that an expression is spelled out into.
const maxSpelled = 2048

// spell lists everything that an expression can match, in lower case; ok is false when that is too
// much.
func spell(re *syntax.Regexp) (words []string, ok bool) {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpWordBoundary, syntax.OpNoWordBoundary, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText:
		return []string{""}, true
	case syntax.OpLiteral:
		return []string{strings.ToLower(string(re.Rune))}, true
	case syntax.OpCharClass:
		return spellClass(re.Rune)
	case syntax.OpCapture:
		return spell(re.Sub[0])
	case syntax.OpQuest:
		words, ok = spell(re.Sub[0])
		return append(words, ""), ok
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			more, ok := spell(sub)
			if words = append(words, more...); !ok || len(words) > maxSpelled {
				return nil, false
			}
		}
		return words, true
	case syntax.OpConcat:
		return spellRow(re.Sub)
	}
	return nil, false
}

func spellClass(ranges []rune) (words []string, ok bool) {
	for i := 0; i+1 < len(ranges); i += 2 {
		for c := ranges[i]; c <= ranges[i+1]; c++ {
			if words = append(words, strings.ToLower(string(c))); len(words) > 64 {
				return nil, false
			}
		}
	}
	return words, true
}

func spellRow(subs []*syntax.Regexp) (words []string, ok bool) {
	words = []string{""}
	for _, sub := range subs {
		tails, ok := spell(sub)
		if !ok || len(words)*len(tails) > maxSpelled {
			return nil, false
		}
		var next []string
		for _, w := range words {
			for _, tail := range tails {
				next = append(next, w+tail)
			}
		}
		words = next
	}
	return words, true
}

// minMatchLen is the length of the shortest match, in characters.
func minMatchLen(re *syntax.Regexp) int {
	n := 0
	switch re.Op {
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1
	case syntax.OpStar, syntax.OpQuest:
		return 0
	case syntax.OpRepeat:
		return re.Min * minMatchLen(re.Sub[0])
	case syntax.OpAlternate:
		n = minMatchLen(re.Sub[0])
		for _, sub := range re.Sub[1:] {
			n = min(n, minMatchLen(sub))
		}
		return n
	}
	for _, sub := range re.Sub {
		n += minMatchLen(sub)
	}
	return n
}

// withoutContext is an expression without the assertions and delimiters around a match: in a text
// whose parts were joined, anything may be adjacent.
func withoutContext(re *syntax.Regexp) *syntax.Regexp {
	re = withoutBoundaries(re)
	if re.Op != syntax.OpConcat {
		return re
	}
	subs := re.Sub
	for len(subs) > 1 && isEndAssertion(subs[len(subs)-1]) {
		subs = subs[:len(subs)-1]
	}
	return &syntax.Regexp{Op: syntax.OpConcat, Flags: re.Flags, Sub: subs}
}

// withoutBoundaries is an expression without its word boundaries.
func withoutBoundaries(re *syntax.Regexp) *syntax.Regexp {
	if re.Op == syntax.OpWordBoundary {
		return &syntax.Regexp{Op: syntax.OpEmptyMatch}
	}
	if len(re.Sub) == 0 {
		return re
	}
	copied := *re
	copied.Sub = nil
	for _, sub := range re.Sub {
		if sub = withoutBoundaries(sub); sub.Op != syntax.OpEmptyMatch || re.Op != syntax.OpConcat {
			copied.Sub = append(copied.Sub, sub)
		}
	}
	return &copied
}

// matchBits is how unlikely it is that random base64 matches, as a power of two.
func matchBits(re *syntax.Regexp) float64 {
	bits := 0.0
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			bits += 6
			if c >= 128 || class[c]&isB64 == 0 { // base64 has none
				bits += minBits
			}
		}
		return bits
	case syntax.OpCharClass:
		n := 0
		for c := range rune(128) {
			if class[c]&isB64 != 0 && c != '-' && c != '_' && in(re.Rune, c) {
				n++
			}
		}
		return math.Log2(64 / max(float64(n), 0.1))
	case syntax.OpStar, syntax.OpQuest:
		return 0
	case syntax.OpRepeat:
		return float64(re.Min) * matchBits(re.Sub[0])
	case syntax.OpAlternate:
		bits = matchBits(re.Sub[0])
		for _, sub := range re.Sub[1:] {
			bits = min(bits, matchBits(sub))
		}
		return bits
	}
	for _, sub := range re.Sub {
		bits += matchBits(sub)
	}
	return bits
}

func in(ranges []rune, c rune) bool {
	for i := 0; i+1 < len(ranges); i += 2 {
		if ranges[i] <= c && c <= ranges[i+1] {
			return true
		}
	}
	return false
}

// isEndAssertion reports whether an expression asserts the end of a word or a text.
func isEndAssertion(re *syntax.Regexp) bool {
	return re.Op == syntax.OpWordBoundary || re.Op == syntax.OpEndText || re.Op == syntax.OpEndLine ||
		minMatchLen(re) == 0 && slices.ContainsFunc(re.Sub, isEndAssertion)
}
