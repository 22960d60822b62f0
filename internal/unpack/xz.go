package unpack

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Marks that formats begin with.
const (
	MarkXZ   = "\xfd7zXZ\x00"
	MarkLzip = "LZIP"
)

// XZ reads one stream of the .xz file format, or all that stand behind each other. Of its filters, delta is undone; those for the code of x86 and ARM
// are not: they change no ASCII. Any other is ErrUnknown. What does not begin with a header that holds is ErrCorrupt.
func XZ(data []byte, all bool, room Room) ([]byte, error) {
	o := &output{room: room}
	for first := true; first || all && bytes.HasPrefix(data, []byte(MarkXZ)); first = false {
		rest, err := xzStream(data, o)
		if err != nil || rest == nil {
			return o.out, err
		}
		for len(rest) >= 4 && le.Uint32(rest) == 0 { // padding
			rest = rest[4:]
		}
		data = rest
	}
	return o.out, nil
}

// checkSizes are those of the checks that a stream may have behind each block, by its number.
var checkSizes = [16]int{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

// xzStream reads a stream and returns what stands behind it; nil where it is cut off behind its last block.
func xzStream(data []byte, o *output) (rest []byte, err error) {
	const header = 12
	if len(data) < header {
		return nil, io.ErrUnexpectedEOF
	}
	if string(data[:6]) != MarkXZ || data[6] != 0 || data[7] > 15 || crc32.ChecksumIEEE(data[6:8]) != le.Uint32(data[8:]) {
		return nil, ErrCorrupt
	}
	check := checkSizes[data[7]]
	for at := header; ; {
		if at >= len(data) {
			return nil, io.ErrUnexpectedEOF
		}
		if data[at] == 0 {
			return xzIndex(data[at:]), nil
		}
		size := (int(data[at]) + 1) * 4
		if at+size > len(data) {
			return nil, io.ErrUnexpectedEOF
		}
		delta, known := xzFilters(data[at : at+size-4])
		o.base = len(o.out)
		n, err := lzma2(data[at+size:], o)
		undelta(o.out[o.base:], delta)
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, ErrUnknown
		}
		at += size + (n+3)&^3 + check
	}
}

// xzFilters reads the header of a block: the distance of a delta filter, 0 without one, and whether all else is known.
func xzFilters(header []byte) (delta int, known bool) {
	flags, at := header[1], 2
	number := func() uint64 {
		v, n := binary.Uvarint(header[min(at, len(header)):])
		if n <= 0 {
			at = len(header) + 1
			return 0
		}
		at += n
		return v
	}
	for _, bit := range []byte{0x40, 0x80} { // the sizes
		if flags&bit != 0 {
			number()
		}
	}
	count, code := int(flags&3)+1, false
	for i := range count {
		id, size := number(), number()
		if at > len(header) || size > uint64(len(header)-at) {
			return 0, false
		}
		props := header[at : at+int(size)]
		at += int(size)
		switch {
		case id == 0x21 && i == count-1:
			return delta, !code || delta == 0
		case id == 3 && size == 1 && delta == 0:
			delta = int(props[0]) + 1
		case id == 4 || id == 7 || id == 8 || id == 0xa:
			code = true
		default:
			return 0, false
		}
	}
	return 0, false
}

// undelta undoes the filter that leaves the differences of bytes.
func undelta(p []byte, distance int) {
	if distance == 0 {
		return
	}
	for i := distance; i < len(p); i++ {
		p[i] += p[i-distance]
	}
}

// xzIndex is what stands behind the index and the footer of a stream.
func xzIndex(data []byte) (rest []byte) {
	at := 1
	number := func() uint64 {
		v, n := binary.Uvarint(data[min(at, len(data)):])
		if n <= 0 {
			at, n = len(data), 0
		}
		at += n
		return v
	}
	for n := number(); n > 0 && at < len(data); n-- {
		number()
		number()
	}
	const checksum, footer = 4, 12
	if at = (at+3)&^3 + checksum + footer; at > len(data) {
		return nil
	}
	return data[at:]
}

// LZMA2 reads a stream without a header. delta is the distance of a filter over it, 0 without one.
func LZMA2(data []byte, delta int, room Room) ([]byte, error) {
	o := &output{room: room}
	_, err := lzma2(data, o)
	undelta(o.out, delta)
	return o.out, err
}

