package gitgate

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// clientTable bounds the clients of a protocol at a time. When it is full, the one that has kept us waiting longest makes room: a client
// that is connected and says nothing holds up nobody.
type clientTable struct {
	limit int
	mu    sync.Mutex
	open  map[*gitClient]struct{}
	left  chan struct{} // gets a word when one has left
}

func newClientTable(limit int) *clientTable {
	return &clientTable{limit: limit, open: map[*gitClient]struct{}{}, left: make(chan struct{}, 1)}
}

// enter makes room for a connection. Where everybody is being served it waits until one leaves, or ctx ends.
func (t *clientTable) enter(ctx context.Context, c *gitClient) error {
	c.table = t
	for {
		if t.admit(c) {
			return nil
		}
		select {
		case <-t.left:
		case <-time.After(recheckClients): // one may have begun to wait
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// recheckClients is how often a full table is looked through again.
const recheckClients = 100 * time.Millisecond

func (t *clientTable) admit(c *gitClient) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= t.limit {
		idle := t.longestIdle()
		if idle == nil {
			return false
		}
		delete(t.open, idle)
		_ = idle.Conn.Close() // the goroutine that serves it ends
	}
	t.open[c] = struct{}{}
	return true
}

// longestIdle is the client that has been waited for longest; nil: none is.
func (t *clientTable) longestIdle() (idle *gitClient) {
	for c := range t.open {
		if !c.since.IsZero() && (idle == nil || c.since.Before(idle.since)) {
			idle = c
		}
	}
	return idle
}

// gitClient is a connection that its table knows.
type gitClient struct {
	net.Conn
	table *clientTable
	since time.Time // since when it is waited for; zero: it is not. Under the table's lock
	told  bool      // that is told by its server (see httpListener), not by reads and writes
}

func (c *gitClient) wait(since time.Time) {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.since = since
}

// Read implements net.Conn.
func (c *gitClient) Read(p []byte) (int, error) {
	if c.told {
		return c.Conn.Read(p)
	}
	c.wait(time.Now())
	defer c.wait(time.Time{})
	return c.Conn.Read(p)
}

// Write implements net.Conn. A client that reads nothing is waited for, too.
func (c *gitClient) Write(p []byte) (int, error) {
	if c.told {
		return c.Conn.Write(p)
	}
	c.wait(time.Now())
	defer c.wait(time.Time{})
	return c.Conn.Write(p)
}

// CloseWrite ends one direction.
func (c *gitClient) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// leave takes a client that has been served out of the table.
func (c *gitClient) leave() {
	c.table.mu.Lock()
	delete(c.table.open, c)
	c.table.mu.Unlock()
	select {
	case c.table.left <- struct{}{}:
	default: // it has not been taken notice of the last one
	}
}

// httpListener accepts connections for net/http, as many as its table lets in.
type httpListener struct {
	net.Listener
	ctx   context.Context // ends with the accepting
	table *clientTable
}

// Accept implements net.Listener.
func (l httpListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &gitClient{Conn: conn, told: true, since: time.Now()}
	if l.table.enter(l.ctx, c) != nil {
		conn.Close()
		return nil, net.ErrClosed
	}
	return c, nil
}

// state is told by net/http: a connection without a request is one that is waited for.
func (l httpListener) state(conn net.Conn, s http.ConnState) {
	c, ok := conn.(*gitClient)
	if !ok {
		return
	}
	switch s {
	case http.StateActive:
		c.wait(time.Time{})
	case http.StateNew, http.StateIdle:
		c.wait(time.Now())
	default:
		c.leave()
	}
}
