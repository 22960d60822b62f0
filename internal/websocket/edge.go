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
		if size, left := sizes(e.header); size > 0 {
			e.header, e.left = e.header[:0], left
		}
	}
}

// Between tells whether a frame may be put in here.
func (e *Edge) Between() bool { return e.left == 0 && len(e.header) == 0 }

// Status codes of a close frame (RFC 6455 §7.4.1).
const (
	StatusProtocol = 1002
	StatusEncoding = 1007
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
