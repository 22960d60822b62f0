package secrets

import "strings"

const (
	// minRun is the shortest run of base64 that is tried, minHex that of hex and base32, and minText how many printable characters in a row make
	// something decoded worth keeping.
	minRun  = 16
	minHex  = 24
	minText = 12
)

// Classes of bytes.
const (
	isB64 = 1 << iota
	isHex
	isUpper32 // base32 (RFC 4648 §6)
	isLower32
	isGraph // printable, and no space
)

var class = func() (t [256]byte) {
	for c := range 256 {
		b := byte(c)
		if unbase64(b) < 64 {
			t[c] |= isB64
		}
		if unhex(b) < 16 {
			t[c] |= isHex
		}
		if b >= 'A' && b <= 'Z' || b >= '2' && b <= '7' {
			t[c] |= isUpper32
		}
		if b >= 'a' && b <= 'z' || b >= '2' && b <= '7' {
			t[c] |= isLower32
		}
		if b > ' ' && b < 0x7f {
			t[c] |= isGraph
		}
	}
	return t
}()

// runsOf lists the runs of bytes of a class that have at least n. A run that long has a byte at a multiple of n: only there it is looked for.
func runsOf(text string, of byte, n int) (all []stretch) {
	end := 0
	for at := n - 1; at < len(text); at += n {
		if class[text[at]]&of == 0 {
			continue
		}
		s := stretch{at, at + 1}
		for s.start > end && class[text[s.start-1]]&of != 0 {
			s.start--
		}
		for s.end < len(text) && class[text[s.end]]&of != 0 {
			s.end++
		}
		if end = s.end; s.end-s.start >= n {
			all = append(all, s)
		}
		at = max(at, end-end%n-1)
	}
	return all
}

// inside lists the runs of a class inside others.
func inside(text string, runs []stretch, of byte, n int) (all []stretch) {
	for _, r := range runs {
		for _, s := range runsOf(text[r.start:r.end], of, n) {
			all = append(all, stretch{r.start + s.start, r.start + s.end})
		}
	}
	return all
}

// unwrap undoes what stands for bytes in groups: base64 in both alphabets, hex, base32, base85. An encoding may begin anywhere in a run, so every
// step is tried.
func unwrap(s sight, runs []stretch) (views []view) {
	text := s.text
	add := func(edits []edit) { views = append(views, s.weave(edits, false)...) }
	mixed := varied(text, runs, 4)
	for shift := range 4 {
		add(decodeRuns(text, mixed, &base64Code, shift))
	}
	long := inside(text, runs, isHex, minHex)
	for shift := range 2 {
		add(decodeRuns(text, long, &hexCode, shift))
	}
	for _, of := range []byte{isUpper32, isLower32} {
		long := inside(text, runs, of, minHex)
		for shift := range 8 {
			add(decodeRuns(text, long, &base32Code, shift))
		}
	}
	graph := varied(text, runsOf(text, isGraph, min85), 3)
	for i := range base85Codes {
		for shift := range 5 {
			add(decodeRuns(text, graph, &base85Codes[i], shift))
		}
	}
	return views
}

// varied leaves out the runs that are words: mostly in lower case, and of every n bytes at most one is of another kind than the one before. In what
// was encoded more are.
func varied(text string, runs []stretch, n int) (all []stretch) {
	for _, r := range runs {
		changes, upper := 0, 0
		end := min(r.end, r.start+maxVaried)
		for i := r.start + 1; i < end; i++ {
			if kinds[text[i]] != kinds[text[i-1]] {
				changes++
			}
			if kinds[text[i]] == 'u' {
				upper++
			}
		}
		if changes*n >= end-r.start || upper*2 >= end-r.start || end < r.end {
			all = append(all, r)
		}
	}
	return all
}

// maxVaried is the longest run that may be words, in bytes.
const maxVaried = 96

// kinds are those of kindOf.
var kinds = func() (t [256]byte) {
	for c := range 256 {
		t[c] = kindOf(byte(c))
	}
	return t
}()

// code is an encoding of groups of characters as groups of bytes.
type code struct {
	group  int // characters
	digits [256]byte
	// bits is of what a character stands for; 0 means that a group is a number in base 85.
	bits int
	// head has, for each place in a group, whether a character leaves the first bit of a byte that it decides zero, as in all ASCII text.
	head [8][256]bool
	tail string // what may follow as padding
}

const bad = 255

func newCode(group, bits int, tail string, digit func(c byte) byte) code {
	c := code{group: group, bits: bits, tail: tail}
	for i := range 256 {
		c.digits[i] = digit(byte(i))
		for at := range group {
			c.head[at][i] = c.digits[i] != bad && c.zero(at, c.digits[i])
		}
	}
	return c
}

// zero tells whether the digit at a place of the group leaves the highest bits of bytes zero.
func (c *code) zero(at int, digit byte) bool {
	if c.bits == 0 {
		return at > 0 || digit >= ' '<<24/(85*85*85*85) && digit <= 0x7f<<24/(85*85*85*85)
	}
	for bit := range c.bits {
		if (at*c.bits+bit)%8 == 0 && digit>>(c.bits-1-bit)&1 != 0 {
			return false
		}
	}
	return true
}

