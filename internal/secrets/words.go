package secrets

import (
	"errors"
	"strings"
)

// words finds every keyword in a text in one pass, ASCII case ignored: Aho and Corasick's automaton, as a table.
type words struct {
	class   [256]uint16 // of a byte; 0 for bytes in no keyword
	classes int
	next    []uint16 // state*classes + class
	found   [][]int  // keywords that end in a state
	lengths []int    // of keywords
}

// maxStates is how many the table's entries can name.
const maxStates = 1 << 16

func newWords(keywords []string) (*words, error) {
	if len(strings.Join(keywords, "")) >= maxStates {
		return nil, errors.New("too many keywords or stop words")
	}
	w := &words{classes: 1}
	for _, k := range keywords {
		w.lengths = append(w.lengths, len(k))
		w.classify(strings.ToLower(k))
	}
	w.addState()
	for i, k := range keywords {
		w.add(i, strings.ToLower(k))
	}
	w.link()
	return w, nil
}

// classify gives each byte of a keyword a class, in both cases the same.
func (w *words) classify(keyword string) {
	for _, c := range []byte(keyword) {
		if w.class[c] != 0 {
			continue
		}
		w.class[c] = uint16(w.classes)
		if c >= 'a' && c <= 'z' {
			w.class[c-'a'+'A'] = w.class[c]
		}
		w.classes++
	}
}

func (w *words) addState() uint16 {
	w.next = append(w.next, make([]uint16, w.classes)...)
	w.found = append(w.found, nil)
	return uint16(len(w.found) - 1)
}

// add extends the tree by one keyword.
func (w *words) add(i int, keyword string) {
	state := uint16(0)
	for _, c := range []byte(keyword) {
		at := int(state)*w.classes + int(w.class[c])
		if w.next[at] == 0 {
			w.next[at] = w.addState()
		}
		state = w.next[at]
	}
	if state != 0 { // an empty keyword is found nowhere
		w.found[state] = append(w.found[state], i)
	}
}

// link fills the table breadth first: where the tree has no edge, the edge of the longest proper suffix stands.
func (w *words) link() {
	suffix := make([]uint16, len(w.found))
	var queue []uint16
	for _, s := range w.next[:w.classes] {
		if s != 0 {
			queue = append(queue, s)
		}
	}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		w.found[state] = append(w.found[state], w.found[suffix[state]]...)
		for c := range w.classes {
			edge := &w.next[int(state)*w.classes+c]
			other := w.next[int(suffix[state])*w.classes+c]
			if *edge == 0 {
				*edge = other
				continue
			}
			suffix[*edge] = other
			queue = append(queue, *edge)
		}
	}
}

func (w *words) empty() bool { return len(w.lengths) == 0 }

// in tells whether any keyword stands in text.
func (w *words) in(text string) bool {
	state := 0
	for i := 0; i < len(text); i++ {
		state = int(w.next[state*w.classes+int(w.class[text[i]])])
		if len(w.found[state]) > 0 {
			return true
		}
	}
	return false
}

// each calls found for every keyword in text, in order of their ends, until it returns false.
func (w *words) each(text string, found func(keyword, start, end int) bool) {
	state := 0
	for i := 0; i < len(text); i++ {
		state = int(w.next[state*w.classes+int(w.class[text[i]])])
		for _, k := range w.found[state] {
			if !found(k, i+1-w.lengths[k], i+1) {
				return
			}
		}
	}
}
