package objects

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"math/bits"
)

// flate inflates zlib streams (RFC 1950, RFC 1951) that lie in memory, into memory. Objects of a repository are many and small: a decoder that
// keeps a window and asks a reader for each byte spends most of its time on beginning. The zero value is ready.
type flate struct {
	lengths [320]uint8
	lit     [litTable]uint32
	dist    [distTable]uint32
	code    [1 << 7]uint32
	fixed   bool // lit and dist hold the fixed codes

	src      []byte
	at       int    // of the next byte
	hold     uint64 // bits that were read and not used, the next one lowest
	held     uint   // how many
	imagined uint   // of those, bytes behind the end of src, which are zero
}

// errShort says that the stream goes on behind the bytes at hand.
var errShort = errors.New("stream goes on")

const (
	litBits  = 10 // of a code that the first table tells; the rest is in tables behind it
	distBits = 8
	// Room for the tables: 286 and 30 symbols of up to 15 bits, of which at least two share a table behind the first one.
	litTable  = 8192
	distTable = 4096
)

// An entry of a table holds the bits of its code (0-4), what it is (5-7), its extra bits (8-15) and a value (16-31).
const (
	isLength  = 1 << 5 // or a distance
	isTable   = 2 << 5 // the value is where; the extra bits are those of its index
	isEnd     = 3 << 5 // of the block
	isNothing = 4 << 5
	kind      = 7 << 5
)

// inflate fills dst with what a stream at the beginning of src holds, which must be just as long, and returns how long the stream is.
func (z *flate) inflate(dst, src []byte) (n int, err error) {
	if len(src) < 2 {
		return 0, errShort
	}
	if head := uint(src[0])<<8 | uint(src[1]); src[0]&15 != 8 || src[0]>>4 > 7 || head%31 != 0 || src[1]&0x20 != 0 {
		return 0, fmt.Errorf("%w: no zlib stream", ErrCorrupt)
	}
	z.src, z.at, z.hold, z.held, z.imagined = src, 2, 0, 0, 0
	defer func() { z.src = nil }()
	out := 0
	for last := false; !last; {
		if out, last, err = z.block(dst, out); err != nil {
			return 0, z.blame(err)
		}
	}
	if out != len(dst) {
		return 0, z.blame(errLength)
	}
	z.drop(z.held & 7)
	z.refill()
	sum := bits.ReverseBytes32(uint32(z.hold))
	z.drop(32)
	if z.imagined*8 > z.held {
		return 0, errShort
	}
	if sum != adler32.Checksum(dst) {
		return 0, fmt.Errorf("%w: checksum of an object differs", ErrCorrupt)
	}
	return z.at - int(z.held/8-z.imagined), nil
}

var (
	errLength  = fmt.Errorf("%w: object does not end where it says", ErrCorrupt)
	errDeflate = fmt.Errorf("%w: invalid deflate stream", ErrCorrupt)
)

// blame prefers that bytes are missing to what was made of the zeros in their place.
func (z *flate) blame(err error) error {
	if z.imagined*8 > z.held {
		return errShort
	}
	return err
}

// refill makes sure that at least 56 bits are held.
func (z *flate) refill() {
	if z.at+8 <= len(z.src) {
		z.hold |= binary.LittleEndian.Uint64(z.src[z.at:]) << (z.held & 63)
		z.at += int(63-z.held) >> 3
		z.held |= 56
		return
	}
	for z.held <= 56 {
		if z.at < len(z.src) {
			z.hold |= uint64(z.src[z.at]) << (z.held & 63)
			z.at++
		} else {
			z.imagined++
		}
		z.held += 8
	}
}

func (z *flate) drop(n uint) {
	z.hold >>= n & 63
	z.held -= n
}

// take is the next n bits, up to 16; refill was called not long ago.
func (z *flate) take(n uint) uint {
	v := uint(z.hold) & (1<<n - 1)
	z.drop(n)
	return v
}

func (z *flate) block(dst []byte, out int) (next int, last bool, err error) {
	z.refill()
	last = z.take(1) == 1
	switch z.take(2) {
	case 0:
		out, err = z.stored(dst, out)
	case 1:
		z.fixedCodes()
		out, err = z.codes(dst, out)
	case 2:
		if err = z.dynamicCodes(); err == nil {
			out, err = z.codes(dst, out)
		}
	default:
		err = errDeflate
	}
	return out, last, err
}

