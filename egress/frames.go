package egress

import (
	"fmt"
	"io"
	"net/http"

	"airlock/internal/websocket"
)

// minHeld is with how many bytes of a form at its end a frame is held back
// until the next one comes. With fewer it goes on: a message may end in any
// letter, and its sender may wait for an answer.
const minHeld = 4

// readFrames redacts what comes back over a WebSocket. The length of a frame
// stays.
func readFrames(res *http.Response, now func() *redactor, up *websocket.Inspector, why websocket.Why) error {
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return &unreadableError{"the upstream switched protocols without a connection"}
	}
	f := &frames{now: now}
	res.Body = websocket.Closing(websocket.Conn(conn, websocket.NewInspector(websocket.Server, f.inspect), up), conn, why)
	return nil
}

// frames is the redaction of one WebSocket, over the borders of its frames.
type frames struct {
	now   func() *redactor // the one of the moment
	r     *redactor
	state int32
	taken stream   // knows what goes with what was taken out
	ended bool     // by a Close: nothing may follow (RFC 6455 §5.5.1)
	open  [][]byte // the payloads that are held back, and the one at hand
}

func (f *frames) inspect(frame websocket.Frame) error {
	if f.ended {
		return fmt.Errorf("%w: behind a Close", websocket.ErrProtocol)
	}
	if r := f.now(); r != f.r {
		f.r, f.state, f.taken = r, 0, stream{r: r, keepLength: true}
		for i := range f.open {
			f.search(f.open[:i+1])
		}
	}
	if frame.Opcode >= websocket.Close {
		// It may stand between two parts of a message (§5.4), and is read by itself.
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

// search reads the last payload, and takes out what ends in it.
func (f *frames) search(open [][]byte) {
	if f.r.empty() {
		return
	}
	last := open[len(open)-1]
	for i := 0; i < len(last); i++ {
		if f.taken.absorbs(last[i]) {
			last[i] = '*'
			continue
		}
		if f.state == 0 {
			if i = ahead(&f.r.skip, last, i); i >= len(last) {
				return
			}
		}
		f.state = f.r.step(f.state, last[i])
		if found := f.r.nodes[f.state].form; found != nil {
			overwrite(open, i+1, f.taken.markerOf(found, int(f.r.nodes[f.state].depth)))
			f.r.found()
			f.taken.absorbing, f.state = f.state, 0
		}
	}
}

// overwrite puts text where it ends before byte end of the last piece. What
// is no longer there has been given on.
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
