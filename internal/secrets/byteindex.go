package secrets

import (
	"math/bits"
	"strings"
	"sync"
)

// byteIndex holds one bitmap per byte class (base64, digit, quote, …); decoders query it to skip
// text that cannot contain their encoding. It is built in one pass without branches, and a query
// costs a few steps per 64 bytes.
type byteIndex struct {
	text    string
	bitmaps [byteClasses][]uint64 // one word longer than the text needs, zeros after its end

	// Results of queries, kept while the index is in use. Their memory is reused.
	runLists    [byteClasses][]stretch
	quotedLists [quotes][]piece
	quotedKnown [quotes]bool
}

// byteClass is a class of bytes, with a bitmap of its own.
type byteClass int

const (
	ofB64   byteClass = iota // base64, both alphabets; hex and base32 are made of the same bytes
	ofHead0                  // what the first character of a group of base64 may be when the three bytes are ASCII
	ofHead1                  // the second one
	ofHead2                  // the third one
	ofLower
	ofUpper
	ofDigit
	ofA85
	ofB85
	ofLine    // the line feed
	ofEscape  // what escapes begin with, and the U of U+0041
	ofQuote   // " ' `
	ofGraphic // what lines of something wrapped are made of: printable, no space and no quote
	ofHigh    // beyond ASCII
	ofZero    // NUL
	ofSlash   // the backslash
	byteClasses
)

// classBits has, for each byte, the lowest bit of one byte for each of eight classes.
var classBits = func() (t [byteClasses / 8][256]uint64) {
	for c := range 256 {
		b := byte(c)
		for l, in := range [byteClasses]bool{
			ofB64:     class[b]&isB64 != 0,
			ofHead0:   base64Code.head[0][b],
			ofHead1:   base64Code.head[1][b],
			ofHead2:   base64Code.head[2][b],
			ofLower:   kindOf(b) == 'l',
			ofUpper:   kindOf(b) == 'u',
			ofDigit:   kindOf(b) == 'd',
			ofA85:     class[b]&isA85 != 0,
			ofB85:     class[b]&isB85 != 0,
			ofLine:    b == '\n',
			ofEscape:  strings.IndexByte(`%\&=+U`, b) >= 0,
			ofQuote:   strings.IndexByte("\"'`", b) >= 0,
			ofGraphic: class[b]&isGraph != 0 && strings.IndexByte("\"'`", b) < 0,
			ofHigh:    b >= 0x80,
			ofZero:    b == 0,
			ofSlash:   b == '\\',
		} {
			if in {
				t[l/8][c] |= 1 << (l % 8 * 8)
			}
		}
	}
	return t
}()

var byteIndexes = sync.Pool{New: func() any { return new(byteIndex) }}

// newByteIndex indexes a text; release returns its memory to the pool.
func newByteIndex(text string) *byteIndex {
	s := byteIndexes.Get().(*byteIndex)
	s.text = text
	words := len(text)/64 + 2
	if cap(s.bitmaps[0]) < words {
		all := make([]uint64, words*int(byteClasses))
		for l := range s.bitmaps {
			s.bitmaps[l] = all[l*words : (l+1)*words : (l+1)*words]
		}
	}
	for l := range s.bitmaps {
		s.bitmaps[l] = s.bitmaps[l][:words]
		s.bitmaps[l][words-1] = 0
	}
	whole := len(text) / 64
	for i := range whole {
		s.index64(i, text[i*64:i*64+64])
	}
	var rest [64]byte
	n := copy(rest[:], text[whole*64:])
	s.index64(whole, string(rest[:]))
	for l := range s.bitmaps {
		s.bitmaps[l][whole] &= 1<<n - 1
	}
	return s
}

func (s *byteIndex) release() {
	s.text, s.quotedKnown = "", [quotes]bool{}
	for i := range s.quotedLists {
		clear(s.quotedLists[i]) // they hold parts of the text
	}
	if cap(s.bitmaps[0]) <= maxPooledWords {
		byteIndexes.Put(s)
	}
}

// maxPooledWords bounds the size of an index that is pooled, in words per class.
const maxPooledWords = 1 << 20 / 64