func (z *flate) stored(dst []byte, out int) (int, error) {
	z.drop(z.held & 7)
	z.refill()
	n, not := z.take(16), z.take(16)
	if z.imagined*8 > z.held {
		return out, errShort
	}
	if n != not^0xffff {
		return out, errDeflate
	}
	z.at -= int(z.held/8 - z.imagined)
	z.hold, z.held, z.imagined = 0, 0, 0
	switch {
	case int(n) > len(dst)-out:
		return out, errLength
	case int(n) > len(z.src)-z.at:
		return out, errShort
	}
	copy(dst[out:], z.src[z.at:z.at+int(n)])
	z.at += int(n)
	return out + int(n), nil
}

// codes reads a block that is written in the codes of the tables.
func (z *flate) codes(dst []byte, out int) (int, error) {
	// The state lives in registers.
	src, at, hold, held := z.src, z.at, z.hold, z.held
	for {
		if at+8 <= len(src) {
			hold |= binary.LittleEndian.Uint64(src[at:]) << (held & 63)
			at += int(63-held) >> 3
			held |= 56
		} else {
			z.at, z.hold, z.held = at, hold, held
			z.refill()
			at, hold, held = z.at, z.hold, z.held
			if z.imagined > 8 {
				return out, errShort
			}
		}
		e := z.lit[hold&(1<<litBits-1)]
		if e&kind == isTable {
			e = z.lit[(uint32(e>>16)+uint32(hold>>litBits)&(1<<(e>>8&0xff)-1))&(litTable-1)]
		}
		hold >>= e & 31
		held -= uint(e & 31)
		if e&kind == 0 {
			if out == len(dst) {
				z.at, z.hold, z.held = at, hold, held
				return out, errLength
			}
			dst[out] = byte(e >> 16)
			out++
			// 41 bits or more are left: enough for one more literal, at most 15 bits, and what may follow is read after a refill.
			e = z.lit[hold&(1<<litBits-1)]
			if e&kind != 0 || out == len(dst) {
				continue
			}
			hold >>= e & 31
			held -= uint(e & 31)
			dst[out] = byte(e >> 16)
			out++
			continue
		}
		if e&kind != isLength {
			z.at, z.hold, z.held = at, hold, held
			if e&kind == isEnd {
				return out, nil
			}
			return out, errDeflate
		}
		extra := e >> 8 & 0xff
		length := int(e>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		held -= uint(extra)
		e = z.dist[hold&(1<<distBits-1)]
		if e&kind == isTable {
			e = z.dist[(uint32(e>>16)+uint32(hold>>distBits)&(1<<(e>>8&0xff)-1))&(distTable-1)]
		}
		hold >>= e & 31
		held -= uint(e & 31)
		extra = e >> 8 & 0xff
		back := int(e>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		held -= uint(extra)
		if e&kind != isLength || back > out {
			z.at, z.hold, z.held = at, hold, held
			return out, errDeflate
		}
		if length > len(dst)-out {
			z.at, z.hold, z.held = at, hold, held
			return out, errLength
		}
		out = repeat(dst, out, back, length)
	}
}

// repeat copies what stands some bytes back; the copy may run into itself.
func repeat(dst []byte, out, back, length int) int {
	end := out + length
	if back >= length {
		copy(dst[out:end], dst[out-back:])
		return end
	}
	if back == 1 {
		c, part := dst[out-1], dst[out:end]
		for i := range part {
			part[i] = c
		}
		return end
	}
	for out < end {
		out += copy(dst[out:end], dst[out-back:out])
		back *= 2
	}
	return end
}

// Lengths and distances as RFC 1951 §3.2.5 has them.
var (
	lengthBase  = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	codeOrder   = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

	litEntries, distEntries, codeEntries = entryTables()
)

func entryTables() (lit [288]uint32, dist [32]uint32, code [19]uint32) {
	for s := range lit {
		switch {
		case s < 256:
			lit[s] = uint32(s) << 16
		case s == 256:
			lit[s] = isEnd
		case s < 286:
			lit[s] = uint32(lengthBase[s-257])<<16 | uint32(lengthExtra[s-257])<<8 | isLength
		default:
			lit[s] = isNothing
		}
	}
	base := uint32(1)
	for s := range dist {
		if s >= 30 {
			dist[s] = isNothing
			continue
		}
		extra := uint32(max(s/2-1, 0))
		dist[s] = base<<16 | extra<<8 | isLength
		base += 1 << extra
	}
	for s := range code {
		code[s] = uint32(s) << 16
	}
	return lit, dist, code
}

func (z *flate) fixedCodes() {
	if z.fixed {
		return
	}
	for s := range 288 {
		switch {
		case s < 144:
			z.lengths[s] = 8
		case s < 256:
			z.lengths[s] = 9
		case s < 280:
			z.lengths[s] = 7
		default:
			z.lengths[s] = 8
		}
	}
	_ = table(z.lit[:], litBits, z.lengths[:288], litEntries[:], false) // the codes are complete
	for s := range 32 {
		z.lengths[s] = 5
	}
	_ = table(z.dist[:], distBits, z.lengths[:32], distEntries[:], false)
	z.fixed = true
}

// dynamicCodes reads the codes in front of a block (RFC 1951 §3.2.7).
func (z *flate) dynamicCodes() error {
	z.fixed = false
	z.refill()
	lits, dists, codes := int(z.take(5))+257, int(z.take(5))+1, int(z.take(4))+4
	if lits > 286 || dists > 30 {
		return errDeflate
	}
	clear(z.lengths[:19])
	for i := range codes {
		z.refill()
		z.lengths[codeOrder[i]] = uint8(z.take(3))
	}
	if !table(z.code[:], 7, z.lengths[:19], codeEntries[:], false) {
		return errDeflate
	}
	if err := z.codeLengths(lits + dists); err != nil {
		return err
	}
	if z.lengths[256] == 0 || !table(z.lit[:], litBits, z.lengths[:lits], litEntries[:], true) || !table(z.dist[:], distBits, z.lengths[lits:lits+dists], distEntries[:], true) {
		return errDeflate
	}
	return nil
}

// codeLengths reads how long the codes of all symbols are.
func (z *flate) codeLengths(n int) error {
	for i := 0; i < n; {
		z.refill()
		if z.imagined > 8 {
			return errShort
		}
		e := z.code[z.hold&(1<<7-1)]
		if e&kind != 0 {
			return errDeflate
		}
		z.drop(uint(e & 31))
		symbol, value, times := e>>16, uint8(0), 1
		switch symbol {
		case 16:
			if i == 0 {
				return errDeflate
			}
			value, times = z.lengths[i-1], 3+int(z.take(2))
		case 17:
			times = 3 + int(z.take(3))
		case 18:
			times = 11 + int(z.take(7))
		default:
			value = uint8(symbol)
		}
		if i+times > n {
			return errDeflate
		}
		for range times {
			z.lengths[i] = value
			i++
		}
	}
	return nil
}

// table makes a table of canonical codes (RFC 1951 §3.2.2). Codes that leave room are refused as zlib refuses them: but for a single code of one
// bit, and no code at all, where that is allowed.
func table(t []uint32, root uint, lengths []uint8, entries []uint32, single bool) bool {
	var count, next [16]int
	most := 0
	for _, l := range lengths {
		count[l]++
		most = max(most, int(l))
	}
	left := 1
	for l := 1; l < 16; l++ {
		if left = left<<1 - count[l]; left < 0 {
			return false
		}
	}
	if most > 0 && left > 0 && (!single || most != 1) {
		return false
	}
	for l, code := 1, 0; l < 16; l++ {
		next[l] = code
		code = (code + count[l]) << 1
	}
	for i := range t[:1<<root] {
		t[i] = isNothing
	}
	free := 1 << root
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		code := bits.Reverse16(uint16(next[l])) >> (16 - l)
		next[l]++
		if uint(l) <= root {
			for i := int(code); i < 1<<root; i += 1 << l {
				t[i] = entries[s] | uint32(l)
			}
			continue
		}
		// The tables behind the first are all as wide as the longest code wants: there is room for that.
		at, wide := int(code)&(1<<root-1), uint(most)-root
		if t[at]&kind != isTable {
			if free+1<<wide > len(t) {
				return false
			}
			t[at] = uint32(free)<<16 | uint32(wide)<<8 | isTable
			for i := range t[free : free+1<<wide] {
				t[free+i] = isNothing
			}
			free += 1 << wide
		}
		sub := int(t[at] >> 16)
		for i := int(code) >> root; i < 1<<wide; i += 1 << (uint(l) - root) {
			t[sub+i] = entries[s] | uint32(l)
		}
	}
	return true
}
