package secrets

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// ErrNested says that data is encoded in more layers, or in more ways, than are undone; such data
// was not fully seen.
var ErrNested = errors.New("encoded in more layers than are undone")

const (
	// longest is the longest secret that is sure to be seen whole (an RSA-4096 key in PEM has 3.2
	// KB), in bytes.
	longest = 8 << 10
	// maxWindow bounds how far from a keyword an expression without end looks.
	maxWindow = 32 << 10
	// minWord is the shortest keyword that says something in a text that was joined.
	minWord = 3
	// decodeDepth is how many encodings laid over each other are undone.
	decodeDepth = 8
	// viewFactor bounds what all that is made of a text may come to, as a multiple of its length; a
	// short text has more, leastUnfold bytes.
	viewFactor    = 40
	minViewBudget = 1 << 20
)

// run is the state of one Scan.
type run struct {
	ctx             context.Context
	scanner         *Scanner
	rules           *ruleset
	path            string
	budget          int64             // bytes that may still be inflated
	viewBudget      int               // bytes that may still be made of it
	nested          bool              // there was more to undo
	chargesLeft     int               // what may still be charged for opening compressed data
	open            bool              // it ends inside something compressed
	seenViews       map[uint64]bool   // hashes of the views that were scanned, and whether with precise rules only
	interleavedLeft int               // how many more keywords are checked for an interleaved token
	opened          map[uint64]opened // decoded blocks in which compressed data was looked for

	reserved  bool        // see reserve
	caching   bool        // see uncacheable
	cleanKeys [][2]uint64 // keys of encoded blocks that hold nothing compressed with a finding
}

// scan scans data, and its content when it is an archive.
func (r *run) scan(data []byte, archives int) ([]span, error) {
	look, remembered := r.scanWhole, r.usesCache(len(data))
	if remembered {
		look = r.scanNew
	}
	defer func(before bool) { r.caching = before }(r.caching)
	r.caching = remembered
	// The caller does not change data during the scan, after which nothing refers to it: no copy is
	// needed.
	spans, err := look(unsafe.String(unsafe.SliceData(data), len(data)), archives)
	if err != nil {
		return nil, err
	}
	for i, rule := range r.rules.rules {
		if rule.pathOnly && r.wantsPath(i) {
			spans = append(spans, span{rule: rule.id, end: len(data)})
		}
	}
	inside, err := r.archive(data, archives)
	if err != nil {
		return nil, err
	}
	for _, in := range inside {
		spans = append(spans, span{rule: in.rule, member: in.member, end: len(data), decoded: true})
	}
	return clip(spans, len(data)), nil
}

func clip(spans []span, size int) []span {
	for i := range spans {
		spans[i].end = min(spans[i].end, size)
		spans[i].start = min(spans[i].start, spans[i].end)
	}
	return spans
}

// wantsPath reports whether rule i may run at this path.
func (r *run) wantsPath(i int) bool {
	rule := &r.rules.rules[i]
	return rule.pathed && r.path != "" && rule.body().path.MatchString(r.path)
}

// scanMode says how a text is scanned.
type scanMode int

const (
	asWritten scanMode = iota
	// decoded text may have anything at its borders: precise rules do without what they want to see
	// around a match.
	decoded
	// joined text may have things side by side that do not belong together: only precise rules
	// count.
	joined
)

// scanView runs the rules over a text, then over all views that can be decoded from it.
func (r *run) scanView(s input, depth, archives int, how scanMode) ([]span, error) {
	text := s.text
	spans, err := r.applyRules(s, how)
	if err != nil {
		return nil, err
	}
	s.index = newByteIndex(text)
	runs := s.index.runs(ofB64, minRun)
	views := decodedViews(s, runs)
	var packed []span
	if !s.partial {
		packed, err = r.packed(s, runs, archives)
	}
	if r.caching {
		spans = append(spans, s.uncacheable(runs)...)
	}
	s.index.release()
	if err != nil {
		return nil, err
	}
	if depth == 0 {
		r.nested = r.nested || slices.ContainsFunc(views, looksEncoded)
		views = nil
	}
	found, err := r.scanViews(views, len(text), depth, archives, how)
	return append(withoutRunOn(append(spans, found...)), packed...), err
}

