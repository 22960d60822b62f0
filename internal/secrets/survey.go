package secrets

import (
	"math/bits"
	"strings"
	"sync"
)

// survey tells of each byte of a text to which classes it belongs: a bit a byte, 64 in a word, for each class. All that looks for encodings asks it
// where to look. It is made in one pass without a branch; what is asked of it costs a few steps for 64 bytes.
type survey struct {
	text  string
	lanes [lanes][]uint64 // one word longer than the text needs, zeros behind its end

	// What was found, for as long as the survey is there. The room is used again.
	stretches [lanes][]stretch
	strings   [quotes][]piece
	listed    [quotes]bool
}

// lane is a class of bytes.
type lane int

const (
	ofB64   lane = iota // base64, both alphabets; hex and base32 are made of the same bytes
	ofHead0             // what the first character of a group of base64 may be when the three bytes are ASCII
	ofHead1             // the second one
	ofHead2             // the third one
	ofLower
	ofUpper
	ofDigit
	ofA85
	ofB85
	ofLine  // the line feed
	ofSign  // what escapes begin with, and the U of U+0041
	ofQuote // " ' `
	ofSolid // what lines of something wrapped are made of: printable, no space and no quote
	ofHigh  // beyond ASCII
	ofZero  // NUL
	ofSlash // the backslash
	lanes
)

// lanesOf has, for each byte, the lowest bit of one byte for each of eight lanes.
var lanesOf = func() (t [lanes / 8][256]uint64) {
	for c := range 256 {
		b := byte(c)
		for l, in := range [lanes]bool{
			ofB64:   class[b]&isB64 != 0,
			ofHead0: base64Code.head[0][b],
			ofHead1: base64Code.head[1][b],
			ofHead2: base64Code.head[2][b],
			ofLower: kindOf(b) == 'l',
			ofUpper: kindOf(b) == 'u',
			ofDigit: kindOf(b) == 'd',
			ofA85:   class[b]&isA85 != 0,
			ofB85:   class[b]&isB85 != 0,
			ofLine:  b == '\n',
			ofSign:  strings.IndexByte(`%\&=+U`, b) >= 0,
			ofQuote: strings.IndexByte("\"'`", b) >= 0,
			ofSolid: class[b]&isGraph != 0 && strings.IndexByte("\"'`", b) < 0,
			ofHigh:  b >= 0x80,
			ofZero:  b == 0,
			ofSlash: b == '\\',
		} {
			if in {
				t[l/8][c] |= 1 << (l % 8 * 8)
			}
		}
	}
	return t
}()

var surveys = sync.Pool{New: func() any { return new(survey) }}

// newSurvey looks at a text; release gives the room back.
func newSurvey(text string) *survey {
	s := surveys.Get().(*survey)
	s.text = text
	words := len(text)/64 + 2
	if cap(s.lanes[0]) < words {
		all := make([]uint64, words*int(lanes))
		for l := range s.lanes {
			s.lanes[l] = all[l*words : (l+1)*words : (l+1)*words]
		}
	}
	for l := range s.lanes {
		s.lanes[l] = s.lanes[l][:words]
		s.lanes[l][words-1] = 0
	}
	whole := len(text) / 64
	for i := range whole {
		s.take(i, text[i*64:i*64+64])
	}
	var rest [64]byte
	n := copy(rest[:], text[whole*64:])
	s.take(whole, string(rest[:]))
	for l := range s.lanes {
		s.lanes[l][whole] &= 1<<n - 1
	}
	return s
}

func (s *survey) release() {
	s.text, s.listed = "", [quotes]bool{}
	for i := range s.strings {
		clear(s.strings[i]) // they hold parts of the text
	}
	if cap(s.lanes[0]) <= maxKept {
		surveys.Put(s)
	}
}

// maxKept is up to which size the room of a survey is kept, in words a lane.
const maxKept = 1 << 20 / 64

// take looks at 64 bytes: for each eight of them a word with a byte for each lane, then the eight by eight bytes are transposed.
func (s *survey) take(i int, b string) {
	for half := range lanesOf {
		t := &lanesOf[half]
		w0, w1, w2, w3, w4, w5, w6, w7 := transposed(eight(t, b[:8]), eight(t, b[8:16]), eight(t, b[16:24]), eight(t, b[24:32]),
			eight(t, b[32:40]), eight(t, b[40:48]), eight(t, b[48:56]), eight(t, b[56:64]))
		l := s.lanes[half*8 : half*8+8]
		l[0][i], l[1][i], l[2][i], l[3][i], l[4][i], l[5][i], l[6][i], l[7][i] = w0, w1, w2, w3, w4, w5, w6, w7
	}
}

