package secrets

import (
	"errors"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// words finds every keyword in a text, ASCII case ignored. Each place is first looked up by its
// three bytes: as two pairs, in a table that tells which of eight groups of keywords have such a
// pair first, and which have it second; then together, in a table of bits. Only where they are the
// rarest three of some keyword are keywords themselves compared. Unlike in an automaton, no place
// has to wait for the one before.
type words struct {
	pairs  *[1 << 16]uint16           // by two bytes in lower case: the groups that have them first, and above these those that have them second
	some   [1 << gramBits / 64]uint64 // which hashes of three bytes a keyword has
	before [1 << gramBits / 64]uint16 // how many there are before each word of some
	rows   [][]uint16                 // for each of them, in order: the keywords
	quick  []quick                    // by keyword
	folded []string                   // keywords in lower case
	offset []int                      // by keyword: where its three bytes are
	single []string                   // those of one byte, which are too short for the table
}

// quick is what eight bytes from a keyword's three bytes on must be, without their case.
type quick struct{ value, mask uint64 }

// newQuick is that of what a keyword has from there on, in lower case.
func newQuick(k string) (q quick) {
	for i := range min(8, len(k)) {
		q.value |= uint64(k[i]|0x20) << (8 * i)
		q.mask |= 0xff << (8 * i)
	}
	return q
}

const cases = 0x2020202020202020

const (
	gramBits = 17
	maxWords = 1 << 16
)

// gram hashes the lowest three bytes, whose case does not count.
func gram(x uint32) uint32 { return (x | 0x202020) << 8 * 0x9e3779b1 >> (32 - gramBits) }

func newWords(keywords []string) (*words, error) {
	if len(keywords) > maxWords {
		return nil, errors.New("too many keywords or stop words")
	}
	w := &words{pairs: new([1 << 16]uint16)}
	rows := map[uint32][]uint16{}
	for i, k := range keywords {
		k = strings.ToLower(k)
		w.folded = append(w.folded, k)
		w.offset = append(w.offset, rarest(k))
		w.quick = append(w.quick, newQuick(k[w.offset[i]:]))
		if len(k) == 1 {
			w.single = append(w.single, k)
		}
		w.pair(k[w.offset[i]:], 1<<(i%8))
		for _, h := range grams(k[w.offset[i]:]) {
			w.some[h>>6] |= 1 << (h & 63)
			if !slices.Contains(rows[h], uint16(i)) {
				rows[h] = append(rows[h], uint16(i))
			}
		}
	}
	if len(rows) >= maxWords {
		return nil, errors.New("too many keywords or stop words")
	}
	for _, h := range slices.Sorted(maps.Keys(rows)) {
		w.rows = append(w.rows, rows[h])
	}
	for i := 1; i < len(w.some); i++ {
		w.before[i] = w.before[i-1] + uint16(bits.OnesCount64(w.some[i-1]))
	}
	return w, nil
}

// pair notes what the three bytes that a keyword has from there on are made of.
func (w *words) pair(k string, group uint16) {
	if len(k) < 2 {
		return
	}
	w.pairs[pairOf(k[0], k[1])] |= group
	for c := range 256 {
		if len(k) == 2 || byte(c) == k[2] {
			w.pairs[pairOf(k[1], byte(c))] |= group << 8
		}
	}
}

func pairOf(a, b byte) uint16 { return uint16(a) | uint16(b)<<8 | cases&0xffff }

// frequent are letters in the order in which texts have them (the commonest first).
const frequent = "etaoinsrhldcumfpgwybvkxjqz"

// rarest is where in a keyword the three bytes are that texts have least.
func rarest(k string) (at int) {
	least := math.Inf(1)
	for i := 0; i+3 <= len(k); i++ {
		often := 1.0
		for _, c := range []byte(k[i : i+3]) {
			n := strings.IndexByte(frequent, c)
			if n < 0 {
				n = len(frequent) // digits and signs
			}
			often /= float64(n + 2)
		}
		if often < least {
			least, at = often, i
		}
	}
	return at
}

// grams are the hashes under which a keyword may be found: one, or one for each byte that may
// follow a keyword of two.
func grams(k string) (all []uint32) {
	switch {
	case len(k) < 2:
		return nil
	case len(k) > 2:
		return []uint32{gram(uint32(k[0]) | uint32(k[1])<<8 | uint32(k[2])<<16)}
	}
	for c := range uint32(256) {
		if c&0x20 != 0 {
			all = append(all, gram(uint32(k[0])|uint32(k[1])<<8|c<<16))
		}
	}
	return all
}

func (w *words) empty() bool { return len(w.folded) == 0 }

// in reports whether any keyword is in text.
func (w *words) in(text string) (yes bool) {
	for _, k := range w.single {
		if strings.ContainsAny(text, k+strings.ToUpper(k)) {
			return true
		}
	}
	w.each(text, func(int, int, int) bool {
		yes = true
		return false
	})
	return yes
}

// each calls found for every keyword of two bytes or more in text until it returns false. They come
// in the order of their rarest three bytes: two that overlap may be exchanged.
func (w *words) each(text string, found func(keyword, start, end int) bool) {
	pairs := w.pairs
	i := 0
	for ; i+8 <= len(text); i += 6 {
		x := word(text[i:i+8]) | cases
		p0, p1, p2, p3 := pairs[uint16(x)], pairs[uint16(x>>8)], pairs[uint16(x>>16)], pairs[uint16(x>>24)]
		p4, p5, p6 := pairs[uint16(x>>32)], pairs[uint16(x>>40)], pairs[uint16(x>>48)]
		if p0&(p1>>8)|p1&(p2>>8)|p2&(p3>>8)|p3&(p4>>8)|p4&(p5>>8)|p5&(p6>>8) == 0 {
			continue
		}
		for k := range 6 {
			if h := gram(uint32(x >> (8 * k))); w.has(h) && !w.at(text, i+k, h, found) {
				return
			}
		}
	}
	for ; i < len(text); i++ {
		var x uint32
		for k := range min(3, len(text)-i) {
			x |= uint32(text[i+k]) << (8 * k)
		}
		if h := gram(x); w.has(h) && !w.at(text, i, h, found) {
			return
		}
	}
}

// has reports whether some keyword has three bytes of a hash.
func (w *words) has(h uint32) bool { return w.some[h>>6]>>(h&63)&1 != 0 }

// at compares the keywords that may have their three bytes at a place.
func (w *words) at(text string, place int, h uint32, found func(keyword, start, end int) bool) bool {
	row := int(w.before[h>>6]) + bits.OnesCount64(w.some[h>>6]&(1<<(h&63)-1))
	next := uint64(0)
	whole := place+8 <= len(text)
	if whole {
		next = word(text[place:place+8]) | cases
	}
	for _, k := range w.rows[row] {
		if q := &w.quick[k]; whole && next&q.mask != q.value {
			continue
		}
		start := place - w.offset[k]
		end := start + len(w.folded[k])
		if start >= 0 && end <= len(text) && equalFold(text[start:end], w.folded[k]) && !found(int(k), start, end) {
			return false
		}
	}
	return true
}

// equalFold compares a text with one that is in lower case.
func equalFold(text, folded string) bool {
	for i := range len(folded) {
		c := text[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != folded[i] {
			return false
		}
	}
	return true
}
