package secrets

import (
	"bytes"
	"sort"
)

// wideText is the ASCII text that data holds as UTF-16 or UTF-32, either byte order, with or without a mark, whole or in part.
type wideText struct {
	text   []byte
	stride int
	runs   []wideRun
}

type wideRun struct{ text, data int } // where a run starts in text, and in data

// minWide is the shortest run of wide characters worth looking at.
const minWide = 8

// at maps an offset in text to one in data.
func (w wideText) at(i int) int {
	n := sort.Search(len(w.runs), func(k int) bool { return w.runs[k].text > i }) - 1
	if n < 0 {
		return 0
	}
	return w.runs[n].data + (i-w.runs[n].text)*w.stride
}

// wideTexts extracts what is there; none for data without a NUL.
func wideTexts(data []byte) []wideText {
	if bytes.IndexByte(data, 0) < 0 {
		return nil
	}
	var all []wideText
	for _, stride := range []int{2, 4} {
		if w := wide(data, stride); len(w.runs) > 0 {
			all = append(all, w)
		}
	}
	return all
}

// wide collects runs of a printable byte followed by stride-1 NULs. Big-endian text is the same run, read one unit later.
func wide(data []byte, stride int) wideText {
	w := wideText{stride: stride}
	for i := 0; i < len(data); {
		n := wideRunLen(data[i:], stride)
		if n < minWide {
			i++
			continue
		}
		w.runs = append(w.runs, wideRun{len(w.text), i})
		for k := range n {
			w.text = append(w.text, data[i+k*stride])
		}
		w.text = append(w.text, '\n')
		i += (n-1)*stride + 1
	}
	return w
}

// wideRunLen counts the wide characters at the start of data.
func wideRunLen(data []byte, stride int) int {
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

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
