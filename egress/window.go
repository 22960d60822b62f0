package egress

import "slices"

// window is the state of a search in a stream: the state of the automaton, and the input bytes that it
// covers. Line ends within a form do not end a match, because encoders wrap base64 (RFC 2045 §6.8,
// RFC 7468): CR, LF and their escapes in JSON are skipped.
type window struct {
	state   int32
	passed  int32 // bytes at the beginning of the form that have been passed on
	gaps    []gap // line ends in the rest
	escaped bool  // the last byte was a backslash that may begin the escape of a line end
}

// gap is a line end after that many bytes of the form.
type gap struct{ at, length int32 }

// minHeldWrapped is how many bytes of a form a line must end with to be held back until the next line
// comes. A line that ends with fewer is passed on, because a reader may wait for it; the rest of the
// form is still found, so fewer bytes than that are disclosed.
const minHeldWrapped = 8

func (w window) clone() window {
	w.gaps = slices.Clone(w.gaps)
	return w
}

// next updates the window with one more byte.
func (w *window) next(r *redactor, c byte) {
	if w.escaped {
		w.escaped = false
		if c == 'n' || c == 'r' {
			w.addLineEnd(r, 2)
			return
		}
		w.step(r, '\\')
	}
	switch {
	case w.state == 0 || r.childOf(w.state, c) != 0:
	case c == '\n' || c == '\r':
		w.addLineEnd(r, 1)
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
	w.dropFront(before + 1 - r.nodes[w.state].depth)
}

func (w *window) reset() { w.state, w.passed, w.gaps = 0, 0, w.gaps[:0] }

// addLineEnd adds a line end of that length to the window, or passes on all of the window.
func (w *window) addLineEnd(r *redactor, length int32) {
	depth := r.nodes[w.state].depth
	if depth < minHeldWrapped {
		w.passed, w.gaps = depth, w.gaps[:0]
		return
	}
	if n := len(w.gaps); n > 0 && w.gaps[n-1].at == depth {
		w.gaps[n-1].length += length
	} else {
		w.gaps = append(w.gaps, gap{depth, length})
	}
	if w.gaps[len(w.gaps)-1].length > maxGap { // no encoder writes that many
		w.reset()
	}
}

// maxGap is the greatest number of bytes of line ends between two lines.
const maxGap = 8

// dropFront removes n bytes from the beginning of the window.
func (w *window) dropFront(n int32) {
	if n <= 0 || w.passed == 0 && len(w.gaps) == 0 {
		return
	}
	w.passed = max(0, w.passed-n)
	kept := w.gaps[:0]
	for _, g := range w.gaps {
		if g.at -= n; g.at > w.passed {
			kept = append(kept, g)
		}
	}
	w.gaps = kept
}

// heldRaw returns how many input bytes are held back.
func (w *window) heldRaw(r *redactor) int {
	n := r.nodes[w.state].depth - w.passed
	for _, g := range w.gaps {
		n += g.length
	}
	if w.escaped {
		n++
	}
	return int(n)
}
