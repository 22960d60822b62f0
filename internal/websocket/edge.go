package websocket

import (
	"encoding/binary"
	"strings"
)

// Edge tells where frames end in a flow of bytes that passes unread. The zero
// value stands at the begin of the first.
type Edge struct {
	header []byte // of a frame, not whole yet
	left   uint64 // of a payload
}

// Feed takes the next bytes.
func (e *Edge) Feed(p []byte) {
	for len(p) > 0 {
		if e.left > 0 {
			n := min(e.left, uint64(len(p)))
			e.left, p = e.left-n, p[n:]
			continue
		}
		e.header, p = append(e.header, p[0]), p[1:]
		if left, whole := payload(e.header); whole {
			e.header, e.left = e.header[:0], left
		}
	}
}

// payload is how much follows a header.
func payload(h []byte) (length uint64, whole bool) {
	if len(h) < 2 {
		return 0, false
	}
	size := 2
	length = uint64(h[1] & 0x7f)
	switch length {
	case 126:
		size = 4
	case 127:
		size = 10
	}
	if h[1]&0x80 != 0 {
		size += 4
	}
	if len(h) < size {
		return 0, false
	}
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		length = binary.BigEndian.Uint64(h[2:])
	}
	return length, true
}

// Between tells whether a frame may be put in here.
func (e *Edge) Between() bool { return e.left == 0 && len(e.header) == 0 }

// Status codes of a close frame (RFC 6455 §7.4.1).
const (
	StatusProtocol = 1002
	StatusPolicy   = 1008
	StatusTryAgain = 1013
)

// CloseFrame is a close frame with a reason, as a server sends it; masked, as
// a client does.
func CloseFrame(status int, reason string, masked bool) []byte {
	if len(reason) > maxControl-2 {
		reason = strings.ToValidUTF8(reason[:maxControl-2], "")
	}
	f := []byte{0x80 | Close, byte(2 + len(reason))}
	if masked {
		f[1] |= 0x80
		f = append(f, 0, 0, 0, 0) // the key: nothing of it is another's
	}
	f = binary.BigEndian.AppendUint16(f, uint16(status))
	return append(f, reason...)
}

// maxControl is the longest payload of a control frame (RFC 6455 §5.5).
const maxControl = 125
