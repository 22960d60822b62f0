package unpack

import (
	"bytes"
	"io"
)

// Marks of LZ4's frames: those of today, and what the Linux kernel still has.
const (
	MarkLZ4    = "\x04\x22\x4d\x18"
	MarkLZ4Old = "\x02\x21\x4c\x18"
)

// LZ4 reads one frame, or all that stand behind each other (lz4_Frame_format.md). One that needs a dictionary is ErrUnknown.
func LZ4(data []byte, all bool, room Room) ([]byte, error) {
	o := &output{room: room}
	for first := true; first || all && (bytes.HasPrefix(data, []byte(MarkLZ4)) || bytes.HasPrefix(data, []byte(MarkLZ4Old))); first = false {
		o.base = len(o.out)
		read := lz4Frame
		if bytes.HasPrefix(data, []byte(MarkLZ4Old)) {
			read = lz4Old
		}
		rest, err := read(data, o)
		if err != nil {
			return o.out, err
		}
		data = rest
	}
	return o.out, nil
}

func lz4Frame(data []byte, o *output) (rest []byte, err error) {
	const least = 7
	if len(data) < least {
		return nil, io.ErrUnexpectedEOF
	}
	flags, at := data[4], least
	if flags>>6 != 1 || flags&2 != 0 || data[5]&0x8f != 0 {
		return nil, ErrCorrupt
	}
	if flags&8 != 0 {
		at += 8
	}
	if flags&1 != 0 {
		at += 4
	}
	for {
		if at+4 > len(data) {
			return nil, io.ErrUnexpectedEOF
		}
		size := int(le.Uint32(data[at:]) &^ (1 << 31))
		raw := data[at+3]&0x80 != 0
		if at += 4; size == 0 {
			if flags&4 != 0 {
				at += 4
			}
			if flags&1 != 0 {
				return nil, ErrUnknown
			}
			return data[min(at, len(data)):], nil
		}
		block := data[at:min(at+size, len(data))]
		if raw {
			err = o.put(block)
		} else {
			err = lz4Block(block, o)
		}
		if at += size; at > len(data) && (err == nil || err == io.ErrUnexpectedEOF) {
			return nil, io.ErrUnexpectedEOF
		}
		switch {
		case err == io.ErrUnexpectedEOF:
			return nil, ErrCorrupt // it is shorter than its header says
		case err == ErrCorrupt && flags&1 != 0:
			return nil, ErrUnknown // it repeats what stands in the dictionary
		case err != nil:
			return nil, err
		}
		if flags&0x10 != 0 {
			at += 4
		}
	}
}

// lz4Old reads blocks up to the end of the data, or what can be none.
func lz4Old(data []byte, o *output) (rest []byte, err error) {
	const maxBlock = 8<<20 + 8<<20/255 + 16
	for at := len(MarkLZ4Old); ; {
		if at == len(data) {
			return nil, nil
		}
		if at+4 > len(data) {
			return nil, io.ErrUnexpectedEOF
		}
		size := int(le.Uint32(data[at:]))
		if size > maxBlock || size == 0 {
			return data[at:], nil
		}
		at += 4
		o.base = len(o.out)
		err := lz4Block(data[at:min(at+size, len(data))], o)
		if at += size; at > len(data) && (err == nil || err == io.ErrUnexpectedEOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err == io.ErrUnexpectedEOF {
			return nil, ErrCorrupt
		} else if err != nil {
			return nil, err
		}
	}
}

// lz4Block reads sequences of literals and repetitions (lz4_Block_format.md).
func lz4Block(in []byte, o *output) error {
	const least = 4
	at := 0
	length := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for at < len(in) {
			b := in[at]
			at++
			if n += int(b); b < 255 {
				return n, true
			}
		}
		return n, false
	}
	for at < len(in) {
		token := in[at]
		at++
		n, ok := length(int(token >> 4))
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if err := o.put(in[at:min(at+n, len(in))]); err != nil {
			return err
		}
		if at += n; at == len(in) {
			return nil
		}
		if at+2 > len(in) {
			return io.ErrUnexpectedEOF
		}
		back := int(le.Uint16(in[at:]))
		at += 2
		n, ok = length(int(token & 15))
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if back == 0 {
			return ErrCorrupt
		}
		if err := o.repeat(back, n+least); err != nil {
			return err
		}
	}
	return nil
}
