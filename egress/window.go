package egress

import "slices"

// window is where a search stands in a flow of bytes: in a state of the automaton,
// and in the bytes that the state stands for. Line ends inside a form do not break it,
// as encoders wrap base64 (RFC 2045 §6.8, RFC 7468): neither CR and LF nor the escapes
// of JSON for them.
type window struct {
	state   int32
	gone    int32 // bytes of the form at its beginning that were given on
	gaps    []gap // line ends in the rest
	escaped bool  // the last byte was a backslash that may begin the escape of a line end
}

// gap is a line end behind so many bytes of the form.
type gap struct{ at, length int32 }

// minWrapped is with how many bytes of a form at its end a line is held back until the
// next one comes. With fewer it goes on, because a reader may wait for it, and what
// follows is still found: fewer bytes than that are told.
const minWrapped = 8

func (w window) clone() window {
	w.gaps = slices.Clone(w.gaps)
	return w
}

// next is the window after one more byte.
func (w *window) next(r *redactor, c byte) {
	if w.escaped {
		w.escaped = false
		if c == 'n' || c == 'r' {
			w.lineEnd(r, 2)
			return
		}
		w.step(r, '\\')
	}
	switch {
	case w.state == 0 || r.childOf(w.state, c) != 0:
	case c == '\n' || c == '\r':
		w.lineEnd(r, 1)
		return
	case c == '\\' && r.nodes[r.step(w.state, c)].form == nil:
		w.escaped = true
		return
	}
	w.step(r, c)
}

func (w *window) step(r *redactor, c byte) {
	before := r.nodes[w.state].depth
	w.state = r.step(w.state, c)
	w.drop(before + 1 - r.nodes[w.state].depth)
}

func (w *window) reset() { w.state, w.gone, w.gaps = 0, 0, w.gaps[:0] }

// lineEnd takes a line end of so many bytes into the window, or gives on all of it.
func (w *window) lineEnd(r *redactor, length int32) {
	depth := r.nodes[w.state].depth
	if depth < minWrapped {
		w.gone, w.gaps = depth, w.gaps[:0]
		return
	}
	if n := len(w.gaps); n > 0 && w.gaps[n-1].at == depth {
		w.gaps[n-1].length += length
	} else {
		w.gaps = append(w.gaps, gap{depth, length})
	}
	if w.gaps[len(w.gaps)-1].length > maxGap { // no encoder writes so many
		w.reset()
	}
}

// maxGap is how many bytes of line ends stand between two lines at most.
const maxGap = 8

// drop is what the window loses at its beginning.
func (w *window) drop(n int32) {
	if n <= 0 || w.gone == 0 && len(w.gaps) == 0 {
		return
	}
	w.gone = max(0, w.gone-n)
	kept := w.gaps[:0]
	for _, g := range w.gaps {
		if g.at -= n; g.at > w.gone {
			kept = append(kept, g)
		}
	}
	w.gaps = kept
}

// raw is how many of the last bytes are held back.
func (w *window) raw(r *redactor) int {
	n := r.nodes[w.state].depth - w.gone
	for _, g := range w.gaps {
		n += g.length
	}
	if w.escaped {
		n++
	}
	return int(n)
}
