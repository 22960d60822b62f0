package egress

// redactor finds many texts in one pass over a stream (Aho–Corasick, CACM 18(6), 1975). State 0 is the
// root. It is read-only once built.
//
// Most input does not begin a text, so the states near the root have rows in a table. The others are
// many and seldom visited: they have a list of children and a failure link.
type redactor struct {
	class [256]uint16 // byte → column of the table; 0: occurs in no text
	width int
	near  []int32 // state × column → state, for states of at most nearDepth
	nodes []node  // by depth
	skip  skipTable
	names *redactor // of texts in lower case; nil: see newRedactor
	found func()    // called at each match in a stream; never nil
}

// nearDepth is the greatest depth of states with a row in the table.
const nearDepth = 2

// node is a state: the last depth bytes of the input are the beginning of a text.
type node struct {
	char           byte  // the byte that leads to this state
	depth          int32 // length of the beginning of a text that the state represents
	child, sibling int32 // 0: none
	fail           int32 // state of the longest proper suffix that is also the beginning of a text
	form           *form // the form that ends here; nil: none
}

// form is a text to search for and its replacement.
type form struct{ text, marker []byte }

// newAutomaton returns a redactor for texts, none of which may be empty.
func newAutomaton(forms []form, found func()) *redactor {
	r := &redactor{width: 1, nodes: make([]node, 1), found: found}
	for i := range forms {
		r.add(&forms[i])
	}
	r.sort()
	r.link()
	r.skip = newSkipTable(forms)
	return r
}

// add puts a text into the trie.
func (r *redactor) add(f *form) {
	state := int32(0)
	for i, c := range f.text {
		if r.class[c] == 0 {
			r.class[c] = uint16(r.width)
			r.width++
		}
		next := r.childOf(state, c)
		if next == 0 {
			next = int32(len(r.nodes))
			r.nodes = append(r.nodes, node{char: c, depth: int32(i + 1), sibling: r.nodes[state].child})
			r.nodes[state].child = next
		}
		state = next
	}
	if r.nodes[state].form == nil {
		r.nodes[state].form = f
	}
}

func (r *redactor) childOf(state int32, c byte) int32 {
	next := r.nodes[state].child
	for next != 0 && r.nodes[next].char != c {
		next = r.nodes[next].sibling
	}
	return next
}

// sort numbers the states breadth first.
func (r *redactor) sort() {
	order, number := make([]int32, 1, len(r.nodes)), make([]int32, len(r.nodes))
	for i := 0; i < len(order); i++ {
		for child := r.nodes[order[i]].child; child != 0; child = r.nodes[child].sibling {
			number[child] = int32(len(order))
			order = append(order, child)
		}
	}
	sorted := make([]node, len(order))
	for i, old := range order {
		n := r.nodes[old]
		n.child, n.sibling = number[n.child], number[n.sibling]
		sorted[i] = n
	}
	r.nodes = sorted
}

// link sets the failure link of each state and the rows of those near the root. Both depend only on
// states of less depth, which come before it.
func (r *redactor) link() {
	for state := range int32(len(r.nodes)) {
		n := &r.nodes[state]
		if n.form == nil {
			n.form = r.nodes[n.fail].form
		}
		if n.depth <= nearDepth {
			from := int(n.fail) * r.width
			r.near = append(r.near, make([]int32, r.width)...)
			if state != 0 {
				copy(r.near[int(state)*r.width:], r.near[from:from+r.width])
			}
		}
		for child := n.child; child != 0; child = r.nodes[child].sibling {
			c := r.nodes[child].char
			if state != 0 {
				r.nodes[child].fail = r.step(n.fail, c)
			}
			if n.depth <= nearDepth {
				r.near[int(state)*r.width+int(r.class[c])] = child
			}
		}
	}
}

// step returns the state after one more byte.
func (r *redactor) step(state int32, c byte) int32 {
	for {
		if at := int(state)*r.width + int(r.class[c]); at < len(r.near) {
			return r.near[at]
		}
		if next := r.childOf(state, c); next != 0 {
			return next
		}
		state = r.nodes[state].fail
	}
}

// empty reports whether the redactor has no texts.
func (r *redactor) empty() bool { return r == nil || len(r.nodes) <= 1 }
