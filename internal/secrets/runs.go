package secrets

import (
	"strings"
)

const (
	// minRun is the shortest run of base64 that is tried, minHex that of hex and base32, and
	// minText how many printable characters in a row make something decoded worth keeping.
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
	isGraph      // printable, and no space
	isA85        // Ascii85
	isB85        // any other base85
	isUpper32Hex // base32 in the order of hex (RFC 4648 §7)
	isLower32Hex
)

var class = func() (t [256]uint16) {
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
		if b >= '0' && b <= '9' || b >= 'A' && b <= 'V' {
			t[c] |= isUpper32Hex
		}
		if b >= '0' && b <= '9' || b >= 'a' && b <= 'v' {
			t[c] |= isLower32Hex
		}
		if b > ' ' && b < 0x7f {
			t[c] |= isGraph
			if b <= 'u' || b == 'z' {
				t[c] |= isA85
			}
			if strings.IndexByte("\"'\\,", b) < 0 {
				t[c] |= isB85
			}
		}
	}
	return t
}()

// runsOf lists the runs of bytes of a class that have at least n. It looks at where such a run
// would have its nth byte, then back from there: a byte of another class rules out all runs that it
// would be in.
func runsOf(text string, of uint16, n int) (all []stretch) {
	least := 0
	for at := n - 1; at < len(text); {
		from := at + 1
		for from > least && class[text[from-1]]&of != 0 {
			from--
		}
		if at-from+1 < n {
			at = from + n - 1
			if from <= least { // the run before ends here
				at = max(at, least+n-1)
			}
			continue
		}
		end := at + 1
		for end < len(text) && class[text[end]]&of != 0 {
			end++
		}
		all = append(all, stretch{from, end})
		least = end
		at = end + n
	}
	return all
}

// inside lists the runs of a class inside others.
func inside(text string, runs []stretch, of uint16, n int) (all []stretch) {
	for _, r := range runs {
		for _, s := range runsOf(text[r.start:r.end], of, n) {
			all = append(all, stretch{r.start + s.start, r.start + s.end})
		}
	}
	return all
}

// unwrap decodes encodings that work in groups of bytes: base64 in both alphabets, hex, base32,
// base85. An encoding may begin anywhere in a run, so every step is tried.
func unwrap(s input, runs []stretch) (views []view) {
	text := s.text
	add := func(edits []edit) { views = append(views, s.applyEdits(edits, false)...) }
	mixed := s.index.withoutWords(runs, 25)
	plain := sift(mixed, s.index.hasASCIIGroups)
	for shift := range 4 {
		add(decodeRuns(text, plain, &base64Code, shift))
	}
	backwards(text, sift(mixed, func(r stretch) bool { return r.size() >= minHex && r.size() <= maxTurned }), add)
	long := sift(runs, func(r stretch) bool { return r.size() >= minHex })
	for shift, runs := 0, inside(text, long, isHex, minHex); shift < 2; shift++ {
		add(decodeRuns(text, runs, &hexCode, shift))
	}
	for _, of := range []uint16{isUpper32, isLower32} {
		for shift, runs := 0, inside(text, long, of, minHex); shift < 8; shift++ {
			add(decodeRuns(text, runs, &base32Code, shift))
		}
	}
	for _, of := range []uint16{isUpper32Hex, isLower32Hex} {
		for shift, runs := 0, inside(text, long, of, minHex); shift < 8; shift++ {
			add(decodeRuns(text, runs, &base32HexCode, shift))
		}
	}
	for _, of := range []byteClass{ofA85, ofB85} {
		long := s.index.withoutWords(s.index.runs(of, min85), 40)
		for i := range base85Codes {
			c := &base85Codes[i]
			if c.of != of {
				continue
			}
			of := sift(long, func(r stretch) bool { return c.hasASCIIGroups(text[r.start:r.end]) })
			for shift := range c.group {
				add(decodeRuns(text, of, c, shift))
			}
		}
	}
	return views
}

// sift keeps the runs for which keep returns true.
func sift(runs []stretch, keep func(stretch) bool) (all []stretch) {
	for _, r := range runs {
		if keep(r) {
			all = append(all, r)
		}
	}
	return all
}

// backwards undoes base64 that was reversed, or rot13. Each way to read the runs makes edits of its
// own: one that makes nonsense of a run does not affect the others.
func backwards(text string, runs []stretch, add func([]edit)) {
	for _, turn := range transforms {
		var ways [4][]edit
		for _, r := range runs {
			other := turn(text[r.start:r.end])
			for shift := range ways {
				for _, e := range decodeRuns(other, []stretch{{0, len(other)}}, &base64Code, shift) {
					if last := len(ways[shift]) - 1; e.step == continued {
						ways[shift][last].value += e.value
						continue
					}
					ways[shift] = append(ways[shift], edit{from: r.start, to: r.end, value: e.value})
				}
			}
		}
		for _, edits := range ways {
			add(edits)
		}
	}
}

// maxTurned is the longest run that is tried backwards, in bytes.
const maxTurned = 4 << 10

// kinds are 0 for what separates, 1 for lower case, 2 for upper case, 3 for digits.
var kinds = func() (t [256]byte) {
	for c := range 256 {
		t[c] = byte(strings.IndexByte("\x00lud", kindOf(byte(c))))
	}
	return t
}()

