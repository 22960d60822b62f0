package gitgate

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	// greetWithin bounds how long a client of git:// may take for its request line.
	greetWithin = 10 * time.Second
	// maxRequest bounds that line, in bytes.
	maxRequest = 4096
	// minRate is how fast a client must send in the long run, in bytes a second: who sends a byte now and then keeps its place from others.
	minRate = 16 << 10
)

// pace is the patience that we have with a client: each moment that it keeps us waiting takes some, and what it sends gives some back. One
// goroutine reads.
type pace struct {
	limit time.Duration // the longest silence, and the most that is ever left
	left  time.Duration
}

func newPace(limit time.Duration) *pace { return &pace{limit: limit, left: limit} }

// restart is full patience, of another limit.
func (p *pace) restart(limit time.Duration) {
	p.limit, p.left = limit, limit
}

// read reads once, within what is left.
func (p *pace) read(r io.Reader, b []byte, deadline func(time.Time) error) (int, error) {
	began := time.Now()
	if err := deadline(began.Add(p.left)); err != nil {
		return 0, err
	}
	n, err := r.Read(b)
	p.left += time.Duration(n)*time.Second/minRate - time.Since(began)
	p.left = max(0, min(p.left, p.limit))
	return n, err
}

// pushesAtOnce is how many packs are read and looked at together: each has all cores, and may need hundreds of megabytes.
const pushesAtOnce = 2

// errBusy is told to whoever has waited for a turn in vain.
const errBusy = errRefused("other pushes are being looked at: push again later")

// turns lets some work at a time.
type turns chan struct{}

// next waits for a turn, until done ends it; nil lets all work.
func (t turns) next(ctx context.Context) (done func(), err error) {
	if t == nil {
		return func() {}, nil
	}
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// walksAtOnce is how many clients that fetch have us walk histories together: a walk remembers every commit that it comes by.
const walksAtOnce = 4

// paced is a connection of git:// whose client must keep pace. Writes have a deadline each.
type paced struct {
	net.Conn
	*pace
}

func (c paced) Read(p []byte) (int, error) { return c.pace.read(c.Conn, p, c.Conn.SetReadDeadline) }

func (c paced) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// slow is a request's body whose client must keep pace.
type slow struct {
	io.Reader
	control *http.ResponseController
	*pace
}

func (s slow) Read(p []byte) (int, error) {
	n, err := s.pace.read(s.Reader, p, s.control.SetReadDeadline)
	if err == io.EOF {
		// From now on the server itself watches the connection; a deadline would end the request while we work on it.
		if err := s.control.SetReadDeadline(time.Time{}); err != nil {
			return n, err
		}
	}
	return n, err
}
