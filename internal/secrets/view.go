package secrets

import (
	"math"
	"sort"
)

// view is a text made out of another one: decoded, joined, turned round.
type view struct {
	text  string
	parts []part // in order of their starts
	// loose says that things may stand side by side in it that do not belong together: only precise rules and known values are looked for.
	loose bool
	// joined says that each part has been seen by itself: what lies in one alone is nothing new.
	joined bool
}

// part is a piece of a view: [start,end) of it stands for [from,to) of the text before. Where each byte stands for step bytes, a place inside is
// known exactly; where step is 0 or continued, the piece is known as a whole only, because it was decoded.
type part struct{ start, end, from, to, step int }

// continued is the step of a part that was decoded together with the one before it.
const continued = -1

// touched are the parts that a span has to do with.
func (v *view) touched(s span) []part {
	from := sort.Search(len(v.parts), func(i int) bool { return v.parts[i].end > s.start })
	to := sort.Search(len(v.parts), func(i int) bool { return v.parts[i].start >= s.end })
	return v.parts[min(from, to):to]
}

// fresh tells whether a span has to do with what the view has made; the rest was seen before.
func (v *view) fresh(s span) bool {
	parts := v.touched(s)
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

// back maps a span to the text before.
func (v *view) back(s span) span {
	from, to := math.MaxInt, 0
	decoded := s.decoded
	var parts []stretch
	for _, inner := range s.parts { // each by itself
		one := v.back(span{start: inner.start, end: inner.end})
		parts = append(parts, stretch{one.start, one.end})
	}
	for _, p := range v.touched(s) {
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

// weaver makes a view of pieces.
type weaver struct {
	source string
	out    []byte
	parts  []part
}

// copy takes over [from,to) of the source.
func (w *weaver) copy(from, to int) {
	if from < to {
		w.add(w.source[from:to], from, to, 1)
	}
}

// add puts text in the place of [from,to).
func (w *weaver) add(text string, from, to, step int) {
	start := len(w.out)
	w.out = append(w.out, text...)
	w.parts = append(w.parts, part{start, len(w.out), from, to, step})
}

// cut parts what comes from what was: no rule reaches over a NUL.
func (w *weaver) cut() {
	if len(w.out) > 0 {
		w.out = append(w.out, 0)
	}
}

func (w *weaver) view() view { return view{text: string(w.out), parts: w.parts} }

// edit puts value in the place of [from,to) of a text. step is that of its part.
type edit struct {
	from, to int
	value    string
	step     int
}

// editor collects edits. Those that follow each other without a gap, and each make one byte of as many bytes, become one: most escapes of a text
// in which everything is escaped.
type editor struct {
	edits []edit
	run   edit // not yet in edits; its value is in value
	value []byte
}

// add puts value in the place of n bytes from at on. The edits come in order.
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
	// surroundings is how much of what stands around something decoded is looked at together with it, in bytes.
	surroundings = 96
	// maxRun is by how much that is extended so that no run of encoded characters is cut.
	maxRun = 128
)

// sight is a text to make views of, and the view that it is itself: nil for one that somebody sent.
type sight struct {
	text   string
	is     *view
	survey *survey // of text
	part   bool    // text is a part of what was sent: compressed data is looked for in the whole
}

// fresh tells whether a place of the text, or what it stands beside, was made by the view. What was only copied into it has been undone already,
// together with all that is near it; to undo it again, each time with something else left as it was, would never end.
func (s sight) fresh(from, to int) bool {
	return s.is == nil || s.is.fresh(span{start: from - 1, end: to + 1})
}

// weave makes a view of the text in which edits, which are in order, are carried out, as far as they are fresh. Only these and their surroundings
// are in it. There is none without any.
func (s sight) weave(edits []edit, loose bool) []view {
	kept := edits[:0]
	for i := 0; i < len(edits); {
		first := i
		for i++; i < len(edits) && edits[i].step == continued; i++ {
		}
		if s.fresh(edits[first].from, edits[i-1].to) {
			kept = append(kept, edits[first:i]...)
		}
	}
	if edits = kept; len(edits) == 0 {
		return nil
	}
	v := woven(s.text, edits)
	v.loose = loose
	return []view{v}
}

// starts tells whether something may begin at a place, although a letter or a digit stands before it: where pieces were joined, and near the
// beginning of what was decoded, before which anything may have come out.
func (s sight) starts(at int) bool {
	if s.is == nil {
		return false
	}
	parts := s.is.touched(span{start: at, end: at + 1})
	return len(parts) == 1 && (s.is.joined && parts[0].start == at || parts[0].step == 0 && at-parts[0].start <= maxGarbage)
}

// maxGarbage is how much nonsense may come out before what was encoded, in bytes.
const maxGarbage = 8

func woven(text string, edits []edit) view {
	w := weaver{source: text}
	done := -1
	for i, e := range edits {
		if e.from < done {
			continue // overlaps the one before
		}
		if from := before(text, e.from, max(done, 0)); from > done {
			w.cut()
			done = from
		}
		w.copy(done, e.from)
		w.add(e.value, e.from, e.to, e.step)
		end := after(text, e.to)
		if i+1 < len(edits) {
			end = min(end, max(e.to, edits[i+1].from))
		}
		w.copy(e.to, end)
		done = end
	}
	return w.view()
}

// before is where the surroundings of a place begin, not before least.
func before(text string, at, least int) int {
	from := max(least, at-surroundings)
	for least = max(least, from-maxRun); from > least && class[text[from-1]]&isB64 != 0; from-- {
	}
	return from
}

// after is where the surroundings of a place end.
func after(text string, at int) int {
	to := min(len(text), at+surroundings)
	for most := min(len(text), to+maxRun); to < most && class[text[to]]&isB64 != 0; to++ {
	}
	return to
}
