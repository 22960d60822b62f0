package secrets

import (
	"math/bits"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// lookalikes are letters of other scripts that are drawn like ASCII ones (Unicode UTS #39, the part
// of its table that has no decomposition).
var lookalikes = func() map[rune]string {
	m := map[rune]string{}
	for ascii, others := range map[string]string{
		"A": "ΑАᎪᗅꓮ", "B": "ΒВᏴᗷꓐ", "C": "СϹᏟꓚ", "D": "Ꭰᗞꓓᗪ", "E": "ΕЕᎬꓰ", "F": "Ϝᖴꓝ", "G": "ԌᏀᏳꓖ", "H": "ΗНᎻᕼꓧ", "I": "ΙІӀᛁꓲ", "J": "ЈᎫᒍꓙͿ",
		"K": "ΚКᏦᛕꓗ", "L": "ᏞᒪꓡⅬ", "M": "ΜМᎷᗰꓟϺ", "N": "Νꓠ", "O": "ΟОՕꓳ", "P": "ΡРᏢᑭꓑ", "Q": "ႳԚ", "R": "ᎡᖇꓣƦ", "S": "ЅՏᏕᏚꓢ", "T": "ΤТᎢꓔ", "U": "Սᑌꓴ", "V": "ѴᏙᐯꓦ",
		"W": "ԜᎳꓪ", "X": "ΧХᚷꓫ", "Y": "ΥҮУᎩꓬ", "Z": "ΖᏃꓜ", "a": "аɑα", "b": "ЬᏏᖯ", "c": "сϲᴄꮯ", "d": "ԁᏧᑯ", "e": "еҽꬲ", "f": "ꬵϝք", "g": "ɡցᶃ",
		"h": "һհᏂ", "i": "іıɩιӏ", "j": "јϳ", "k": "κк", "l": "ⅼǀ", "m": "ⅿ", "n": "ոռ", "o": "оοօᴏ", "p": "рρ", "q": "ԛգ", "r": "гᴦꭇ", "s": "ѕꜱ", "t": "тτ",
		"u": "υսᴜʋ", "v": "νѵᴠ", "w": "ԝաᴡѡ", "x": "хᕁ", "y": "уүγʏ", "z": "ᴢ", "0": "", "3": "ЗӠꝪ", "6": "бᏮ", "8": "Ȣ",
		"-": "‐‑‒–—−﹘", "_": "ߺ﹍﹎﹏", ".": "․٠۰", "/": "⁄∕╱", ":": "ː˸։∶ꓽ", "=": "᐀꓿",
	} {
		for _, c := range others {
			m[c] = ascii
		}
	}
	return m
}()

// fold writes a text as it is drawn: without what cannot be seen, and in ASCII where other
// characters look the same.
func fold(s input) []view {
	text := s.text
	var edits []edit
	var found editor
	valid, mark := 0, 0 // where the stretch of valid UTF-8 begins, and its edits
	for at := ascii(text); at < len(text); at += ascii(text[at:]) {
		c, n := utf8.DecodeRuneInString(text[at:])
		if c == utf8.RuneError {
			if edits, found.edits = append(edits, found.all()...), found.edits[:0]; at-valid < minText { // chance, in something binary
				edits = edits[:mark]
			}
			valid, mark = at+n, len(edits)
		} else if value, ok := asciiLike(c); ok {
			found.add(at, n, value)
		}
		at += n
	}
	return s.applyEdits(append(edits, found.all()...), true)
}

// ascii is how many bytes of ASCII a text begins with.
func ascii(text string) (n int) {
	for n+8 <= len(text) && word(text[n:n+8])&0x8080808080808080 == 0 {
		n += 8
	}
	for n < len(text) && text[n] < utf8.RuneSelf {
		n++
	}
	return n
}

// asciiLike returns the ASCII character that a character resembles, if there is one.
func asciiLike(c rune) (string, bool) {
	switch {
	case c >= 0xe0020 && c < 0xe007f: // tags, which nothing draws
		return string(c - 0xe0000), true
	case unicode.In(c, unicode.Cf, unicode.Mn, unicode.Me), c == 0x115f, c == 0x1160, c == 0x3164, c == 0xffa0, c == 0x2800:
		return "", true
	}
	if s, ok := lookalikes[c]; ok {
		return s, true
	}
	if c < 0xa0 || c >= 0x2e80 && c < 0xa4d0 || c >= 0xac00 && c < 0xd7a4 { // most of the world's other text
		return "", false
	}
	plain := strings.Map(func(c rune) rune {
		if unicode.Is(unicode.Mn, c) {
			return -1
		}
		return c
	}, norm.NFKD.String(string(c)))
	for _, c := range plain {
		if c >= utf8.RuneSelf {
			return "", false
		}
	}
	return plain, plain != "" && strings.TrimSpace(plain) != ""
}

// A separator comes back at the same distance at least minPeriods times, over at least minPeriodic
// bytes; maxPeriod is the longest distance, and maxPeriodic is how far one look goes.
const (
	minPeriods  = 4
	minPeriodic = 20
	maxPeriod   = 12
	maxPeriodic = 2 << 10
)

// unspace removes separators between single characters, or small groups of them, at equal
// distances.
func unspace(s input) []view {
	var edits []edit
	done := 0
	var failed [maxPeriod + 1][maxPeriod]int // by period and phase: up to where a stretch was looked at in vain
	for i := range len(s.text)/64 + 1 {
		gaps := s.index.gaps(i)
		for may := gaps.periods(); may != 0; may &= may - 1 {
			period := bits.TrailingZeros(may)
			for places := gaps.recurring(period) &^ lowBits(done-i<<6); places != 0; places &= places - 1 {
				at := i<<6 + bits.TrailingZeros64(places)
				if at < failed[period][at%period] {
					continue
				}
				e, ok := periodic(s.text, at, period, done)
				if ok {
					edits = append(edits, e)
					done = e.to
					break
				}
				failed[period][at%period] = e.to
			}
		}
	}
	return s.applyEdits(edits, true)
}

// gaps are the bytes of a word, and of the next one, with which a separator ends: a letter or digit
// follows.
type gaps struct{ low, high uint64 }

func (s *byteIndex) gaps(i int) gaps {
	low, high := s.letters(i), s.letters(i+1)
	return gaps{^low & (low>>1 | high<<63), ^high & (high >> 1)}
}

// four has the bytes from which on four separators may be at a distance. It is inlined with each
// distance in periods, which makes it fast.
func (g gaps) four(p uint) uint64 {
	two := g.low & (g.low>>p | g.high<<(64-p))
	return two & (two>>(2*p) | (g.high&(g.high>>p))<<(64-2*p))
}

// periods has a bit for each distance at which four separators may be.
func (g gaps) periods() (may uint) {
	for p, some := range [...]uint64{g.four(2), g.four(3), g.four(4), g.four(5), g.four(6), g.four(7), g.four(8), g.four(9), g.four(10), g.four(11), g.four(12)} {
		if some != 0 {
			may |= 4 << p
		}
	}
	return may
}

// recurring has the bytes from which on five separators may be at a distance.
func (g gaps) recurring(period int) uint64 {
	p := 4 * uint(period)
	return g.four(uint(period)) & (g.low>>p | g.high<<(64-p))
}

// letters has the letters and digits of a word.
func (s *byteIndex) letters(i int) uint64 {
	return s.bitmaps[ofLower][i] | s.bitmaps[ofUpper][i] | s.bitmaps[ofDigit][i]
}

// separates reports whether a byte is not one that tokens are mostly made of.
func separates(c byte) bool { return separator[c] != 0 }

var separator = func() (t [256]byte) {
	for c := range 256 {
		if kindOf(byte(c)) == 0 {
			t[c] = 1
		}
	}
	return t
}()

// periodic takes the separators out of the stretch in which the byte at sep comes back at one
// distance, if it does so often enough. Where it does not, the edit says up to where the same would
// come of each place of the stretch.
func periodic(text string, sep, period, least int) (e edit, ok bool) {
	from, to := sep, sep
	if sep+period > len(text) {
		return e, false
	}
	// A period with a blank where the first one has none ends the stretch: an interleaved token has
	// no blanks of its own.
	var white [maxPeriod]bool
	for i := range period {
		white[i] = text[sep+i] <= ' '
	}
	for to+period < len(text) && text[to+period] == text[sep] && to < sep+maxPeriodic && !blank(text[to:to+period], &white) {
		to += period
	}
	for from-period >= least && text[from-period] == text[sep] && from > sep-maxPeriodic && !blank(text[from-period:from], &white) {
		from -= period
	}
	e.to = to
	if (to-from)/period < minPeriods || to-from < minPeriodic {
		return e, false
	}
	middle := from + (to-from)/period/2*period
	if shorter := nextSame(text, middle); shorter > 1 && shorter < period && period%shorter == 0 { // by chance, it is before that, too
		return periodic(text, middle, shorter, least)
	}
	var always [maxPeriod]bool // what separates, by its place in the period
	for i := range period {
		always[i] = separates(text[from+i])
		for at := from + i; at < to && always[i]; at += period {
			always[i] = text[at] == text[from+i]
		}
	}
	// An interleaved token has no blanks of its own. At either end, other text may have one at the
	// same distance by chance.
	for from < to && blank(text[from:from+period], &always) {
		from += period
	}
	for from < to && blank(text[to-period:to], &always) {
		to -= period
	}
	if (to-from)/period < minPeriods {
		return e, false
	}
	for at := from; at < to; at += period {
		if blank(text[at:at+period], &always) {
			return e, false
		}
	}
	start := max(least, from-period)
	end := min(len(text), to+period)
	var value []byte
	for at := start; at < end; at++ {
		if !always[(at-from+period)%period] || separates(text[at]) != separates(text[from+(at-from+period)%period]) {
			value = append(value, text[at])
		}
	}
	return edit{from: start, to: end, value: string(value)}, len(value) < end-start
}

// blank reports whether a period has white space where it has no separator.
func blank(text string, always *[maxPeriod]bool) bool {
	for i := range len(text) {
		if text[i] <= ' ' && !always[i] {
			return true
		}
	}
	return false
}

// nextSame is after how many bytes, two at least, the byte at a place comes back; 0: not within a
// period.
func nextSame(text string, at int) int {
	if at+2 >= len(text) {
		return 0
	}
	return 2 + max(-2, strings.IndexByte(text[at+2:min(len(text), at+maxPeriod+1)], text[at]))
}
