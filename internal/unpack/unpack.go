// Package unpack reads what archives are compressed with and Go's library does not know: LZMA (alone, as lzip, as xz) and LZ4's frames. It reads
// from memory to memory, for internal/secrets. What has come out is kept, and is the dictionary as well: no memory is taken for what a header says.
// Checksums are not compared; what others would refuse for one is read all the same.
package unpack

import (
	"encoding/binary"
	"errors"
)

var (
	// ErrCorrupt is data that breaks the rules of its format. What came out before is there.
	ErrCorrupt = errors.New("corrupt compressed data")
	// ErrUnknown is data in a form of its format that is not undone here, and may be elsewhere.
	ErrUnknown = errors.New("a form of compression that is not known")
)

// Room is asked before more than it has allowed so far comes out: it tells up to how many bytes may, n at least, or why not.
type Room func(n int) (most int, err error)

// output is what has come out, and where the stream that is read begins in it.
type output struct {
	out    []byte
	base   int
	room   Room
	resets int // of models
}

// firstRoom is what the shortest output takes, in bytes.
const firstRoom = 4 << 10

// need makes room for n more bytes.
func (o *output) need(n int) error {
	if len(o.out)+n <= cap(o.out) {
		return nil
	}
	most, err := o.room(len(o.out) + n)
	if err != nil {
		return err
	}
	size := max(firstRoom, 2*cap(o.out))
	grown := make([]byte, len(o.out), max(len(o.out)+n, min(size, most)))
	copy(grown, o.out)
	o.out = grown
	return nil
}

// put adds bytes.
func (o *output) put(p []byte) error {
	if err := o.need(len(p)); err != nil {
		return err
	}
	o.out = append(o.out, p...)
	return nil
}

// repeat adds n bytes, each of which stands back bytes before it.
func (o *output) repeat(back, n int) error {
	if back > len(o.out)-o.base {
		return ErrCorrupt
	}
	if err := o.need(n); err != nil {
		return err
	}
	at := len(o.out)
	o.out = o.out[:at+n]
	for from := at - back; at < len(o.out); {
		at += copy(o.out[at:], o.out[from:at])
	}
	return nil
}

var le = binary.LittleEndian
