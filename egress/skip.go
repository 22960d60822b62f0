package egress

import "bytes"

// skip lets a search jump over what cannot hold the beginning of a form (Wu
// and Manber, A fast algorithm for multi-pattern searching, TR-94-17, 1994).
// It slides a window as long as the shortest form over the text, and knows
// from the window's last three bytes how far that may move.
type skip struct {
	window int
	shift  []uint8 // by hash; 0: a form may begin where the window does
}

const skipBits = 13

func hash3(a, b, c byte) uint32 {
	return (uint32(a) | uint32(b)<<8 | uint32(c)<<16) * 0x9e3779b1 >> (32 - skipBits)
}

func newSkip(forms []form) skip {
	s := skip{window: 255}
	for _, f := range forms {
		s.window = min(s.window, len(f.text))
	}
	if s.window < 4 || len(forms) == 0 {
		return skip{} // nothing to jump by
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

// ahead is the first place, at or behind i, where a form may begin, as far as
// the text tells.
func ahead[T string | []byte](s *skip, text T, i int) int {
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

// breaks are the next two line ends of a text, or escapes of line ends, at or behind a
// place that only grows. The zero value has looked at nothing.
type breaks struct {
	known         bool
	next          [3]int // of each kind
	first, second lineEnd
}

// lineEnd is where one stands, and its length in bytes; at is the length of the text
// where there is none.
type lineEnd struct{ at, length int }

// advance goes on to a place.
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

// nextLineEnd is the first of a kind at or behind i: LF, CR, or the escape of one.
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

// aheadWrapped is ahead for forms with line ends in them. It does not jump where two of
// them are near.
func aheadWrapped(s *skip, text []byte, i int, b *breaks) int {
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

// holds tells whether a form stands in the text.
func holds[T string | []byte](r *redactor, text T) bool {
	state := int32(0)
	for i := 0; i < len(text); i++ {
		if state == 0 {
			if i = ahead(&r.skip, text, i); i >= len(text) {
				return false
			}
		}
		if state = r.step(state, text[i]); r.nodes[state].form != nil {
			return true
		}
	}
	return false
}