// maxCompared bounds how often two findings are compared.
const maxCompared = 1 << 20

// withoutRunOn drops the findings in pieces of which one piece has the finding by itself: an
// expression without a fixed end, and the groups of an encoding, run on into what was joined to
// them.
func withoutRunOn(spans []span) []span {
	var whole []span
	for _, s := range spans {
		if s.parts == nil {
			whole = append(whole, s)
		}
	}
	if len(whole) == 0 || len(whole) == len(spans) || len(whole)*(len(spans)-len(whole)) > maxCompared {
		return spans
	}
	return slices.DeleteFunc(spans, func(s span) bool {
		return slices.ContainsFunc(s.parts, func(p stretch) bool {
			return slices.ContainsFunc(whole, func(a span) bool {
				return a.rule == s.rule && a.start >= p.start && a.start < p.end && a.end <= p.end+1
			})
		})
	})
}

// scanWhole scans all of the given text.
func (r *run) scanWhole(text string, archives int) ([]span, error) {
	if len(text) <= maxWritten {
		return r.scanPart(text, 0, len(text), archives)
	}
	whole := input{text: text, index: newByteIndex(text)}
	spans, err := r.packed(whole, whole.index.runs(ofB64, minRun), archives)
	whole.index.release()
	if err != nil {
		return nil, err
	}
	found, err := r.scanParts(text, 0, len(text), archives)
	return append(spans, found...), err
}

const (
	// maxWritten is how much of a text is looked at together, in bytes: what is made of it takes up
	// to forty times as much room.
	maxWritten = 2 << 20
	// maxSpans is after how many places a look ends. One would be enough to refuse a text.
	maxSpans = 4096
)

// scanParts scans [from,to) of a text and its surroundings, piece by piece where it is long.
func (r *run) scanParts(text string, from, to, archives int) (spans []span, err error) {
	for first := true; first || from < to && len(spans) < maxSpans; first = false {
		end := min(to, from+maxWritten)
		found, err := r.scanPart(text, from, end, archives)
		if err != nil {
			return nil, err
		}
		spans, from = append(spans, found...), end
	}
	return spans, nil
}

// scanPart looks at a part of a text and its surroundings. A span that begins after the part, or
// that touches the start of the surroundings, is left to the neighbours, which see all of it: cut
// off, it could look like something else. A span of decoded text is kept in any case, because it
// encloses the whole encoded run, which touches the edges when the run is long. Compressed data is
// looked for by the caller, in the whole text, unless the part is the whole text.
func (r *run) scanPart(text string, from, to, archives int) (spans []span, err error) {
	start, end := max(0, from-longest), min(len(text), to+longest)
	before := r.open
	whole := start == 0 && end == len(text)
	found, err := r.scanView(input{text: text[start:end], partial: !whole}, decodeDepth, archives, asWritten)
	if end < len(text) {
		r.open = before
	}
	for _, s := range found {
		s.start, s.end = s.start+start, s.end+start
		for i := range s.parts {
			s.parts[i] = stretch{s.parts[i].start + start, s.parts[i].end + start}
		}
		if s.decoded || (start == 0 || s.start >= start+margin) && (end == len(text) || s.end <= end-margin || s.start < to) {
			spans = append(spans, s)
		}
	}
	return spans, err
}

