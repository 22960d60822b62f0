package promptinjection

import "sync"

// classes is the number of byte classes: one for each byte that occurs in a keyword, and one for all
// others. It is a power of two so that the row of a state is found with a shift.
const classes = 64

// automaton finds all keywords in one pass (Aho and Corasick, 1975). It is read-only once built.
type automaton struct {
	class [256]byte
	next  []uint16   // by state and class
	ends  [][]uint16 // by state: indexes of the keywords that end in it
}

var matcher = sync.OnceValue(func() *automaton {
	m := &automaton{next: make([]uint16, classes), ends: make([][]uint16, 1)}
	used := byte(0)
	for _, a := range keywords() {
		for _, c := range []byte(a.text) {
			if m.class[c] == 0 {
				used++
				m.class[c] = used
			}
		}
	}
	for i, a := range keywords() {
		m.addKeyword(a.text, uint16(i))
	}
	m.addFailureLinks()
	return m
})

func (m *automaton) addKeyword(text string, index uint16) {
	state := 0
	for _, c := range []byte(text) {
		cell := &m.next[state*classes+int(m.class[c])]
		if *cell == 0 {
			*cell = uint16(len(m.ends))
			m.ends = append(m.ends, nil)
			m.next = append(m.next, make([]uint16, classes)...)
			cell = &m.next[state*classes+int(m.class[c])] // append may have moved it
		}
		state = int(*cell)
	}
	m.ends[state] = append(m.ends[state], index)
}

// addFailureLinks completes the transitions: from each state, a byte leads to the state of the
// longest suffix of the text read so far that is a prefix of a keyword.
func (m *automaton) addFailureLinks() {
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
