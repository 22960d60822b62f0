package egress

import "bytes"

// skipTable lets a search skip text in which no form can begin (Wu and Manber, A fast algorithm for
// multi-pattern searching, TR-94-17, 1994). It slides a window as long as the shortest form over the
// text; a table by the last three bytes of the window says how far the window may move.
type skipTable struct {
	window int
	shift  []uint8 // by hash; 0: a form may begin at the start of the window
}

const skipBits = 13

func hash3(a, b, c byte) uint32 {
	return (uint32(a) | uint32(b)<<8 | uint32(c)<<16) * 0x9e3779b1 >> (32 - skipBits)
}

func newSkipTable(forms []form) skipTable {
	s := skipTable{window: 255}
	for _, f := range forms {
		s.window = min(s.window, len(f.text))
	}
	if s.window < 4 || len(forms) == 0 {
		return skipTable{} // the forms are too short
	}
	s.shift = make([]uint8, 1<<skipBits)
	for i := range s.shift {
		s.shift[i] = uint8(s.window - 2)
	}
	for _, f := range forms {
		for at := 3; at <= s.window; at++ {
			h := hash3(f.text[at-3], f.text[at-2], f.text[at-1])
			s.shift[h] = min(s.shift[h], uint8(s.window-at))
		}
	}
	return s
}

// nextCandidate returns the first offset from i on at which a form may begin, as far as the text is
// known.
func nextCandidate[T string | []byte](s *skipTable, text T, i int) int {
	if s.window == 0 {
		return i
	}
	for end := i + s.window; end <= len(text); end = i + s.window {
		n := s.shift[hash3(text[end-3], text[end-2], text[end-1])]
		if n == 0 {
			break
		}
		i += int(n)
	}
	return i
}

// breaks finds the next two line ends, or escapes of line ends, from an offset on. The offset only grows.
// The zero value is ready for use.
type breaks struct {
	known         bool
	next          [3]int // of each kind
	first, second lineEnd
}

// lineEnd is the offset and the length of a line end in bytes. If there is none, at is the length of the
// text.
type lineEnd struct{ at, length int }

// advance moves the offset to i.
func (b *breaks) advance(text []byte, i int) {
	if !b.known {
		b.first = b.find(text, i)
		b.second = b.find(text, b.first.at+b.first.length)
	}
	for b.first.at < i && b.first.at < len(text) {
		b.first, b.second = b.second, b.find(text, b.second.at+b.second.length)
	}
}

func (b *breaks) find(text []byte, i int) lineEnd {
	found := lineEnd{len(text), 0}
	for kind := range b.next {
		if !b.known || b.next[kind] < i {
			b.next[kind] = nextLineEnd(text, i, kind)
		}
		if at := b.next[kind]; at < found.at {
			found = lineEnd{at, 1 + kind/2}
		}
	}
	b.known = true
	return found
}

// nextLineEnd returns the offset of the first line end of a kind from i on: LF, CR, or an escape of one.
func nextLineEnd(text []byte, i, kind int) int {
	for i < len(text) {
		n := bytes.IndexByte(text[i:], "\n\r\\"[kind])
		if n < 0 {
			break
		}
		if i += n; kind < 2 || i+1 < len(text) && (text[i+1] == 'n' || text[i+1] == 'r') {
			return i
		}
		i++
	}
	return len(text)
}

// nextCandidateWrapped is nextCandidate for forms that may contain line ends. It does not skip text with
// two line ends close together.
func nextCandidateWrapped(s *skipTable, text []byte, i int, b *breaks) int {
	if s.window == 0 {
		return i
	}
	for {
		b.advance(text, i)
		at, length := b.first.at, b.first.length
		end := i + s.window
		if end <= at {
			length = 0
		}
		if end += length; end > len(text) || end > b.second.at {
			return i
		}
		var last [3]byte
		for k := range last { // without the line end
			from := end - 3 + k
			if from < at+length {
				from -= length
			}
			last[k] = text[from]
		}
		n := int(s.shift[hash3(last[0], last[1], last[2])])
		if n == 0 {
			return i
		}
		if i+n > at {
			n += b.first.length
		}
		i += n
	}
}

// containsForm reports whether the text contains a form.
func containsForm[T string | []byte](r *redactor, text T) bool {
	state := int32(0)
	for i := 0; i < len(text); i++ {
		if state == 0 {
			if i = nextCandidate(&r.skip, text, i); i >= len(text) {
				return false
			}
		}
		if state = r.step(state, text[i]); r.nodes[state].form != nil {
			return true
		}
	}
	return false
}