// scanViews scans the views of a text of that size, and returns what is new in them, by its place
// in that text.
func (r *run) scanViews(views []view, size, depth, archives int, how scanMode) (spans []span, err error) {
	for i := range views {
		v := &views[i]
		if r.viewBudget -= len(v.text); r.viewBudget < 0 {
			r.nested = true
			return spans, nil
		}
		v.preciseOnly = v.preciseOnly || how == joined
		if !r.isFirst(v) {
			if r.caching && len(v.text) > longest {
				spans = append(spans, v.toSource(span{rule: uncacheable, start: 0, end: len(v.text)}))
			}
			continue
		}
		next := decoded
		if v.preciseOnly {
			next = joined
		}
		before := r.open
		found, err := r.scanView(input{text: v.text, view: v}, depth-1, archives, next)
		if err != nil {
			return nil, err
		}
		if last := len(v.parts) - 1; last < 0 || v.parts[last].to < size-maxPadding { // it ends where the view does, but the text goes on
			r.open = before
		}
		for _, s := range found {
			if v.isNew(s) {
				spans = append(spans, v.toSource(s))
			}
		}
	}
	return spans, nil
}

// decodedViews lists the views that can be decoded from a text.
func decodedViews(s input, runs []stretch) (views []view) {
	for _, undo := range []func(input) []view{unescape, narrow, unlist, rejoin, unfold, fold, unspace, spelled} {
		views = append(views, undo(s)...)
	}
	return append(views, unwrap(s, runs)...)
}

var seed = maphash.MakeSeed()

// isFirst reports whether a view has not been scanned before as thoroughly. Different decoders
// often give the same text.
func (r *run) isFirst(v *view) bool {
	h := maphash.String(seed, v.text)
	if preciseOnly, ok := r.seenViews[h]; ok && (v.preciseOnly || !preciseOnly) {
		return false
	}
	if r.seenViews == nil {
		r.seenViews = map[uint64]bool{}
	}
	r.seenViews[h] = v.preciseOnly
	return true
}

// looksEncoded reports whether decoded text looks random, and so is probably encoded again. A text
// that repeats itself decodes to something in any case.
func looksEncoded(v view) bool {
	return !v.preciseOnly && slices.ContainsFunc(v.parts, func(p part) bool {
		value := v.text[p.start:p.end]
		return p.step != 1 && len(value) >= minHex && runOnly(value) && entropy(value) > minRandom
	})
}

// minRandom is how many bits a character of an encoded text has at least.
const minRandom = 3.2

// runOnly reports whether a text is one run of encoded characters.
func runOnly(text string) bool {
	for i := range len(text) {
		if class[text[i]]&isB64 == 0 && text[i] != '=' && text[i] != '%' {
			return false
		}
	}
	return true
}

// applyRules looks for known values, and for rules near their keywords.
func (r *run) applyRules(in input, how scanMode) ([]span, error) {
	text := in.text
	spans := r.scanner.known.findAll(text)
	places := r.findKeywords(text, how, &spans)
	defer places.release()
	slices.Sort(places.rules)
	for _, i := range places.rules {
		for _, w := range places.of[i] {
			if err := r.ctx.Err(); err != nil {
				return nil, err
			}
			spans = append(spans, r.match(in, w, i, how)...)
		}
	}
	return spans, r.ctx.Err()
}

// ruleWindows holds, for each rule that must see part of a text, the windows that it must see. They
// do not overlap.
type ruleWindows struct {
	of      [][]stretch // by rule
	covered []int       // by rule: up to where
	rules   []int       // those that have any
}

var ruleWindowsPool = sync.Pool{New: func() any { return new(ruleWindows) }}

// release returns the memory to the pool.
func (p *ruleWindows) release() {
	for _, i := range p.rules {
		p.of[i], p.covered[i] = nil, 0
	}
	p.rules = p.rules[:0]
	ruleWindowsPool.Put(p)
}

func (p *ruleWindows) add(i int, s stretch) {
	if p.of[i] == nil {
		p.rules = append(p.rules, i)
	}
	p.of[i] = join(p.of[i], s)
}

