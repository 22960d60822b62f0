package secrets

import (
	"sort"
	"unicode/utf8"
)

// layer is a text with its encoded parts replaced by what they decode to, and the way back to the text before.
type layer struct {
	text  string
	parts []part
}

// part is one replaced piece: [start,end) of the layer stands for [from,to) of the text before.
type part struct{ start, end, from, to int }

// minRun is the shortest run of base64 that is tried, minHex that of hex, and minText how many printable characters in
// a row make something decoded worth keeping.
const (
	minRun  = 16
	minHex  = 32
	minText = 12
)

// Classes of bytes.
const (
	isB64 = 1 << iota
	isHex
	isEscape // may begin an escape
)

var class = func() (t [256]byte) {
	for c := range 256 {
		if unbase64(byte(c)) < 64 {
			t[c] |= isB64
		}
		if unhex(byte(c)) < 16 {
			t[c] |= isHex
		}
	}
	t['%'] |= isEscape
	t['\\'] |= isEscape
	t['U'] |= isEscape
	return t
}()

// unescape undoes percent, \x, \u and U+ escapes, wherever they stand in text. It returns false when there are none.
func unescape(text string) (layer, bool) {
	d := &decoder{text: text}
	for i := 0; i < len(text); {
		if class[text[i]]&isEscape != 0 {
			i = d.escapes(i)
		} else {
			i++
		}
	}
	return d.layer()
}

// unwrap undoes runs of base64 (both alphabets) and hex. It returns false when there are none.
func unwrap(text string) (layer, bool) {
	d := &decoder{text: text}
	for i := 0; i < len(text); {
		if class[text[i]]&isB64 != 0 {
			i = d.run(i)
		} else {
			i++
		}
	}
	return d.layer()
}

type decoder struct {
	text  string
	out   []byte
	done  int // text up to here is in out
	parts []part
}

func (d *decoder) layer() (layer, bool) {
	if len(d.parts) == 0 {
		return layer{}, false
	}
	return layer{string(append(d.out, d.text[d.done:]...)), d.parts}, true
}

// replace puts value in place of text[from:to].
func (d *decoder) replace(from, to int, value []byte) {
	if d.out == nil {
		d.out = make([]byte, 0, len(d.text))
	}
	d.out = append(d.out, d.text[d.done:from]...)
	start := len(d.out)
	d.out = append(d.out, value...)
	d.parts = append(d.parts, part{start, len(d.out), from, to})
	d.done = to
}

// run tries a run of base64 characters, hex first where it may be hex.
func (d *decoder) run(from int) (next int) {
	to, hexTo := from, from
	for to < len(d.text) && class[d.text[to]]&isB64 != 0 {
		if hexTo == to && class[d.text[to]]&isHex != 0 {
			hexTo++
		}
		to++
	}
	if hexTo-from >= minHex && d.hex(from, hexTo) {
		return hexTo
	}
	if to-from < minRun {
		return to
	}
	// The run may begin with something else, a name say, so every step is tried, the most likely one first.
	for shift := range 4 {
		if value := unbase64All(d.text[from+shift : to]); readable(value) {
			d.replace(from+shift, to, value)
			return to
		}
	}
	d.inner(from, to)
	return to
}

// hex replaces text[from:to] if it makes sense, in either step.
func (d *decoder) hex(from, to int) bool {
	for shift := range 2 {
		if value := unhexAll(d.text[from+shift : to]); readable(value) {
			d.replace(from+shift, from+shift+2*len(value), value)
			return true
		}
	}
	return false
}

// inner looks for hex that is part of a longer run.
func (d *decoder) inner(from, to int) {
	for i := from; i < to; i++ {
		start := i
		for i < to && class[d.text[i]]&isHex != 0 {
			i++
		}
		if i-start >= minHex {
			d.hex(start, i)
		}
	}
}

// escapes replaces one escape.
func (d *decoder) escapes(i int) (next int) {
	value, n := escape(d.text[i:])
	if n == 0 {
		return i + 1
	}
	d.replace(i, i+n, utf8.AppendRune(nil, value))
	return i + n
}

