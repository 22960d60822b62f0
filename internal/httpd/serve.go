package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of every HTTP server that the agent can reach.
const (
	HeaderTimeout  = 20 * time.Second // a whole header must arrive in this time
	IdleTimeout    = 10 * time.Minute // between two requests of a connection
	MaxHeaderBytes = 256 << 10
)

// NewServer is a server with the limits above, whose own complaints go to log.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
}

// Serve serves until ctx ends, then stops accepting, waits up to drain for
// what is in progress, and cuts the rest. It returns when all is over, and
// nil unless the listener failed.
//
// Not by Shutdown alone: that drops a request which it has just read, and
// does not know a connection that was accepted a moment ago. Whoever takes
// over a socket must not lose either.
func Serve(ctx context.Context, srv *http.Server, l net.Listener, drain time.Duration) error {
	busy := &busy{conns: map[net.Conn]struct{}{}, none: make(chan struct{}, 1)}
	srv.ConnState = busy.change
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	_ = l.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		return err
	}
	srv.SetKeepAlivesEnabled(false) // the answer to each request is its connection's last
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	busy.wait(end)
	if err := srv.Shutdown(end); err != nil {
		_ = srv.Close() // the time is up: what is left is cut
	}
	return nil
}

// busy knows the connections on which a request is, or is about to be.
type busy struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	none  chan struct{} // told when the last one is gone
}

func (b *busy) change(c net.Conn, s http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch s {
	case http.StateNew, http.StateActive:
		b.conns[c] = struct{}{}
		return
	}
	delete(b.conns, c)
	if len(b.conns) == 0 {
		select {
		case b.none <- struct{}{}:
		default: // it has been told
		}
	}
}

// wait returns when no connection is busy, or ctx ends.
func (b *busy) wait(ctx context.Context) {
	for {
		b.mu.Lock()
		left := len(b.conns)
		b.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-b.none:
		case <-ctx.Done():
			return
		}
	}
}