// findKeywords finds the windows of a text by their keywords. Tokens that are interleaved or
// transformed are looked for at once and added to spans.
func (r *run) findKeywords(text string, how scanMode, spans *[]span) *ruleWindows {
	p := ruleWindowsPool.Get().(*ruleWindows)
	if n := len(r.rules.rules); len(p.of) < n {
		p.of, p.covered = make([][]stretch, n), make([]int, n)
	}
	for _, i := range r.rules.always {
		if how != joined && r.windowOf(i, how) != nil {
			p.add(i, stretch{0, len(text)})
		}
	}
	seen := map[int]int{}
	r.rules.words.each(text, func(word, start, end int) bool {
		if n := word - len(r.rules.byWord); n >= 0 {
			*spans = append(*spans, r.transformed(text, n, start, end, seen)...)
			return r.ctx.Err() == nil
		}
		for _, i := range r.rules.byWord[word] {
			reach := r.windowOf(i, how)
			if how == joined && end-start < minWord {
				continue
			}
			if reach == nil || end+reach.right.bounded <= p.covered[i] || reach.insideWord(text, start) {
				continue
			}
			if reach.ruledOut(text, start, end) {
				if how != joined { // of what was joined, half a token and the words after it could make one
					*spans = append(*spans, r.interleaved(text, i, start, end)...)
				}
				continue
			}
			s, covered := reach.around(text, start, end)
			p.add(i, s)
			p.covered[i] = covered
		}
		return r.ctx.Err() == nil
	})
	return p
}

// windowOf returns the match window of a rule for a text; nil: the rule does not apply.
func (r *run) windowOf(i int, how scanMode) *matchWindow {
	rule := &r.rules.rules[i]
	if rule.pathOnly || rule.pathed && !r.wantsPath(i) {
		return nil
	}
	b := rule.body()
	switch l := b.relaxedFor(how); {
	case l != nil:
		return l.compiled().window
	case how == joined:
		return nil
	default:
		return &b.matchWindow
	}
}

// stretch is a part of a text.
type stretch struct{ start, end int }

func (s stretch) size() int { return s.end - s.start }

// join adds a stretch, in one with those that it touches. Keywords come nearly in order of their
// starts.
func join(all []stretch, next stretch) []stretch {
	for len(all) > 0 && all[len(all)-1].end >= next.start {
		before := all[len(all)-1]
		next = stretch{min(next.start, before.start), max(next.end, before.end)}
		all = all[:len(all)-1]
	}
	return append(all, next)
}

// match runs one rule and drops what its entropy or allowlists excuse.
func (r *run) match(in input, w stretch, i int, how scanMode) []span {
	rule := r.rules.rules[i].body()
	var spans []span
	add := func(s span) {
		s.start, s.end = s.start+w.start, s.end+w.start
		if s.end == w.end && w.end < len(in.text) || s.start == w.start && w.start > 0 {
			return // the edge may have looked like a border to it; what has its keyword here ends before the edge: see margin
		}
		if isPublic(in.text, s) || r.rules.rules[i].named && in.view != nil && !in.view.isNew(span{start: s.start, end: s.secret + w.start}) {
			return // it is public, or only what ends it was made by the view
		}
		spans = append(spans, s)
	}
	if how != joined {
		for _, s := range r.matches(rule.regex, in.text[w.start:w.end], i, anyText) {
			add(s)
		}
	}
	if l := rule.relaxedFor(how); l != nil {
		made, loose := l.compiled(), shaped
		if how == joined {
			loose = pieced
		}
		for _, s := range r.matches(made.regex, in.text[w.start:w.end], i, loose) {
			at, end := s.start+w.start, s.end+w.start
			if made.likelyByChance && (isHash(in.text[at:end]) || isWord(in.text, at-1) && !in.tokenMayStart(at) && (how == joined || inRandomRun(in.text, at, end))) {
				continue
			}
			add(s)
		}
	}
	return spans
}