// index64 indexes 64 bytes: for each eight of them a word with a byte for each class, then the
// eight by eight bytes are transposed.
func (s *byteIndex) index64(i int, b string) {
	for half := range classBits {
		t := &classBits[half]
		w0, w1, w2, w3, w4, w5, w6, w7 := transposed(classBits8(t, b[:8]), classBits8(t, b[8:16]), classBits8(t, b[16:24]), classBits8(t, b[24:32]),
			classBits8(t, b[32:40]), classBits8(t, b[40:48]), classBits8(t, b[48:56]), classBits8(t, b[56:64]))
		l := s.bitmaps[half*8 : half*8+8]
		l[0][i], l[1][i], l[2][i], l[3][i], l[4][i], l[5][i], l[6][i], l[7][i] = w0, w1, w2, w3, w4, w5, w6, w7
	}
}

// classBits8 looks up eight bytes.
func classBits8(t *[256]uint64, b string) uint64 {
	return t[b[0]] | t[b[1]]<<1 | t[b[2]]<<2 | t[b[3]]<<3 | t[b[4]]<<4 | t[b[5]]<<5 | t[b[6]]<<6 | t[b[7]]<<7
}

// transposed makes byte j of word i byte i of word j.
func transposed(a, b, c, d, e, f, g, h uint64) (_, _, _, _, _, _, _, _ uint64) {
	const one, two, four = 0x00ff00ff00ff00ff, 0x0000ffff0000ffff, 0x00000000ffffffff
	a, b = a&one|(b&one)<<8, a>>8&one|b&^one
	c, d = c&one|(d&one)<<8, c>>8&one|d&^one
	e, f = e&one|(f&one)<<8, e>>8&one|f&^one
	g, h = g&one|(h&one)<<8, g>>8&one|h&^one
	a, c = a&two|(c&two)<<16, a>>16&two|c&^two
	b, d = b&two|(d&two)<<16, b>>16&two|d&^two
	e, g = e&two|(g&two)<<16, e>>16&two|g&^two
	f, h = f&two|(h&two)<<16, f>>16&two|h&^two
	return a&four | e<<32, b&four | f<<32, c&four | g<<32, d&four | h<<32,
		a>>32 | e&^four, b>>32 | f&^four, c>>32 | g&^four, d>>32 | h&^four
}

// any reports whether the text has a byte of a class.
func (s *byteIndex) any(of byteClass) bool {
	for _, w := range s.bitmaps[of] {
		if w != 0 {
			return true
		}
	}
	return false
}

// next is the first place from at on with a byte of a class, or the length of the text.
func (s *byteIndex) next(of byteClass, at int) int {
	m := s.bitmaps[of]
	i := at >> 6
	for w := m[i] &^ (1<<(at&63) - 1); ; w = m[i] {
		if w != 0 {
			return i<<6 + bits.TrailingZeros64(w)
		}
		if i++; i == len(m) {
			return len(s.text)
		}
	}
}

// end is the first place from at on with a byte that is not of a class.
func (s *byteIndex) end(of byteClass, at int) int {
	m := s.bitmaps[of]
	i := at >> 6
	for w := ^m[i] &^ (1<<(at&63) - 1); ; w = ^m[i] {
		if w != 0 {
			return i<<6 + bits.TrailingZeros64(w)
		}
		i++ // there are zeros after the end
	}
}

// runs lists the runs of bytes of a class that have at least n, which is minRun or min85. The list
// is good until the next one of that class.
func (s *byteIndex) runs(of byteClass, n int) []stretch {
	m, all := s.bitmaps[of], s.runLists[of][:0]
	least := 0
	for i := 0; i+1 < len(m); i++ {
		e := runStarts(m[i], m[i+1], n)
		for e &^= lowBits(least - i<<6); e != 0; e &^= lowBits(least - i<<6) {
			at := i<<6 + bits.TrailingZeros64(e)
			least = s.end(of, at+n)
			all = append(all, stretch{at, least})
		}
	}
	s.runLists[of] = all
	return all
}

