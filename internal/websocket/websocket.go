// Package websocket reads the frames of a WebSocket (RFC 6455 §5) in passing,
// so that what they carry can be searched or changed. It answers nothing and
// opens nothing; extensions must not have been negotiated.
package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxFrame is the longest frame that is taken, in bytes: it is held in
// memory until it has been inspected.
const maxFrame = 16 << 20

// maxHeader is the longest header of a frame, in bytes (RFC 6455 §5.2).
const maxHeader = 14

// Opcodes (RFC 6455 §11.8).
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Frame is a whole frame, unmasked. An inspection may change the payload, not
// its length.
type Frame struct {
	Opcode  byte
	Final   bool
	Payload []byte
}

// ErrProtocol is a flow of bytes that is not a WebSocket as it should be.
var ErrProtocol = errors.New("not a websocket frame that can be read")

// ErrHold is what an inspection returns for a frame that must not be given on
// before it has seen the next. Until then it may change the payload.
var ErrHold = errors.New("held until the next frame")

// Inspector takes a flow apart into frames, shows each to a function, and
// gives it on when the function has nothing against it. A flow that RFC 6455
// does not allow ends with an error.
type Inspector struct {
	inspect func(Frame) error
	order   order
	pending []byte   // not a whole frame yet
	header  int      // bytes of the header of the frame that pending begins with; 0: not known yet
	length  int      // bytes of its payload
	held    [][]byte // whole frames that have been shown
	holding int      // bytes of those
	room    room
}

// NewInspector makes an inspector for one direction of one connection: for what
// that side sends.
func NewInspector(from Side, inspect func(Frame) error) *Inspector {
	return &Inspector{inspect: inspect, order: order{from: from}}
}

// Feed takes the next bytes and returns the frames that are whole now. After
// an error nothing more may be given on.
func (i *Inspector) Feed(p []byte) (out []byte, err error) {
	// The copying happens in goroutines of net/http/httputil, where a panic
	// would end the daemon and not just this connection.
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("%w: %v", ErrProtocol, r)
		}
	}()
	if err := i.room.grow(len(i.pending) + len(p) + i.holding); err != nil {
		return nil, err
	}
	i.pending = append(i.pending, p...)
	done := 0
	for {
		if i.header == 0 {
			if i.header, i.length, err = parse(i.pending[done:]); err != nil {
				return nil, err
			}
			if i.header == 0 {
				break
			}
			if err := i.order.header(i.pending[done:]); err != nil {
				return nil, err
			}
		}
		header, length := i.header, i.length
		if len(i.pending)-done < header+length {
			break
		}
		i.header = 0
		frame := append([]byte(nil), i.pending[done:done+header+length]...)
		done += len(frame)
		i.held, i.holding = append(i.held, frame), i.holding+len(frame)
		err = i.show(frame, header)
		if errors.Is(err, ErrHold) {
			if i.holding > maxFrame {
				return nil, fmt.Errorf("%w: more than %d bytes that cannot be judged", ErrProtocol, maxFrame)
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range i.held {
			out = append(out, f...)
		}
		i.held, i.holding = i.held[:0], 0
	}
	if done > 0 { // what is long comes in many pieces
		i.pending = append(i.pending[:0], i.pending[done:]...)
	}
	return out, nil
}

// parse reads a frame's header; a length of 0 means that it is not whole yet.
func parse(p []byte) (header, length int, err error) {
	header, n := sizes(p)
	if header == 0 {
		return 0, 0, nil
	}
	if n > maxFrame {
		return 0, 0, fmt.Errorf("%w: longer than %d bytes", ErrProtocol, maxFrame)
	}
	return header, int(n), nil
}

// sizes are how long a frame's header and its payload are (RFC 6455 §5.2); 0
// of the header while it is not whole.
func sizes(p []byte) (header int, payload uint64) {
	if len(p) < 2 {
		return 0, 0
	}
	header, payload = 2, uint64(p[1]&0x7f)
	switch payload {
	case 126:
		header = 4
	case 127:
		header = 10
	}
	if p[1]&0x80 != 0 {
		header += 4
	}
	if len(p) < header {
		return 0, 0
	}
	switch payload {
	case 126:
		payload = uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		payload = binary.BigEndian.Uint64(p[2:])
	}
	return header, payload
}

func (i *Inspector) show(frame []byte, header int) error {
	payload := frame[header:]
	f := Frame{Opcode: frame[0] & 0x0f, Final: frame[0]&0x80 != 0, Payload: payload}
	if frame[1]&0x80 == 0 {
		if err := i.order.payload(f); err != nil {
			return err
		}
		return i.inspect(f)
	}
	mask := frame[header-4 : header]
	xor(payload, mask)
	if err := i.order.payload(f); err != nil {
		return err
	}
	err := i.inspect(f)
	if errors.Is(err, ErrHold) {
		clear(mask) // so that the payload can be changed as long as it is held
	} else {
		xor(payload, mask)
	}
	return err
}

func xor(payload, mask []byte) {
	for i := range payload {
		payload[i] ^= mask[i&3]
	}
}

// Conn puts inspectors on a connection: down on what a server sends, which is
// read from it, up on what a client sends, which is written to it. Where an
// inspector is nil, only the headers of the frames are looked at.
func Conn(c io.ReadWriteCloser, down, up *Inspector) io.ReadWriteCloser {
	return &conn{ReadWriteCloser: c, down: down, up: up, read: checker{order: order{from: Server}}, written: checker{order: order{from: Client}}}
}

type conn struct {
	io.ReadWriteCloser
	down, up *Inspector
	read     checker // in place of down
	written  checker // in place of up
	out      []byte  // inspected, not yet read
	err      error
}

func (c *conn) Read(p []byte) (int, error) {
	if c.down == nil {
		return c.check(p)
	}
	buf := make([]byte, max(len(p), maxHeader))
	for len(c.out) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.out = nil
		c.down.settle()
		n, err := c.ReadWriteCloser.Read(buf)
		c.err = err
		if c.out, err = c.down.Feed(buf[:n]); err != nil {
			c.err = err
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// check reads what is not inspected.
func (c *conn) check(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.ReadWriteCloser.Read(p)
	good, violation := c.read.feed(p[:n])
	if violation == nil {
		return n, err
	}
	c.err = violation
	if good > 0 {
		return good, nil
	}
	return 0, violation
}

func (c *conn) Write(p []byte) (int, error) {
	if c.up == nil {
		if _, err := c.written.feed(p); err != nil {
			return 0, err
		}
		return c.ReadWriteCloser.Write(p)
	}
	out, err := c.up.Feed(p)
	if err != nil {
		return 0, err
	}
	defer c.up.settle()
	if len(out) > 0 {
		if _, err := c.ReadWriteCloser.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Close implements io.Closer.
func (c *conn) Close() error {
	for _, i := range []*Inspector{c.down, c.up} {
		if i != nil {
			i.room.close()
		}
	}
	return c.ReadWriteCloser.Close()
}
