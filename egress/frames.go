package egress

import (
	"fmt"
	"io"
	"net/http"

	"airlock/internal/websocket"
)

// minHeld is how many bytes of a form a frame must end with to be held back until the next frame comes. A
// frame that ends with fewer is passed on: a message may end with any letter, and its sender may wait
// for a response.
const minHeld = 4

// readFrames redacts the frames that the origin sends over a WebSocket. It does not change their length.
func readFrames(res *http.Response, now func() *redactor, up *websocket.Inspector, why websocket.Why) error {
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return &unreadableError{"the upstream switched protocols without a connection"}
	}
	f := &frames{now: now}
	res.Body = websocket.Closing(websocket.Conn(conn, websocket.NewInspector(websocket.Server, f.inspect), up), conn, why)
	return nil
}

// frames redacts one WebSocket across the borders of its frames.
type frames struct {
	now      func() *redactor // returns the current redactor
	r        *redactor
	state    int32
	redacted stream   // what follows a redacted form
	ended    bool     // a Close was read: nothing may follow (RFC 6455 §5.5.1)
	open     [][]byte // the payloads held back, and the current one
}

func (f *frames) inspect(frame websocket.Frame) error {
	if f.ended {
		return fmt.Errorf("%w: a frame after a Close", websocket.ErrProtocol)
	}
	if r := f.now(); r != f.r {
		f.r, f.state, f.redacted = r, 0, stream{r: r, keepLength: true}
		for i := range f.open {
			f.search(f.open[:i+1])
		}
	}
	if frame.Opcode >= websocket.Close {
		// A control frame may come between two parts of a message (§5.4) and is searched by itself.
		s := stream{r: f.r, keepLength: true}
		copy(frame.Payload, s.flush(s.feed(nil, frame.Payload)))
	} else {
		f.open = append(f.open, frame.Payload)
		f.search(f.open)
	}
	f.ended = frame.Opcode == websocket.Close
	if !f.ended && !f.r.empty() && f.r.nodes[f.state].depth >= minHeld {
		return websocket.ErrHold
	}
	f.open = nil
	return nil
}

// search searches the last payload and redacts the forms that end in it.
func (f *frames) search(open [][]byte) {
	if f.r.empty() {
		return
	}
	last := open[len(open)-1]
	for i := 0; i < len(last); i++ {
		if f.redacted.absorbs(last[i]) {
			last[i] = '*'
			continue
		}
		if f.state == 0 {
			if i = nextCandidate(&f.r.skip, last, i); i >= len(last) {
				return
			}
		}
		f.state = f.r.step(f.state, last[i])
		if found := f.r.nodes[f.state].form; found != nil {
			overwrite(open, i+1, f.redacted.markerOf(found, int(f.r.nodes[f.state].depth)))
			f.r.found()
			f.redacted.absorbing, f.state = f.state, 0
		}
	}
}

// overwrite writes text so that it ends before byte end of the last piece. The part of it that would lie
// before the first piece is dropped: those bytes have been sent.
func overwrite(pieces [][]byte, end int, text []byte) {
	for at := len(pieces) - 1; at >= 0 && len(text) > 0; at-- {
		piece := pieces[at]
		if at == len(pieces)-1 {
			piece = piece[:end]
		}
		n := min(len(piece), len(text))
		copy(piece[len(piece)-n:], text[len(text)-n:])
		text = text[:len(text)-n]
	}
}
