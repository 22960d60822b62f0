package secrets

import (
	"bytes"
	"context"
	"math"
	"slices"
	"strings"
	"sync"
)

const (
	// chunkSize is what one rule looks at at a time: small pieces keep the slow expressions away from most of the data.
	chunkSize = 32 << 10
	// overlap is the longest secret that is sure to be seen whole (an RSA-4096 key in PEM has 3.2 KB).
	overlap = 8 << 10
	// decodeDepth is how many encodings laid over each other are undone.
	decodeDepth = 5
)

// run is one Scan.
type run struct {
	ctx     context.Context
	scanner *Scanner
	rules   *ruleset
	path    string
	budget  int64 // bytes that may still be inflated

	reserved bool // see reserve
}

// scan looks at data itself, at the wide text in it, and at what it holds as an archive.
func (r *run) scan(data []byte, depth int) ([]span, error) {
	spans, err := r.text(data)
	if err != nil {
		return nil, err
	}
	for _, wide := range wideTexts(data) {
		inner, err := r.text(wide.text)
		if err != nil {
			return nil, err
		}
		for _, s := range inner {
			spans = append(spans, span{s.rule, wide.at(s.start), wide.at(s.end-1) + wide.stride})
		}
	}
	inside, err := r.archive(data, depth)
	if err != nil {
		return nil, err
	}
	for _, rule := range inside {
		spans = append(spans, span{rule, 0, len(data)})
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

// text looks for known values in the whole and for rules chunk by chunk.
func (r *run) text(data []byte) ([]span, error) {
	spans := r.scanner.known.findAll(data)
	for i, rule := range r.rules.rules {
		if rule.pathOnly && r.wantsPath(i) {
			spans = append(spans, span{rule.id, 0, len(data)})
		}
	}
	for start := 0; start < len(data); {
		end := cut(data, start)
		found, err := r.chunk(string(data[start:end]))
		if err != nil {
			return nil, err
		}
		for _, s := range found {
			spans = append(spans, span{s.rule, s.start + start, s.end + start})
		}
		if end == len(data) {
			break
		}
		start = resume(data, start, end)
	}
	return spans, nil
}

// wantsPath reports whether rule i may run at this path.
func (r *run) wantsPath(i int) bool {
	rule := &r.rules.rules[i]
	return rule.pathed && r.path != "" && rule.body().path.MatchString(r.path)
}

// cut returns where the chunk that starts at start ends: behind a line, else behind a word, else anywhere.
func cut(data []byte, start int) int {
	end := start + chunkSize
	if end >= len(data) {
		return len(data)
	}
	if i := bytes.LastIndexByte(data[end-overlap:end], '\n'); i >= 0 {
		return end - overlap + i + 1
	}
	if i := bytes.LastIndexFunc(data[end-overlap:end], notEncoded); i >= 0 {
		return end - overlap + i + 1
	}
	return end
}

// resume returns where the chunk after [start,end) begins. Inside a long run of encoded characters it keeps the distance to the
// run's begin a multiple of four, so that base64 stays in step.
func resume(data []byte, start, end int) int {
	next := end - overlap
	if i := bytes.IndexByte(data[next:end-overlap/2], '\n'); i >= 0 {
		return next + i + 1
	}
	if i := bytes.IndexFunc(data[next:end-overlap/2], notEncoded); i >= 0 {
		return next + i + 1
	}
	from := bytes.LastIndexFunc(data[start:next], notEncoded) + 1 + start
	return next - (next-from)%4
}

func notEncoded(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("+/-_=%\\", c))
}

// chunk runs the rules over text, then over what it decodes to.
func (r *run) chunk(text string) ([]span, error) {
	spans, err := r.pass(text)
	if err != nil {
		return nil, err
	}
	var layers []layer
	for range decodeDepth {
		before := len(layers)
		// Escapes first: they cut runs of base64 into pieces that decode to nonsense.
		for _, undo := range []func(string) (layer, bool){unescape, unwrap} {
			next, ok := undo(text)
			if !ok {
				continue
			}
			layers, text = append(layers, next), next.text
			found, err := r.decoded(layers)
			if err != nil {
				return nil, err
			}
			spans = append(spans, found...)
		}
		if len(layers) == before {
			break
		}
	}
	return spans, nil
}

// decoded runs the rules over the last layer and returns what has to do with what was decoded there.
func (r *run) decoded(layers []layer) ([]span, error) {
	last := layers[len(layers)-1]
	found, err := r.pass(last.text)
	if err != nil {
		return nil, err
	}
	var spans []span
	for _, s := range append(found, r.scanner.known.findAll([]byte(last.text))...) {
		if last.touches(s) {
			spans = append(spans, original(s, layers))
		}
	}
	return spans, nil
}

// original maps a span back through every layer.
func original(s span, layers []layer) span {
	for _, l := range slices.Backward(layers) {
		s = l.back(s)
	}
	return s
}

// pass runs every rule near its keywords.
func (r *run) pass(text string) ([]span, error) {
	places := r.places(text)
	defer places.release()
	var spans []span
	slices.Sort(places.rules)
	for _, i := range places.rules {
		for _, w := range places.of[i] {
			if err := r.ctx.Err(); err != nil {
				return nil, err
			}
			for _, s := range r.match(text[w.start:w.end], i) {
				spans = append(spans, span{s.rule, s.start + w.start, s.end + w.start})
			}
		}
	}
	return spans, r.ctx.Err()
}

// places are, for each rule that must look at a text, the stretches that it
// must see. They do not overlap.
type places struct {
	of      [][]stretch // by rule
	covered []int       // by rule: up to where
	rules   []int       // those that have any
}

var spare = sync.Pool{New: func() any { return new(places) }}

// release makes room for the next text.
func (p *places) release() {
	for _, i := range p.rules {
		p.of[i], p.covered[i] = nil, 0
	}
	p.rules = p.rules[:0]
	spare.Put(p)
}

func (p *places) add(i int, s stretch) {
	if p.of[i] == nil {
		p.rules = append(p.rules, i)
	}
	p.of[i] = join(p.of[i], s)
}

func (r *run) places(text string) *places {
	p := spare.Get().(*places)
	if n := len(r.rules.rules); len(p.of) < n {
		p.of, p.covered = make([][]stretch, n), make([]int, n)
	}
	for _, i := range r.rules.always {
		p.add(i, stretch{0, len(text)})
	}
	r.rules.words.each(text, func(word, start, end int) bool {
		for _, i := range r.rules.byWord[word] {
			reach := &r.rules.rules[i].body().reach
			if end+reach.bounded <= p.covered[i] || reach.excluded(text, start, end) {
				continue
			}
			s, covered := reach.around(text, start, end)
			p.add(i, s)
			p.covered[i] = covered
		}
		return r.ctx.Err() == nil
	})
	for _, i := range p.rules {
		if rule := &r.rules.rules[i]; rule.pathOnly || rule.pathed && !r.wantsPath(i) {
			p.of[i] = p.of[i][:0]
		}
	}
	return p
}

// stretch is a part of a text.
type stretch struct{ start, end int }

// join adds a stretch, in one with those that it touches. Keywords come in order of their ends.
func join(all []stretch, next stretch) []stretch {
	for len(all) > 0 && all[len(all)-1].end >= next.start {
		before := all[len(all)-1]
		next = stretch{min(next.start, before.start), max(next.end, before.end)}
		all = all[:len(all)-1]
	}
	return append(all, next)
}

// match runs one rule and drops what its entropy or allowlists excuse.
func (r *run) match(text string, i int) []span {
	id, rule := r.rules.rules[i].id, r.rules.rules[i].body()
	var spans []span
	for _, at := range rule.regex.FindAllStringSubmatchIndex(text, -1) {
		secret := secretOf(rule, text, at)
		if rule.entropy != 0 && entropy(secret) <= rule.entropy {
			continue
		}
		if r.excused(rule, secret, text, at) || id == genericRule && harmless(text[at[0]:at[1]], secret) {
			continue
		}
		spans = append(spans, span{id, at[0], at[1]})
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

// excused asks the allowlists. The global ones are for single words: inside a multi-line secret, a word that they
// excuse may have been put there for that purpose.
func (r *run) excused(rule *body, secret, text string, at []int) bool {
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
