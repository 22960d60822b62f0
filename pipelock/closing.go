package pipelock

import (
	"errors"
	"io"
	"sync"
	"time"

	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// closeWithin is how long a client may take to read why its WebSocket ends.
const closeWithin = time.Second

// closingConn ends a WebSocket with a reason: when what the agent sends is
// refused, both sides get a close frame (RFC 6455 §7.1.2), and nothing goes on.
type closingConn struct {
	io.ReadWriteCloser // inspects what is written
	origin             io.ReadWriteCloser
	report             func(policy.Verdict)

	mu      sync.Mutex
	last    []byte         // what the agent is told; nil: nothing was refused
	edge    websocket.Edge // of what the agent gets
	closed  chan struct{}
	closing sync.Once
}

func newClosingConn(inspected, origin io.ReadWriteCloser, report func(policy.Verdict)) *closingConn {
	return &closingConn{ReadWriteCloser: inspected, origin: origin, report: report, closed: make(chan struct{})}
}

// Write gives on what the agent sends. What comes after a refusal goes
// nowhere.
func (c *closingConn) Write(p []byte) (int, error) {
	if c.refused() {
		return len(p), nil
	}
	n, err := c.ReadWriteCloser.Write(p)
	status, reason := c.reasonOf(err)
	if status == 0 {
		return n, err
	}
	c.mu.Lock()
	c.last = websocket.CloseFrame(status, reason, false)
	c.mu.Unlock()
	_, _ = c.origin.Write(websocket.CloseFrame(status, "", true)) // it may be gone
	_ = c.ReadWriteCloser.Close()                                 // Read says the rest
	return len(p), nil
}

// reasonOf tells a refusal from an error of the connection, and sees to it
// that it is written down.
func (c *closingConn) reasonOf(err error) (status int, reason string) {
	var refused *refusedError
	switch {
	case errors.As(err, &refused): // written down by who refused it
		return websocket.StatusPolicy, refused.v.Why
	case errors.Is(err, websocket.ErrBusy):
		c.report(policy.Denied(busyRule, err.Error()))
		return websocket.StatusTryAgain, err.Error()
	case errors.Is(err, websocket.ErrProtocol):
		c.report(policy.Denied("websocket", err.Error()))
		return websocket.StatusProtocol, err.Error()
	}
	return 0, ""
}

func (c *closingConn) refused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last != nil
}

// Read gives on what the origin sends, and at the end why it is the end.
func (c *closingConn) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	c.mu.Lock()
	told := c.last
	if told != nil && c.edge.Between() {
		n, err = 0, io.EOF // the origin's own close frame, for one: the agent gets ours
	}
	c.edge.Feed(p[:n])
	if err != nil && len(told) > 0 && c.edge.Between() {
		n = copy(p, told)
		c.last = told[n:] // which is not nil
		c.mu.Unlock()
		return n, nil
	}
	c.mu.Unlock()
	if err != nil && told != nil {
		select { // the client answers by closing
		case <-c.closed:
		case <-time.After(closeWithin):
		}
	}
	return n, err
}

// Close implements io.Closer.
func (c *closingConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.ReadWriteCloser.Close()
}