// count is how many bytes of a class a part of the text has.
func (s *byteIndex) count(of byteClass, from, to int) (n int) {
	m := s.bitmaps[of]
	from = max(0, from)
	for i := from >> 6; i < len(m) && i<<6 < to; i++ {
		n += bits.OnesCount64(m[i] & lowBits(to-i<<6) &^ lowBits(from-i<<6))
	}
	return n
}

// lowBits returns a word with the lowest n bits set.
func lowBits(n int) uint64 {
	switch {
	case n <= 0:
		return 0
	case n >= 64:
		return ^uint64(0)
	}
	return 1<<n - 1
}

// runStarts returns the bits of a word from which on n are set, minRun (16) or min85; high is the
// next word.
func runStarts(low, high uint64, n int) uint64 {
	low, high = low&(low>>1|high<<63), high&(high>>1)
	low, high = low&(low>>2|high<<62), high&(high>>2)
	low, high = low&(low>>4|high<<60), high&(high>>4)
	low, high = low&(low>>8|high<<56), high&(high>>8)
	if n == min85 {
		low &= low>>(min85-minRun) | high<<(64-min85+minRun)
	}
	return low
}

// periodicBits returns the bits of a word from which on n bits are set at a distance of step; high
// is the next word. n steps are 64 at most.
func periodicBits(low, high uint64, step, n int) uint64 {
	for have := 1; have < n && low != 0; {
		more := min(have, n-have)
		k := more * step
		low &= low>>k | high<<(64-k)
		high &= high >> k
		have += more
	}
	return low
}

// withoutWords drops the runs that look like words: mostly lower case, and fewer than percent of
// the bytes differ in class from the previous one. Encoded text has more.
func (s *byteIndex) withoutWords(runs []stretch, percent int) []stretch {
	return sift(runs, func(r stretch) bool { return r.size() > maxWordRun || !s.looksLikeWords(r, percent) })
}

// maxWordRun is the longest run that may be words, in bytes.
const maxWordRun = 96

// looksLikeWords reports whether a run is made of words: see withoutWords.
func (s *byteIndex) looksLikeWords(r stretch, percent int) bool {
	changes, lower := 0, 0
	from := r.start + 1 // the first one is of no other kind than the one before it
	for i := from >> 6; i<<6 < r.end; i++ {
		in := lowBits(r.end-i<<6) &^ lowBits(from-i<<6)
		changes += bits.OnesCount64(s.classChanges(i) & in)
		lower += bits.OnesCount64(s.bitmaps[ofLower][i] & in)
	}
	return changes*100 < percent*r.size() && lower*2 >= r.size()
}

// classChanges returns the bytes of a word whose class differs from that of the previous byte.
func (s *byteIndex) classChanges(i int) (w uint64) {
	for _, l := range [...]byteClass{ofLower, ofUpper, ofDigit} {
		m := s.bitmaps[l]
		before := m[i] << 1
		if i > 0 {
			before |= m[i-1] >> 63
		}
		w |= m[i] ^ before
	}
	return w
}

// hasASCIIGroups reports whether a run of base64 has enough consecutive groups, in any phase, that
// can be ASCII text.
func (s *byteIndex) hasASCIIGroups(r stretch) bool {
	last := r.end - base64Code.need()*base64Code.group // where the first of these groups may begin at most
	for i := r.start >> 6; i<<6 <= last; i++ {
		if low := s.asciiGroups(i); low != 0 {
			high := uint64(0)
			if i+2 < len(s.bitmaps[ofB64]) {
				high = s.asciiGroups(i + 1)
			}
			if periodicBits(low, high, base64Code.group, base64Code.need())&lowBits(last+1-i<<6)&^lowBits(r.start-i<<6) != 0 {
				return true
			}
		}
	}
	return false
}

// asciiGroups returns the bytes of a word at which a group of base64 may start that decodes to
// ASCII.
func (s *byteIndex) asciiGroups(i int) uint64 {
	w := s.bitmaps[ofHead0][i]
	for n, l := range [...]byteClass{ofHead1, ofHead2, ofB64} {
		m := s.bitmaps[l]
		w &= m[i]>>(n+1) | m[i+1]<<(63-n)
	}
	return w
}
