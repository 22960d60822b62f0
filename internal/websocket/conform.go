package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Side is who sends a flow of frames: a client must mask them (RFC 6455 §5.1). A
// server must not; its client judges that.
type Side bool

// The two sides.
const (
	Client Side = true
	Server Side = false
)

// ErrEncoding is a text that is not UTF-8 (RFC 6455 §8.1).
var ErrEncoding = errors.New("a websocket text that is not UTF-8")

// StatusOf is the status of the close frame that an error of this package ends a
// WebSocket with; 0: it is none of them.
func StatusOf(err error) int {
	switch {
	case errors.Is(err, ErrBusy):
		return StatusTryAgain
	case errors.Is(err, ErrEncoding):
		return StatusEncoding
	case errors.Is(err, ErrProtocol):
		return StatusProtocol
	}
	return 0
}

// order is what the frames of one direction must agree in (RFC 6455 §5.2, §5.4,
// §5.5). The zero value is the beginning of a client's or a server's flow.
type order struct {
	from   Side
	open   bool   // a message has begun and not ended
	text   bool   // that message is a text
	rest   []byte // the beginning of a character at the end of its last frame
	closed bool   // a close frame was sent
}

// header judges the first bytes of a frame, all of its header.
func (o *order) header(p []byte) error {
	opcode, final, length := p[0]&0x0f, p[0]&0x80 != 0, p[1]&0x7f
	_, payload := sizes(p)
	switch {
	case o.closed:
		return fmt.Errorf("%w: behind a Close", ErrProtocol)
	case p[0]&0x70 != 0:
		return fmt.Errorf("%w: an extension is in use", ErrProtocol)
	case o.from == Client && p[1]&0x80 == 0:
		return fmt.Errorf("%w: a client's frame that is not masked", ErrProtocol)
	case opcode > Binary && opcode < Close || opcode > Pong:
		return fmt.Errorf("%w: an opcode that is reserved", ErrProtocol)
	case opcode >= Close && !final:
		return fmt.Errorf("%w: a control frame in parts", ErrProtocol)
	case opcode >= Close && length > maxControl:
		return fmt.Errorf("%w: a control frame of more than %d bytes", ErrProtocol, maxControl)
	case length == 126 && payload < 126 || length == 127 && payload < 1<<16:
		return fmt.Errorf("%w: a length that is not written in the shortest form", ErrProtocol)
	case payload>>63 != 0:
		return fmt.Errorf("%w: a length of more than 63 bits", ErrProtocol)
	case opcode == Continuation && !o.open:
		return fmt.Errorf("%w: a continuation of nothing", ErrProtocol)
	case (opcode == Text || opcode == Binary) && o.open:
		return fmt.Errorf("%w: a new message inside another", ErrProtocol)
	case opcode == Close && payload == 1:
		return fmt.Errorf("%w: a close frame with half a status", ErrProtocol)
	}
	switch {
	case opcode == Close:
		o.closed = true
	case opcode < Close:
		if opcode != Continuation {
			o.text = opcode == Text
		}
		o.open = !final
	}
	return nil
}

// payload judges a whole payload whose header was judged.
func (o *order) payload(f Frame) error {
	switch {
	case f.Opcode == Close && len(f.Payload) >= 2:
		if status := binary.BigEndian.Uint16(f.Payload); !sendable(status) {
			return fmt.Errorf("%w: a close frame with the status %d", ErrProtocol, status)
		}
		if !utf8.Valid(f.Payload[2:]) {
			return ErrEncoding
		}
	case f.Opcode < Close && o.text:
		text := f.Payload
		if len(o.rest) > 0 {
			text = append(o.rest, text...)
		}
		end := len(text)
		if !f.Final {
			end -= unfinished(text)
		}
		if !utf8.Valid(text[:end]) {
			return ErrEncoding
		}
		o.rest = append([]byte(nil), text[end:]...)
	}
	return nil
}

// sendable reports whether a status may be sent in a close frame (RFC 6455 §7.4, and the
// registry of IANA).
func sendable(status uint16) bool {
	switch {
	case status >= 3000 && status < 5000:
		return true
	case status < 1000 || status > 1014:
		return false
	}
	return status != 1004 && status != 1005 && status != 1006
}

// unfinished is how many bytes at the end of a text begin a character that may
// go on in the next frame.
func unfinished(text []byte) int {
	for n := 1; n <= min(utf8.UTFMax-1, len(text)); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

// checker judges the headers of a flow that passes unread.
type checker struct {
	order  order
	header []byte // of a frame, not whole yet
	left   uint64 // of a payload
}

// feed takes the next bytes. On an error, those before good may be given on.
func (c *checker) feed(p []byte) (good int, err error) {
	for at := 0; at < len(p); {
		if c.left > 0 {
			n := min(c.left, uint64(len(p)-at))
			c.left -= n
			at += int(n)
			continue
		}
		if len(c.header) == 0 {
			good = at
		}
		c.header = append(c.header, p[at])
		at++
		if size, left := sizes(c.header); size > 0 {
			if err := c.order.header(c.header); err != nil {
				return good, err
			}
			c.header, c.left = c.header[:0], left
		}
	}
	return len(p), nil
}
