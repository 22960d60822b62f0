package websocket

import (
	"io"
	"sync"
	"time"
)

// closeWithin is how long a client may take to read why its WebSocket ends.
const closeWithin = time.Second

// Why tells a refusal from an error of the connection: with the status and the
// reason for a close frame, or 0. It is asked once.
type Why func(err error) (status int, reason string)

// Closing ends a WebSocket with a reason (RFC 6455 §7.1.2): when an inspector of conn
// refuses what passes, both sides get a close frame, the client with the
// reason, and nothing goes on. The server is what conn inspects.
func Closing(conn, server io.ReadWriteCloser, why Why) io.ReadWriteCloser {
	return &closing{ReadWriteCloser: conn, server: server, why: why, closed: make(chan struct{})}
}

type closing struct {
	io.ReadWriteCloser
	server io.ReadWriteCloser
	why    Why

	mu     sync.Mutex
	last   []byte // what the client is told; nil: nothing was refused
	edge   Edge   // of what the client gets
	closed chan struct{}
	once   sync.Once
}

// Write gives on what the client sends. What comes after a refusal goes
// nowhere.
func (c *closing) Write(p []byte) (int, error) {
	if c.refused() {
		return len(p), nil
	}
	n, err := c.ReadWriteCloser.Write(p)
	if err == nil || !c.refuse(err) {
		return n, err
	}
	return len(p), nil // Read says the rest
}

// refuse remembers what the client is told, tells the server, and ends the
// connection with it.
func (c *closing) refuse(err error) bool {
	c.mu.Lock()
	if c.last != nil {
		c.mu.Unlock()
		return true
	}
	status, reason := c.why(err)
	if status != 0 {
		c.last = CloseFrame(status, reason, false)
	}
	c.mu.Unlock()
	if status == 0 {
		return false
	}
	late := time.AfterFunc(closeWithin, func() { _ = c.ReadWriteCloser.Close() })
	defer late.Stop()
	_, _ = c.server.Write(CloseFrame(status, "", true)) // it may be gone, or listen to nobody
	_ = c.ReadWriteCloser.Close()
	return true
}

func (c *closing) refused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last != nil
}

// Read gives on what the server sends, and at the end why it is the end.
func (c *closing) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	if err == nil {
		c.mu.Lock()
		if c.last == nil || !c.edge.Between() {
			defer c.mu.Unlock()
			c.edge.Feed(p[:n])
			return n, nil
		}
		c.mu.Unlock()
		n, err = 0, io.EOF // the server's own close frame, for one: the client gets ours
	}
	if !c.refused() && (err == io.EOF || !c.refuse(err)) {
		return n, err
	}
	c.mu.Lock()
	c.edge.Feed(p[:n])
	if n == 0 && len(c.last) > 0 && c.edge.Between() {
		n = copy(p, c.last)
		c.last = c.last[n:] // which is not nil
	}
	c.mu.Unlock()
	if n > 0 {
		return n, nil
	}
	select { // the client answers by closing
	case <-c.closed:
	case <-time.After(closeWithin):
	}
	return 0, io.ErrUnexpectedEOF // an end of one direction alone would leave the other open
}

// Close implements io.Closer.
func (c *closing) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.ReadWriteCloser.Close()
}
