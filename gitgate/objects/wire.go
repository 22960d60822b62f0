package objects

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
)

// wireBuffer is how much is read at a time, at most, in bytes.
const wireBuffer = 1 << 20

// wire reads a pack and hands what was consumed, and no more, to a goroutine that writes it to the file and sums it up. It
// never asks for more than the pack has: behind its end nothing may come until the pack is answered.
type wire struct {
	ctx    context.Context // ends the reading between two reads
	src    io.Reader
	buf    []byte
	mark   int // from here on nothing was handed over
	part   int // from here on the entry is not in its checksum
	r, w   int // read ahead: [r,w)
	before int64
	limits Limits
	crc    uint32
	err    error

	spare  chan []byte
	chunks chan chunk
	gone   chan struct{}
	sha    hash.Hash
	failed error // of the file; to be read when the goroutine is gone
}

// chunk is a part of a buffer that was consumed. The buffer comes back when nothing else of it is needed.
type chunk struct {
	data []byte
	buf  []byte // nil: more of it follows
	sync chan struct{}
}

func newWire(ctx context.Context, src io.Reader, out *os.File, limits Limits) *wire {
	t := &wire{ctx: ctx, src: src, limits: limits, sha: sha1.New(), spare: make(chan []byte, 2), chunks: make(chan chunk, 2), gone: make(chan struct{})}
	t.buf = make([]byte, wireBuffer)
	t.spare <- make([]byte, wireBuffer)
	go t.file(out)
	return t
}

// file writes and sums up until there is no more.
func (t *wire) file(out *os.File) {
	defer close(t.gone)
	for c := range t.chunks {
		if t.failed == nil {
			t.sha.Write(c.data)
			_, t.failed = out.Write(c.data)
		}
		if c.sync != nil {
			close(c.sync)
		}
		if c.buf != nil {
			t.spare <- c.buf
		}
	}
}

func (t *wire) offset() int64 { return t.before + int64(t.r) }

// ahead is what has come and was not consumed.
func (t *wire) ahead() []byte { return t.buf[t.r:t.w] }

func (t *wire) skip(n int) { t.r += n }

// sum ends an entry and returns its CRC.
func (t *wire) sum() uint32 {
	crc := crc32.Update(t.crc, crc32.IEEETable, t.buf[t.part:t.r])
	t.crc, t.part = 0, t.r
	return crc
}

// fill reads on when all is consumed.
func (t *wire) fill() error {
	if t.err != nil {
		return t.err
	}
	if t.ctx.Err() != nil {
		t.err = context.Cause(t.ctx)
		return t.err
	}
	if t.offset() > t.limits.PackBytes {
		t.err = &PackTooLargeError{Limit: t.limits.PackBytes}
		return t.err
	}
	if t.w == len(t.buf) {
		t.turn()
	}
	n, err := io.ReadAtLeast(t.src, t.buf[t.w:], 1)
	if t.w += n; n == 0 {
		t.err = unexpected(err)
	} else {
		t.err = t.limits.room(n)
	}
	return t.err
}

// turn goes on in another buffer. All of this one is consumed.
func (t *wire) turn() {
	t.crc = crc32.Update(t.crc, crc32.IEEETable, t.buf[t.part:t.r])
	t.before += int64(t.r)
	t.chunks <- chunk{data: t.buf[t.mark:t.r], buf: t.buf}
	t.buf = <-t.spare
	t.mark, t.part, t.r, t.w = 0, 0, 0, 0
}

// ReadByte makes the inflater stop exactly behind a stream.
func (t *wire) ReadByte() (byte, error) {
	if t.r == t.w {
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
	c := t.buf[t.r]
	t.r++
	return c, nil
}

func (t *wire) Read(p []byte) (int, error) {
	if t.r == t.w {
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.buf[t.r:t.w])
	t.r += n
	return n, nil
}

// blame prefers the wire's own error to what the inflater made of it.
func (t *wire) blame(err error) error {
	if t.err != nil {
		return t.err
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return err
}

// trailer compares the pack's checksum, and sees that all is in the file.
func (t *wire) trailer() (got Hash, err error) {
	t.hand()
	want := t.sha.Sum(nil)
	if _, err := io.ReadFull(t, got[:]); err != nil {
		return got, fmt.Errorf("reading checksum: %w", unexpected(err))
	}
	if !bytes.Equal(got[:], want) {
		return got, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	if t.offset() > t.limits.PackBytes {
		return got, &PackTooLargeError{Limit: t.limits.PackBytes}
	}
	t.hand()
	return got, t.failed
}

// followed reports whether more has been read than was consumed, or can be read at once.
func (t *wire) followed() bool {
	if t.r < t.w {
		return true
	}
	b, ok := t.src.(interface{ Buffered() int })
	return ok && b.Buffered() > 0
}

// hand gives what was consumed to the file and waits until it is there.
func (t *wire) hand() {
	done := make(chan struct{})
	t.chunks <- chunk{data: t.buf[t.mark:t.r], sync: done}
	<-done
	t.mark = t.r
}

// release gives the buffers back; nothing more is read.
func (t *wire) release() { t.buf, t.mark, t.part, t.r, t.w = nil, 0, 0, 0, 0 }

// close waits for the file and returns its error.
func (t *wire) close() error {
	close(t.chunks)
	<-t.gone
	if t.failed != nil {
		return fmt.Errorf("writing pack: %w", t.failed)
	}
	return nil
}

func plainSum(b []byte) []byte {
	sum := sha1.Sum(b)
	return sum[:]
}