// lzma2 reads chunks up to their end and returns how many bytes they took.
func lzma2(data []byte, o *output) (n int, err error) {
	const header, maxLiteral2 = 6, 4
	var m *model
	for at := 0; ; {
		if at >= len(data) {
			return at, io.ErrUnexpectedEOF
		}
		control := data[at]
		if control == 0 {
			return at + 1, nil
		}
		var head [header]byte
		copy(head[:], data[at:])
		size := int(head[1])<<8 + int(head[2]) + 1
		if control == 1 || control >= 0xe0 {
			o.base = len(o.out)
		}
		if control < 0x80 {
			if control > 2 {
				return at, ErrCorrupt
			}
			body := data[min(at+3, len(data)):]
			if err := o.put(body[:min(size, len(body))]); err != nil {
				return at, err
			}
			if at += 3 + size; at > len(data) {
				return at, io.ErrUnexpectedEOF
			}
			continue
		}
		packed := int(head[3])<<8 + int(head[4]) + 1
		size += int(control&0x1f) << 16
		reset, length := control>>5&3, 5
		if reset >= 2 {
			length = header
			if m, err = newModel(head[5], maxLiteral2); err != nil && at+header <= len(data) {
				return at, err
			}
		}
		if at+length > len(data) {
			return at, io.ErrUnexpectedEOF
		}
		if m == nil {
			return at, ErrCorrupt
		}
		if reset >= 1 {
			if err := m.reset(o); err != nil {
				return at, err
			}
		}
		at += length
		var c coder
		if err := c.start(data[at:min(at+packed, len(data))]); err != nil {
			return at, err
		}
		if err := m.decode(&c, o, int64(size)); err == io.ErrUnexpectedEOF && at+packed <= len(data) {
			return at, ErrCorrupt // it is shorter than its header says
		} else if err != nil {
			return at, err
		}
		at += packed
	}
}

// LZMA reads a stream that begins with the byte of its properties and the four of its dictionary, as zip and 7z have it. size is -1 where it ends
// with a mark. delta is as for LZMA2.
func LZMA(props, data []byte, size int64, delta int, room Room) ([]byte, error) {
	o := &output{room: room}
	_, err := stream(props, data, size, o)
	undelta(o.out, delta)
	return o.out, err
}

// stream returns what stands behind a stream, too.
func stream(props, data []byte, size int64, o *output) (rest []byte, err error) {
	if len(props) < 5 {
		return nil, ErrCorrupt
	}
	m, err := newModel(props[0], maxLiteral)
	if err != nil {
		return nil, err
	}
	if err := m.reset(o); err != nil {
		return nil, err
	}
	var c coder
	if err := c.start(data); err != nil {
		return nil, err
	}
	err = m.decode(&c, o, size)
	return data[c.at:], err
}

// aloneHeader is how long the header of LZMA alone is: properties, dictionary, size.
const aloneHeader = 13

// Alone reads the .lzma file format, which has no mark.
func Alone(data []byte, room Room) ([]byte, error) {
	if len(data) < aloneHeader {
		return nil, io.ErrUnexpectedEOF
	}
	size := int64(le.Uint64(data[5:]))
	if size < endless {
		return nil, ErrCorrupt
	}
	return LZMA(data, data[aloneHeader:], size, 0, room)
}

// IsAlone tells whether data may begin with the header of LZMA alone: every encoder writes dictionaries of 2^n or 3×2^n bytes, and a size that
// is not given or below 256 GiB (as xz itself asks, lzma_alone_decoder). The first byte of what follows is zero.
func IsAlone(data []byte) bool {
	if len(data) <= aloneHeader || data[0] >= 9*5*5 || data[aloneHeader] != 0 {
		return false
	}
	dictionary, size := le.Uint32(data[1:]), int64(le.Uint64(data[5:]))
	if size != endless && (size <= 0 || size >= 1<<38) {
		return false
	}
	for dictionary > 3 && dictionary&1 == 0 {
		dictionary >>= 1
	}
	return dictionary <= 3 && dictionary > 0 || le.Uint32(data[1:]) == 1<<32-1
}

// Models is how much room the models take that a byte of properties asks for, in bytes.
func Models(props byte) int { return 2 * (0x300<<(props%9+props/9%5) + 0x800) }

// Lzip reads one member of the .lz file format, or all that stand behind each other.
func Lzip(data []byte, all bool, room Room) ([]byte, error) {
	const header, trailer0, trailer = 6, 12, 20
	props := []byte{2*45 + 3, 0, 0, 0, 0} // lc 3, lp 0, pb 2
	o := &output{room: room}
	for first := true; first || all && bytes.HasPrefix(data, []byte(MarkLzip)); first = false {
		if len(data) < header {
			return o.out, io.ErrUnexpectedEOF
		}
		version := data[4]
		if version > 1 {
			return o.out, ErrCorrupt
		}
		o.base = len(o.out)
		rest, err := stream(props, data[header:], endless, o)
		if err != nil {
			return o.out, err
		}
		if data = rest[min(len(rest), trailer):]; version == 0 {
			data = rest[min(len(rest), trailer0):]
		}
	}
	return o.out, nil
}
