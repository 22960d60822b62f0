package egress

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