// escape reads one of %41, \x41, \u0041, U+0041 at the start of s, and returns how long it is; 0 for none.
func escape(s string) (value rune, length int) {
	prefix, digits := 1, 2
	switch {
	case s[0] == '%':
	case len(s) > 2 && s[0] == '\\' && s[1] == '\\' && s[2] == 'u':
		prefix, digits = 3, 4
	case len(s) > 1 && (s[0] == '\\' && s[1] == 'u' || s[0] == 'U' && s[1] == '+'):
		prefix, digits = 2, 4
	case len(s) > 1 && s[0] == '\\' && s[1] == 'x':
		prefix = 2
	default:
		return 0, 0
	}
	if len(s) < prefix+digits {
		return 0, 0
	}
	for _, c := range []byte(s[prefix : prefix+digits]) {
		n := unhex(c)
		if n > 15 {
			return 0, 0
		}
		value = value<<4 | rune(n)
	}
	length = prefix + digits
	if s[0] == 'U' && len(s) > length && s[length] == ' ' {
		length++ // "U+0041 U+0042" is one word
	}
	return value, length
}

// readable tells whether enough printable characters stand in a row.
func readable(value []byte) bool {
	n := 0
	for _, c := range value {
		if !printable(c) {
			n = 0
			continue
		}
		if n++; n >= minText {
			return true
		}
	}
	return false
}

func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

func unhexAll(s string) []byte {
	out := make([]byte, 0, len(s)/2)
	for i := 0; i+1 < len(s); i += 2 {
		out = append(out, unhex(s[i])<<4|unhex(s[i+1]))
	}
	return out
}

func unbase64(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c - 'A'
	case c >= 'a' && c <= 'z':
		return c - 'a' + 26
	case c >= '0' && c <= '9':
		return c - '0' + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return 255
}

var base64Values = func() (t [256]byte) {
	for c := range 256 {
		t[c] = unbase64(byte(c))
	}
	return t
}()

// unbase64All decodes a run in which every character is of the alphabet; bits that are left over are dropped.
func unbase64All(s string) []byte {
	out := make([]byte, 0, len(s)*3/4+3)
	i := 0
	for ; i+4 <= len(s); i += 4 {
		v := uint32(base64Values[s[i]])<<18 | uint32(base64Values[s[i+1]])<<12 | uint32(base64Values[s[i+2]])<<6 | uint32(base64Values[s[i+3]])
		out = append(out, byte(v>>16), byte(v>>8), byte(v))
	}
	switch rest := s[i:]; len(rest) {
	case 2:
		out = append(out, base64Values[rest[0]]<<2|base64Values[rest[1]]>>4)
	case 3:
		out = append(out, base64Values[rest[0]]<<2|base64Values[rest[1]]>>4, base64Values[rest[1]]<<4|base64Values[rest[2]]>>2)
	}
	return out
}

// back maps a span of the layer to the text before. Inside a replaced part nothing finer is known, so it takes the part whole.
func (l layer) back(s span) span {
	return span{s.rule, l.backStart(s.start), l.backEnd(s.end)}
}

// touches tells whether a span has to do with anything that was decoded; the rest was seen before.
func (l layer) touches(s span) bool {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].end > s.start })
	return i < len(l.parts) && l.parts[i].start < s.end
}

func (l layer) backStart(at int) int {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].start > at }) - 1
	if i < 0 {
		return at
	}
	if p := l.parts[i]; at < p.end {
		return p.from
	}
	return at - l.parts[i].end + l.parts[i].to
}

func (l layer) backEnd(at int) int {
	i := sort.Search(len(l.parts), func(i int) bool { return l.parts[i].start >= at }) - 1
	if i < 0 {
		return at
	}
	if p := l.parts[i]; at <= p.end {
		return p.to
	}
	return at - l.parts[i].end + l.parts[i].to
}