var (
	base64Code = newCode(4, 6, "=", unbase64)
	hexCode    = newCode(2, 4, "", unhex)
	base32Code = newCode(8, 5, "=", func(c byte) byte {
		switch {
		case c >= 'A' && c <= 'Z':
			return c - 'A'
		case c >= 'a' && c <= 'z':
			return c - 'a'
		case c >= '2' && c <= '7':
			return c - '2' + 26
		}
		return bad
	})
	base85Codes = []code{
		newCode(5, 0, "", digitOf("!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstu")), // Ascii85
		newCode(5, 0, "", digitOf("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~")),   // RFC 1924, Python's b85
		newCode(5, 0, "", digitOf("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")),   // Z85
	}
)

// min85 is the shortest run of base85 that is tried.
const min85 = 25

func digitOf(alphabet string) func(byte) byte {
	return func(c byte) byte {
		if i := strings.IndexByte(alphabet, c); i >= 0 {
			return byte(i)
		}
		return bad
	}
}

// decodeRuns decodes, in groups that begin shift characters into each run, the stretches that are text.
func decodeRuns(text string, runs []stretch, c *code, shift int) (edits []edit) {
	need := c.need() * c.group
	for _, r := range runs {
		for at := r.start + shift; at+need <= r.end; {
			// The last of the groups first: where it is no text, none of those before it begins a stretch that is long enough.
			first := at + need
			for first > at && c.ascii(text[first-c.group:first]) {
				first -= c.group
			}
			if first > at {
				at = first
				continue
			}
			end := at + need
			for end+c.group <= r.end && c.ascii(text[end:end+c.group]) {
				end += c.group
			}
			// The groups beside it may be text in part.
			if before := first - c.group; before >= r.start && c.bits > 0 {
				first = before
			}
			edits = c.edit(edits, text, first, min(r.end, end+c.group))
			at = end
		}
	}
	return edits
}

// need is how many groups in a row are worth decoding: those that lie whole in minText bytes.
func (c *code) need() int {
	if c.bits == 0 {
		return min85/c.group - 1
	}
	bytes := c.group * c.bits / 8
	return max(2, (minText-bytes+1)/bytes)
}

// ascii tells whether the group can be ASCII text.
func (c *code) ascii(group string) bool {
	for i := range len(group) {
		if !c.head[i][group[i]] {
			return false
		}
	}
	return true
}

// edit adds what [from,to) decodes to, if it can be read.
func (c *code) edit(edits []edit, text string, from, to int) []edit {
	if monotonous(text[from:to]) {
		return edits
	}
	value := c.decode(text[from:to])
	if !readable(value) {
		return edits
	}
	for n := 0; n < 6 && to < len(text) && c.tail != "" && text[to] == c.tail[0]; n++ {
		to++
	}
	return append(edits, edit{from, to, string(value)})
}

// monotonous tells whether a text repeats itself all the way. Such a text decodes to one that does, too, again and again.
func monotonous(text string) bool {
	if len(text) < 4*maxRepeat {
		var have [256]bool
		n := 0
		for i := range len(text) {
			if !have[text[i]] {
				have[text[i]] = true
				n++
			}
		}
		return n < minDistinct
	}
	for period := 1; period <= maxRepeat; period++ {
		if text[period:] == text[:len(text)-period] {
			return true
		}
	}
	return false
}

const (
	// minDistinct is how many different characters the encoding of a secret has at least. Hex of letters has as many.
	minDistinct = 6
	// maxRepeat is the longest repetition that is recognised, in bytes.
	maxRepeat = 48
)

// decode undoes a run; bits that are left over are dropped.
func (c *code) decode(s string) []byte {
	if c.bits == 0 {
		return c.decode85(s)
	}
	out := make([]byte, 0, len(s)*c.bits/8)
	acc, n := uint32(0), 0
	for i := range len(s) {
		acc = acc<<c.bits | uint32(c.digits[s[i]])
		if n += c.bits; n >= 8 {
			n -= 8
			out = append(out, byte(acc>>n))
		}
	}
	return out
}

// decode85 takes a group that is cut off for one that was filled up with the highest digit.
func (c *code) decode85(s string) []byte {
	out := make([]byte, 0, len(s)*4/5+4)
	for at := 0; at < len(s); at += 5 {
		v := uint64(0)
		n := min(5, len(s)-at)
		for i := range 5 {
			d := byte(84)
			if i < n {
				d = c.digits[s[at+i]]
			}
			if d == bad { // the run goes on in other characters
				n, d = min(n, i), 84
			}
			v = v*85 + uint64(d)
		}
		group := []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
		out = append(out, group[:max(0, n-1)]...)
		if n < 5 {
			break
		}
	}
	return out
}

// readable tells whether enough printable characters stand in a row. A NUL between two is as in UTF-16.
func readable(value []byte) bool {
	n := 0
	for i, c := range value {
		switch {
		case printable(c):
			if n++; n >= minText {
				return true
			}
		case c != 0 || i > 0 && value[i-1] == 0 && (i < 3 || value[i-2] == 0 && value[i-3] == 0):
			n = 0
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
	return bad
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
	return bad
}
