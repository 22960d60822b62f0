package secrets

import (
	"strings"
)

// minWide is the shortest run of wide characters worth looking at.
const minWide = 8

// narrow is the ASCII text that a text holds as UTF-16 or UTF-32, either byte order, with or
// without a mark, whole or in part; none where there is no NUL.
func narrow(s input) (views []view) {
	if strings.IndexByte(s.text, 0) < 0 {
		return nil
	}
	for _, stride := range []int{2, 4} {
		if v := wide(s, stride); len(v.parts) > 0 {
			views = append(views, v)
		}
	}
	return views
}

// wide collects runs of a printable byte followed by stride-1 NULs. Big-endian text is the same
// run, read one unit later.
func wide(s input, stride int) view {
	text := s.text
	w := viewBuilder{source: text}
	for i := 0; ; {
		zero := strings.IndexByte(text[i:], 0)
		if zero < 0 {
			break
		}
		if i += max(0, zero-1); text[i] == 0 {
			i++
			continue
		}
		n := wideRunLen(text[i:], stride)
		if n < minWide || !s.isNew(i, i+n*stride) {
			i += 2
			continue
		}
		run := make([]byte, n)
		for k := range run {
			run[k] = text[i+k*stride]
		}
		w.separate()
		w.add(string(run), i, min(len(text), i+n*stride), stride)
		i += (n-1)*stride + 1
	}
	return w.view()
}

// wideRunLen counts the wide characters at the start of data.
func wideRunLen(data string, stride int) int {
	n := 0
	for i := 0; i < len(data) && printable(data[i]); i += stride {
		n++
		if i+stride > len(data) || !zero(data[i+1:i+stride]) {
			break
		}
	}
	return n
}

func printable(c byte) bool { return c >= ' ' && c < 0x7f || c == '\n' || c == '\r' || c == '\t' }

func zero(s string) bool {
	for i := range len(s) {
		if s[i] != 0 {
			return false
		}
	}
	return true
}
