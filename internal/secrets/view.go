package secrets

import (
	"math"
	"sort"
)

// view is a text derived from another one (decoded, joined, reversed) with a map back to it.
type view struct {
	text  string
	parts []part // in order of their starts
	// preciseOnly says that unrelated things may be adjacent in the text: only precise rules and
	// known values are looked for.
	preciseOnly bool
	// joined says that each part has been scanned by itself: a finding within one part is not new.
	joined bool
}

// part is a piece of a view: [start,end) of the view was made of [from,to) of its source. Where
// each byte was made of step bytes, positions inside can be mapped exactly; where step is 0 or
// continued, only the whole piece can, because it was decoded.
type part struct{ start, end, from, to, step int }

// continued is the step of a part that was decoded together with the one before it.
const continued = -1

// overlapping returns the parts that overlap a span.
func (v *view) overlapping(s span) []part {
	from := sort.Search(len(v.parts), func(i int) bool { return v.parts[i].end > s.start })
	to := sort.Search(len(v.parts), func(i int) bool { return v.parts[i].start >= s.end })
	return v.parts[min(from, to):to]
}

// isNew reports whether a span overlaps text that the view has changed; the rest was scanned
// before.
func (v *view) isNew(s span) bool {
	parts := v.overlapping(s)
	if v.joined {
		return len(parts) > 1
	}
	for _, p := range parts {
		if p.step != 1 {
			return true
		}
	}
	return false
}

// toSource maps a span to the source.
func (v *view) toSource(s span) span {
	from, to := math.MaxInt, 0
	decoded := s.decoded
	var parts []stretch
	for _, inner := range s.parts { // each by itself
		one := v.toSource(span{start: inner.start, end: inner.end})
		parts = append(parts, stretch{one.start, one.end})
	}
	for _, p := range v.overlapping(s) {
		decoded = decoded || p.step <= 0
		a, b := p.from, p.to
		if p.step > 0 {
			a += p.step * max(0, s.start-p.start)
			b = min(b, p.from+p.step*(s.end-p.start))
		}
		from, to = min(from, a), max(to, b)
		if v.joined && s.parts == nil {
			parts = append(parts, stretch{a, b})
		}
	}
	return span{parts: parts, rule: s.rule, member: s.member, start: min(from, to), end: to, decoded: decoded}
}

// viewBuilder makes a view of pieces.
type viewBuilder struct {
	source string
	out    []byte
	parts  []part
}

// copy appends [from,to) of the source.
func (w *viewBuilder) copy(from, to int) {
	if from < to {
		w.add(w.source[from:to], from, to, 1)
	}
}

// add appends text that replaces [from,to) of the source.
func (w *viewBuilder) add(text string, from, to, step int) {
	start := len(w.out)
	w.out = append(w.out, text...)
	w.parts = append(w.parts, part{start, len(w.out), from, to, step})
}

// separate appends a NUL, over which no rule matches.
func (w *viewBuilder) separate() {
	if len(w.out) > 0 {
		w.out = append(w.out, 0)
	}
}

func (w *viewBuilder) view() view { return view{text: string(w.out), parts: w.parts} }

// edit replaces [from,to) of a text with value. step is that of its part.
type edit struct {
	from, to int
	value    string
	step     int
}

// editor collects edits. Adjacent ones that each make one byte of the same number of bytes are
// merged: most escapes in a text that is escaped throughout.
type editor struct {
	edits []edit
	run   edit // not yet in edits; its value is in value
	value []byte
}

// add replaces n bytes at a position with value. Edits must be added in order.
func (e *editor) add(at, n int, value string) {
	if len(value) == 1 && n > 1 {
		if e.run.step != n || e.run.to != at {
			e.flush()
			e.run = edit{from: at, step: n}
		}
		e.run.to = at + n
		e.value = append(e.value, value[0])
		return
	}
	e.flush()
	e.edits = append(e.edits, edit{from: at, to: at + n, value: value})
}

func (e *editor) flush() {
	if len(e.value) > 0 {
		e.run.value = string(e.value)
		e.edits = append(e.edits, e.run)
	}
	e.run, e.value = edit{}, e.value[:0]
}

// all returns the edits.
func (e *editor) all() []edit {
	e.flush()
	return e.edits
}

const (
	// surroundings is how many bytes around something decoded are scanned together with it.
	surroundings = 96
	// maxRun is by how many more bytes that is extended, so that no run of encoded characters is
	// truncated.
	maxRun = 128
)

// input is a text to decode, and the view that it is; nil for the text that was given to the scan.
type input struct {
	text    string
	view    *view
	index   *byteIndex // of text
	partial bool       // text is part of a longer one, which is searched for compressed data as a whole
}

// isNew reports whether a position of the text, or a neighbour of it, was made by the view. Only
// decode regions this view produced. Re-decoding copied context would enumerate every subset of the
// encodings.
func (s input) isNew(from, to int) bool {
	return s.view == nil || s.view.isNew(span{start: from - 1, end: to + 1})
}

// applyEdits makes a view of the text in which those edits are made that are new. They must be in
// order. The view holds only these and their surroundings; there is none without any.
func (s input) applyEdits(edits []edit, loose bool) []view {
	kept := edits[:0]
	for i := 0; i < len(edits); {
		first := i
		for i++; i < len(edits) && edits[i].step == continued; i++ {
		}
		if s.isNew(edits[first].from, edits[i-1].to) {
			kept = append(kept, edits[first:i]...)
		}
	}
	if edits = kept; len(edits) == 0 {
		return nil
	}
	v := buildView(s.text, edits)
	v.preciseOnly = loose
	return []view{v}
}

// tokenMayStart reports whether a token may start at a position although a letter or digit precedes
// it: where pieces were joined, and near the start of decoded text, where the decoder may have
// produced garbage.
func (s input) tokenMayStart(at int) bool {
	if s.view == nil {
		return false
	}
	parts := s.view.overlapping(span{start: at, end: at + 1})
	return len(parts) == 1 && (s.view.joined && parts[0].start == at || parts[0].step == 0 && at-parts[0].start <= maxGarbage)
}

// maxGarbage is how many bytes of garbage may precede decoded text.
const maxGarbage = 8

func buildView(text string, edits []edit) view {
	w := viewBuilder{source: text}
	done := -1
	for i, e := range edits {
		if e.from < done {
			continue // overlaps the one before
		}
		if from := contextStart(text, e.from, max(done, 0)); from > done {
			w.separate()
			done = from
		}
		w.copy(done, e.from)
		w.add(e.value, e.from, e.to, e.step)
		end := contextEnd(text, e.to)
		if i+1 < len(edits) {
			end = min(end, max(e.to, edits[i+1].from))
		}
		w.copy(e.to, end)
		done = end
	}
	return w.view()
}

// contextStart returns where the surroundings of a position start, not before least.
func contextStart(text string, at, least int) int {
	from := max(least, at-surroundings)
	for least = max(least, from-maxRun); from > least && class[text[from-1]]&isB64 != 0; from-- {
	}
	return from
}

// contextEnd returns where the surroundings of a position end.
func contextEnd(text string, at int) int {
	to := min(len(text), at+surroundings)
	for most := min(len(text), to+maxRun); to < most && class[text[to]]&isB64 != 0; to++ {
	}
	return to
}
