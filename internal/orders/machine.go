package orders

import "sync"

// classes is how many bytes the automaton tells apart: those that anchors
// have, and one for all others. A power of two makes a row easy to find.
const classes = 64

// automaton finds all anchors at once (Aho and Corasick, 1975).
type automaton struct {
	class [256]byte
	next  []uint16   // by state and class
	ends  [][]uint16 // the anchors that end in a state
}

var machine = sync.OnceValue(func() *automaton {
	m := &automaton{next: make([]uint16, classes), ends: make([][]uint16, 1)}
	used := byte(0)
	for _, a := range anchors() {
		for _, c := range []byte(a.text) {
			if m.class[c] == 0 {
				used++
				m.class[c] = used
			}
		}
	}
	for i, a := range anchors() {
		m.add(a.text, uint16(i))
	}
	m.link()
	return m
})

func (m *automaton) add(text string, anchor uint16) {
	state := 0
	for _, c := range []byte(text) {
		cell := &m.next[state*classes+int(m.class[c])]
		if *cell == 0 {
			*cell = uint16(len(m.ends))
			m.ends = append(m.ends, nil)
			m.next = append(m.next, make([]uint16, classes)...)
			cell = &m.next[state*classes+int(m.class[c])] // it may have moved
		}
		state = int(*cell)
	}
	m.ends[state] = append(m.ends[state], anchor)
}

// link makes every step lead somewhere: to the longest end of what was read
// that is the beginning of an anchor.
func (m *automaton) link() {
	fail := make([]uint16, len(m.ends))
	var queue []uint16
	for c := range classes {
		if to := m.next[c]; to != 0 {
			queue = append(queue, to)
		}
	}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		m.ends[state] = append(m.ends[state], m.ends[fail[state]]...)
		for c := range classes {
			cell := &m.next[int(state)*classes+c]
			back := m.next[int(fail[state])*classes+c]
			if *cell == 0 {
				*cell = back
				continue
			}
			fail[*cell] = back
			queue = append(queue, *cell)
		}
	}
}