// hasASCIIGroups reports whether a run of base85 has consecutive groups that decode to ASCII. Where
// a group begins, the one before has moved on by one digit.
func (c *code) hasASCIIGroups(run string) bool {
	const top = 85 * 85 * 85 * 85
	value, valid, good := uint64(0), 0, uint64(0)
	for i := range len(run) {
		d := c.digits[run[i]]
		if d == bad {
			value, valid, good = 0, 0, 0
			continue
		}
		value = value%top*85 + uint64(d)
		valid++
		good <<= 1
		if valid >= 5 && value&0xffffffff80808080 == 0 {
			good |= 1
		}
		if good&(good>>5)&(good>>10)&1 != 0 {
			return true
		}
	}
	return false
}

// code is an encoding of groups of characters as groups of bytes.
type code struct {
	group  int // characters
	digits [256]byte
	// bits is how many bits a character encodes; 0 means that a group is a number in base 85.
	bits int
	// head has, for each place in a group, whether a character leaves the first bit of a byte that
	// it decides zero, as in all ASCII text.
	head [8][256]bool
	tail string    // what may follow as padding
	of   byteClass // the class of its characters, where there are several such codes
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

// zero reports whether the digit at a place of the group leaves the highest bits of bytes zero.
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
	base32HexCode = newCode(8, 5, "=", func(c byte) byte {
		switch {
		case c >= '0' && c <= '9':
			return c - '0'
		case c >= 'A' && c <= 'V':
			return c - 'A' + 10
		case c >= 'a' && c <= 'v':
			return c - 'a' + 10
		}
		return bad
	})
	base85Codes = []code{
		base85(ofA85, "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstu"),
		base85(ofB85, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"), // RFC 1924, Python's b85
		base85(ofB85, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"), // Z85
	}
)

// min85 is the shortest run of base85 that is tried.
const min85 = 25

func base85(of byteClass, alphabet string) code {
	c := newCode(5, 0, "", func(c byte) byte {
		if i := strings.IndexByte(alphabet, c); i >= 0 {
			return byte(i)
		}
		return bad
	})
	c.of = of
	return c
}

// decodeRuns decodes, in groups that begin shift characters into each run, the stretches that are
// text.
func decodeRuns(text string, runs []stretch, c *code, shift int) (edits []edit) {
	need := c.need() * c.group
	for _, r := range runs {
		for at := r.start + shift; at+need <= r.end; {
			// The last of the groups first: where it is no text, none of those before it begins a
			// stretch that is long enough.
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

// ascii reports whether the group can be ASCII text.
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
	whole := to
	if to = from + distinctPart(text[from:to]); to == from {
		return edits
	}
	var room [256]byte // most are not text and add nothing
	value := c.append(room[:0], text[from:to])
	if !readable(value) {
		return edits
	}
	to = whole
	for n := 0; n < 6 && to < len(text) && c.tail != "" && text[to] == c.tail[0]; n++ {
		to++
	}
	return c.pieces(edits, from, to, string(value))
}

// pieceGroups is how many groups of a code one edit has: a finding is located that precisely.
const pieceGroups = 16

// pieces adds what [from,to) decodes to as edits of a few groups each.
func (c *code) pieces(edits []edit, from, to int, value string) []edit {
	chars, size := pieceGroups*c.group, pieceGroups*4 // base85
	if c.bits > 0 {
		size = chars * c.bits / 8
	}
	for step := 0; ; step = continued {
		if len(value) <= size || to-from <= chars {
			return append(edits, edit{from: from, to: to, value: value, step: step})
		}
		edits = append(edits, edit{from: from, to: from + chars, value: value[:size], step: step})
		from, value = from+chars, value[size:]
	}
}

// distinctPart returns how many bytes of a run are worth decoding: none where it has too few
// different characters, the first periods where it repeats itself from start to end, otherwise all.
// What repeats itself decodes to what does, too, again and again, and would use up the bounds.
func distinctPart(run string) int {
	if len(run) < 4*minPeriod {
		var have [4]uint64
		for i := range len(run) {
			have[run[i]>>6] |= 1 << (run[i] & 63)
		}
		if count(have) < minDistinct {
			return 0
		}
	}
	for period := 1; period <= maxRepeat && period*partPeriods < len(run); period++ {
		if run[period:] == run[:len(run)-period] {
			return period * partPeriods
		}
	}
	return len(run)
}

const (
	// minDistinct is how many different characters the encoding of a secret has at least. Hex of
	// letters has as many.
	minDistinct = 6
	// minPeriod is the shortest period of a long run of which all characters may be the same, in
	// bytes.
	minPeriod = 48
	// maxRepeat is the longest repetition that is recognised, in bytes.
	maxRepeat = 256
	// partPeriods is how many periods of a run are decoded: the least common multiple of a period
	// and a group of any code, and as much again.
	partPeriods = 16
)

// decode undoes a run; bits that are left over are dropped.
func (c *code) decode(s string) []byte { return c.append(make([]byte, 0, len(s)), s) }

func (c *code) append(out []byte, s string) []byte {
	if c.bits == 0 {
		return c.append85(out, s)
	}
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

// append85 takes a group that is cut off for one that was filled up with the highest digit.
func (c *code) append85(out []byte, s string) []byte {
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
		group := [4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
		out = append(out, group[:max(0, n-1)]...)
		if n < 5 {
			break
		}
	}
	return out
}

// readable reports whether there are enough consecutive printable characters. A NUL between two is
// as in UTF-16.
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
