package http1

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// watchAfter is how long a response may take before the server begins to watch for a
	// disconnect of the client.
	watchAfter = 20 * time.Millisecond
	// maxDiscard is how much of a body that the handler did not read is read and dropped to keep
	// the connection, in bytes.
	maxDiscard = 256 << 10
)

// Server serves HTTP/1.1 connections, each on a goroutine of its own. Its fields must be set before
// the first connection; its methods may be called concurrently.
type Server struct {
	Handler http.Handler
	// Malformed responds to input that is no valid request; the connection closes afterwards.
	Malformed func(w http.ResponseWriter, v *Violation)
	Log       *slog.Logger

	HeaderTimeout  time.Duration // from a head's first byte to its last
	IdleTimeout    time.Duration // between two requests, and between two pieces of a body
	MaxHeaderBytes int
	// Context returns the context of a connection. nil: context.Background.
	Context func(net.Conn) context.Context
	// GoodbyeMessage is written to connections that have served a request before, in place of any
	// further response, while the server shuts down. The client recognises it (see
	// Transport.IsGoodbye) and sends its request on another connection. nil: idle connections are
	// handled as DrainOptions.NoSuccessor describes.
	GoodbyeMessage []byte
	// OnDrained is called during a shutdown, once idle connections are closed and only requests in
	// progress are still answered. It may be nil.
	OnDrained func()

	mu           sync.Mutex
	conns        map[*conn]struct{}
	changed      chan struct{}
	shuttingDown atomic.Bool
}

// DrainOptions control the shutdown of a server.
type DrainOptions struct {
	// Timeout is how long requests in progress may take.
	Timeout time.Duration
	// NoSuccessor is closed when no other process takes over the socket; idle connections are then
	// closed at once. Until then each is kept for HandoverGrace to answer one more request, and ask
	// the client to close. Otherwise the server could close at the moment at which the client sends
	// a request (RFC 9112 §9.5), which a client may not be able to repeat. nil: there is never a
	// successor.
	NoSuccessor <-chan struct{}
}

// HandoverGrace is how long an idle connection is kept for one more request when another process
// takes over the socket.
const HandoverGrace = 3 * time.Second

// Serve serves the connections that l accepts until ctx ends, and then shuts down. It returns when
// all connections are closed; the error is nil unless the listener failed.
func (s *Server) Serve(ctx context.Context, l net.Listener, opts DrainOptions) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err == nil {
			go s.addConn(c).serve()
			continue
		}
		var temporary interface{ Temporary() bool }
		switch {
		case ctx.Err() != nil:
			s.Shutdown(ctx, opts)
			return nil
		case errors.As(err, &temporary) && temporary.Temporary(): // out of descriptors, or an aborted connection
			s.Log.Warn("accepting", "error", err)
			time.Sleep(10 * time.Millisecond) // otherwise this loop would spin
		default:
			return err
		}
	}
}

// ServeConn serves one connection. It returns when the connection is closed or, if a handler
// hijacked it, when that handler has returned. Until then Shutdown counts it as in progress.
func (s *Server) ServeConn(c net.Conn) {
	s.addConn(c).serve()
}

// Open returns the number of connections.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// addConn registers a connection.
func (s *Server) addConn(c net.Conn) *conn {
	k := newConn(s, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.initConns()
	s.conns[k] = struct{}{}
	return k
}

// initConns makes the map and the channel on first use. The caller holds s.mu.
func (s *Server) initConns() {
	if s.conns == nil {
		s.conns, s.changed = map[*conn]struct{}{}, make(chan struct{}, 1)
	}
}

// removeConn removes a connection that has ended.
func (s *Server) removeConn(k *conn) {
	s.mu.Lock()
	delete(s.conns, k)
	s.mu.Unlock()
	s.notifyWait()
}

// notifyWait wakes waitConns.
func (s *Server) notifyWait() {
	if !s.shuttingDown.Load() {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default: // a wake-up is pending
	}
}

// Shutdown closes idle connections, waits for requests in progress, and closes what is left after
// the timeout. No connection may be added any more.
func (s *Server) Shutdown(ctx context.Context, opts DrainOptions) {
	s.mu.Lock()
	s.initConns()
	s.mu.Unlock()
	s.shuttingDown.Store(true)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Timeout)
	defer cancel()
	if s.GoodbyeMessage == nil && opts.NoSuccessor != nil {
		s.waitConns(end, opts.NoSuccessor, time.After(HandoverGrace))
	}
	s.forEachConn(func(k *conn) { k.closeIdle(s.GoodbyeMessage) })
	if s.OnDrained != nil {
		s.OnDrained()
	}
	s.waitConns(end, nil, nil)
	s.forEachConn(func(k *conn) { _ = k.c.Close() })
	s.waitConns(context.WithoutCancel(ctx), nil, nil)
}

// forEachConn calls f for a snapshot of the connections, without holding s.mu.
func (s *Server) forEachConn(f func(*conn)) {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.conns))
	for k := range s.conns {
		all = append(all, k)
	}
	s.mu.Unlock()
	for _, k := range all {
		f(k)
	}
}

// waitConns returns when no connection is left, when noSuccessor is closed, when timeout fires, or
// when ctx ends.
func (s *Server) waitConns(ctx context.Context, noSuccessor <-chan struct{}, timeout <-chan time.Time) {
	for s.Open() > 0 {
		select {
		case <-s.changed:
		case <-timeout:
			return
		case <-noSuccessor:
			return
		case <-ctx.Done():
			return
		}
	}
}