// isHash reports whether a text begins with so many hexadecimal digits that it is a hash or an
// identifier: random letters and digits do not.
func isHash(text string) bool {
	if len(text) > minHash {
		text = text[:minHash]
	}
	for i := range len(text) {
		if c := text[i]; unhex(c) > 15 && c != '-' {
			return false
		}
	}
	return true
}

// minHash is how many hexadecimal digits in a row are no random text of letters and digits.
const minHash = 24

// inRandomRun reports whether a match lies in so much base64 that a match in it is chance: a longer
// run, or lines of equal length.
func inRandomRun(text string, start, end int) bool {
	from, to := start, end
	for from > max(0, start-maxGlued-1) && class[text[from-1]]&isB64 != 0 {
		from--
	}
	for to < min(len(text), end+max(maxGlued+1, minHex)) && class[text[to]]&isB64 != 0 {
		to++
	}
	if to-from-(end-start) > maxGlued {
		return true
	}
	next := nextLine(text, to)
	return next >= 0 && to-from >= minHex && next+minHex <= len(text) && len(runsOf(text[next:next+minHex], isB64, minHex)) > 0
}

// maxGlued is how many characters of base64 may be directly before and after a token, together.
const maxGlued = 12

// isWord reports whether a position holds a word character, as \b defines it.
func isWord(text string, at int) bool { return at >= 0 && (kindOf(text[at]) != 0 || text[at] == '_') }

// matchFilter says how a match must look to count.
type matchFilter int

const (
	anyText matchFilter = iota // the expression decides
	shaped                     // as random text, in text that belongs together
	pieced                     // as random text, in text whose pieces may not belong together
)

func (r *run) matches(expression *regexp.Regexp, text string, i int, loose matchFilter) (spans []span) {
	id, rule := r.rules.rules[i].id, r.rules.rules[i].body()
	for _, at := range expression.FindAllStringSubmatchIndex(text, -1) {
		secret := secretOf(rule, text, at)
		if rule.entropy != 0 && entropy(secret) <= rule.entropy {
			continue
		}
		if r.isAllowed(rule, secret, text, at) || isFalsePositive(id, text[at[0]:at[1]], secret) {
			continue
		}
		if loose != anyText && !looksRandom(secret) && !(loose == shaped && id == awsRule && (strings.ToUpper(secret) == secret || strings.ContainsAny(secret, "234567"))) {
			continue // of AWS, base32 has few digits
		}
		spans = append(spans, span{rule: id, start: at[0], end: at[1], secret: at[0] + strings.Index(text[at[0]:at[1]], secret) + len(secret)})
	}
	return spans
}

// secretOf is the rule's group, or the first group that matched, or the whole match.
func secretOf(rule *body, text string, at []int) string {
	if g := rule.group; g > 0 && 2*g+1 < len(at) && at[2*g] >= 0 {
		return text[at[2*g]:at[2*g+1]]
	}
	for g := 2; g+1 < len(at) && rule.group == 0; g += 2 {
		if at[g+1] > at[g] {
			return text[at[g]:at[g+1]]
		}
	}
	return strings.Trim(text[at[0]:at[1]], "\n")
}

// isAllowed applies the allowlists. The global ones are for single words: inside a multi-line
// secret, a word on them may have been added to evade the scan.
func (r *run) isAllowed(rule *body, secret, text string, at []int) bool {
	match, line := text[at[0]:at[1]], lineAround(text, at)
	for i := range rule.allow {
		if rule.allow[i].allows(secret, match, line) {
			return true
		}
	}
	if strings.Contains(secret, "\n") {
		return false
	}
	for i := range r.rules.allow {
		if r.rules.allow[i].allows(secret, match, line) {
			return true
		}
	}
	return false
}

// entropy is Shannon's, in bits a character, as gitleaks counts it.
func entropy(s string) float64 {
	counts := map[rune]int{}
	for _, c := range s {
		counts[c]++
	}
	sum := 0.0
	for _, n := range counts {
		p := float64(n) / float64(len(s))
		sum -= p * math.Log2(p)
	}
	return sum
}
