// Package http1 speaks HTTP/1.1 (RFC 9112) on both sides of a proxy. A
// connection costs one goroutine: whoever reads a request decides, writes it
// on, and reads its answer. Heads and bodies that two parsers could read
// differently are refused before anybody acts on them. HTTP/2 is net/http's.
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
	// watchAfter is how long an answer may take before the server looks
	// whether the client is still there.
	watchAfter = 20 * time.Millisecond
	// maxDiscard is how much of a body that the handler did not read is dropped
	// to keep a connection, in bytes.
	maxDiscard = 256 << 10
)

// Server serves connections. Set its fields before the first.
type Server struct {
	Handler http.Handler
	// Malformed answers what is no request; the connection closes behind it.
	Malformed func(w http.ResponseWriter, v *Violation)
	Log       *slog.Logger

	HeaderTimeout  time.Duration // from a head's first byte to its last
	IdleTimeout    time.Duration // between two requests, and between two pieces of a body
	MaxHeaderBytes int
	// Context makes the context of a connection; nil: an empty one.
	Context func(net.Conn) context.Context
	// Notice is sent on a connection that has served a request before, in
	// place of any further answer, when the server takes its leave: its client
	// knows it, and sends its request elsewhere. nil: see Leave.Ending.
	Notice []byte
	// Left is called when nobody but requests in progress is answered any
	// more. It may be nil.
	Left func()

	mu      sync.Mutex
	conns   map[*conn]struct{}
	changed chan struct{}
	leaving atomic.Bool
}

// Leave is how a server takes its leave.
type Leave struct {
	// Within is how long what is in progress may take.
	Within time.Duration
	// Ending is closed when nobody takes over: then idle connections end at
	// once. Before that each is kept for a few seconds, to answer one more
	// request and ask the client to close. Otherwise the server would close in
	// the very moment in which the client sends (RFC 9112 §9.5), and a client
	// may not repeat every request. nil: nobody ever takes over.
	Ending <-chan struct{}
}

// Linger is how long an idle connection is kept for one more request when
// somebody else takes over the socket.
const Linger = 3 * time.Second

// Serve serves what l accepts until ctx ends, then stops accepting, takes its
// leave, and cuts the rest. It returns when all is over, and nil unless the
// listener failed.
func (s *Server) Serve(ctx context.Context, l net.Listener, leave Leave) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err == nil {
			go s.enter(c).serve()
			continue
		}
		var temporary interface{ Temporary() bool }
		switch {
		case ctx.Err() != nil:
			s.TakeLeave(ctx, leave)
			return nil
		case errors.As(err, &temporary) && temporary.Temporary(): // out of descriptors, or aborted
			s.Log.Warn("accepting", "error", err)
			time.Sleep(10 * time.Millisecond) // as long as nothing can be accepted there is nothing to do
		default:
			return err
		}
	}
}

// ServeConn serves one connection and returns when it is over, or when the
// handler that took it from the server has returned. As long as it has not,
// its connection is in progress.
func (s *Server) ServeConn(c net.Conn) {
	s.enter(c).serve()
}

// Open is the number of connections.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) enter(c net.Conn) *conn {
	k := newConn(s, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepare()
	s.conns[k] = struct{}{}
	return k
}

func (s *Server) prepare() {
	if s.conns == nil {
		s.conns, s.changed = map[*conn]struct{}{}, make(chan struct{}, 1)
	}
}

func (s *Server) forget(k *conn) {
	s.mu.Lock()
	delete(s.conns, k)
	s.mu.Unlock()
	s.tell()
}

// tell wakes whoever waits for connections to end.
func (s *Server) tell() {
	if !s.leaving.Load() {
		return
	}
	select {
	case s.changed <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// TakeLeave ends idle connections, waits for what is in progress, and cuts
// what is left. No connection may enter any more.
func (s *Server) TakeLeave(ctx context.Context, leave Leave) {
	s.mu.Lock()
	s.prepare()
	s.mu.Unlock()
	s.leaving.Store(true)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), leave.Within)
	defer cancel()
	if s.Notice == nil && leave.Ending != nil {
		s.wait(end, leave.Ending, time.After(Linger))
	}
	s.each(func(k *conn) { k.dismiss(s.Notice) })
	if s.Left != nil {
		s.Left()
	}
	s.wait(end, nil, nil)
	s.each(func(k *conn) { _ = k.c.Close() })
	s.wait(context.WithoutCancel(ctx), nil, nil)
}

func (s *Server) each(f func(*conn)) {
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

// wait returns when no connection is left, or one of the others happens.
func (s *Server) wait(ctx context.Context, ending <-chan struct{}, over <-chan time.Time) {
	for s.Open() > 0 {
		select {
		case <-s.changed:
		case <-over:
			return
		case <-ending:
			return
		case <-ctx.Done():
			return
		}
	}
}