// eight looks at as many bytes.
func eight(t *[256]uint64, b string) uint64 {
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

// any tells whether a text has a byte of a class.
func (s *survey) any(of lane) bool {
	for _, w := range s.lanes[of] {
		if w != 0 {
			return true
		}
	}
	return false
}

// next is the first place from at on with a byte of a class, or the length of the text.
func (s *survey) next(of lane, at int) int {
	m := s.lanes[of]
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
func (s *survey) end(of lane, at int) int {
	m := s.lanes[of]
	i := at >> 6
	for w := ^m[i] &^ (1<<(at&63) - 1); ; w = ^m[i] {
		if w != 0 {
			return i<<6 + bits.TrailingZeros64(w)
		}
		i++ // there are zeros behind the end
	}
}

// runs lists the runs of bytes of a class that have at least n, which is minRun or min85. The list is good until the next one of that class.
func (s *survey) runs(of lane, n int) []stretch {
	m, all := s.lanes[of], s.stretches[of][:0]
	least := 0
	for i := 0; i+1 < len(m); i++ {
		e := inRow(m[i], m[i+1], n)
		for e &^= below(least - i<<6); e != 0; e &^= below(least - i<<6) {
			at := i<<6 + bits.TrailingZeros64(e)
			least = s.end(of, at+n)
			all = append(all, stretch{at, least})
		}
	}
	s.stretches[of] = all
	return all
}

// count is how many bytes of a class a part of the text has.
func (s *survey) count(of lane, from, to int) (n int) {
	m := s.lanes[of]
	from = max(0, from)
	for i := from >> 6; i < len(m) && i<<6 < to; i++ {
		n += bits.OnesCount64(m[i] & below(to-i<<6) &^ below(from-i<<6))
	}
	return n
}

// below has the lowest n bits.
func below(n int) uint64 {
	switch {
	case n <= 0:
		return 0
	case n >= 64:
		return ^uint64(0)
	}
	return 1<<n - 1
}

// inRow has those bits of a word from which on n are set, minRun (16) or min85; high is the word behind it.
func inRow(low, high uint64, n int) uint64 {
	low, high = low&(low>>1|high<<63), high&(high>>1)
	low, high = low&(low>>2|high<<62), high&(high>>2)
	low, high = low&(low>>4|high<<60), high&(high>>4)
	low, high = low&(low>>8|high<<56), high&(high>>8)
	if n == min85 {
		low &= low>>(min85-minRun) | high<<(64-min85+minRun)
	}
	return low
}

// recur has those bits of a word from which on n bits are set, each step behind the one before; high is the word behind it. n steps are 64 at most.
func recur(low, high uint64, step, n int) uint64 {
	for have := 1; have < n && low != 0; {
		more := min(have, n-have)
		k := more * step
		low &= low>>k | high<<(64-k)
		high &= high >> k
		have += more
	}
	return low
}

// varied leaves out the runs that are words: mostly in lower case, and fewer than so many percent of the bytes are of another kind than the one
// before. In what was encoded more are.
func (s *survey) varied(runs []stretch, percent int) []stretch {
	return sift(runs, func(r stretch) bool { return r.size() > maxVaried || !s.wordy(r, percent) })
}

// maxVaried is the longest run that may be words, in bytes.
const maxVaried = 96

// wordy tells whether a run is made of words: see varied.
func (s *survey) wordy(r stretch, percent int) bool {
	changes, lower := 0, 0
	from := r.start + 1 // the first one is of no other kind than the one before it
	for i := from >> 6; i<<6 < r.end; i++ {
		in := below(r.end-i<<6) &^ below(from-i<<6)
		changes += bits.OnesCount64(s.changes(i) & in)
		lower += bits.OnesCount64(s.lanes[ofLower][i] & in)
	}
	return changes*100 < percent*r.size() && lower*2 >= r.size()
}

// changes has the bytes of a word that are of another kind than the one before.
func (s *survey) changes(i int) (w uint64) {
	for _, l := range [...]lane{ofLower, ofUpper, ofDigit} {
		m := s.lanes[l]
		before := m[i] << 1
		if i > 0 {
			before |= m[i-1] >> 63
		}
		w |= m[i] ^ before
	}
	return w
}

// decodes tells whether a run of base64 has enough groups in a row, in any phase, that can be ASCII text.
func (s *survey) decodes(r stretch) bool {
	last := r.end - base64Code.need()*base64Code.group // where the first of these groups may begin at most
	for i := r.start >> 6; i<<6 <= last; i++ {
		if low := s.groups(i); low != 0 {
			high := uint64(0)
			if i+2 < len(s.lanes[ofB64]) {
				high = s.groups(i + 1)
			}
			if recur(low, high, base64Code.group, base64Code.need())&below(last+1-i<<6)&^below(r.start-i<<6) != 0 {
				return true
			}
		}
	}
	return false
}

// groups has the bytes of a word at which a group of base64 may begin that stands for ASCII.
func (s *survey) groups(i int) uint64 {
	w := s.lanes[ofHead0][i]
	for n, l := range [...]lane{ofHead1, ofHead2, ofB64} {
		m := s.lanes[l]
		w &= m[i]>>(n+1) | m[i+1]<<(63-n)
	}
	return w
}
