package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"airlock/internal/http1"
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

// NewHTTP1 is a server of Airlock's own engine with the same limits. What is
// no request is refused in the name of the daemon by.
func NewHTTP1(by string, h http.Handler, log *slog.Logger) *http1.Server {
	return &http1.Server{
		Handler: h,
		Malformed: func(w http.ResponseWriter, v *http1.Violation) {
			log.Info("refused what is no request", "why", v.Why)
			Refuse(w, v.Status, Refusal{By: by, Rule: "http", Why: v.Why, Ask: AskOperator})
		},
		Log:            log,
		HeaderTimeout:  HeaderTimeout,
		IdleTimeout:    IdleTimeout,
		MaxHeaderBytes: MaxHeaderBytes,
	}
}

// DrainOptions control the shutdown of a server.
type DrainOptions = http1.DrainOptions

// Serve serves until ctx ends, then shuts down as opts say. It returns when all connections are
// closed; the error is nil unless the listener failed.
//
// http.Server.Shutdown alone does not suffice: it drops a request that it has just read, and does not
// know a connection that has just been accepted. A hand-over of the socket must lose neither.
func Serve(ctx context.Context, srv *http.Server, l net.Listener, opts DrainOptions) error {
	open := &conns{busy: map[net.Conn]bool{}, changed: make(chan struct{}, 1)}
	if also := srv.ConnState; also != nil {
		srv.ConnState = func(c net.Conn, s http.ConnState) {
			open.change(c, s)
			also(c, s)
		}
	} else {
		srv.ConnState = open.change
	}
	var shuttingDown atomic.Bool
	srv.Handler = last(&shuttingDown, srv.Handler)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	shuttingDown.Store(true)
	_ = l.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		return err
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), opts.Timeout)
	defer cancel()
	if opts.NoSuccessor != nil {
		open.wait(end, opts.NoSuccessor, time.After(http1.HandoverGrace), func(busy, idle int) bool { return busy+idle == 0 })
	}
	open.wait(end, nil, nil, func(busy, _ int) bool { return busy == 0 })
	srv.SetKeepAlivesEnabled(false)
	if err := srv.Shutdown(end); err != nil {
		_ = srv.Close() // the time is up: what is left is cut
	}
	return nil
}

// last asks clients to close after their response while the server shuts down. HTTP/2 streams are
// informed by http.Server.Shutdown; an upgrade needs the Connection field itself.
func last(shuttingDown *atomic.Bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if shuttingDown.Load() && r.ProtoMajor == 1 && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// conns knows which connections are open, and on which of them a request is,
// or is about to be.
type conns struct {
	mu      sync.Mutex
	busy    map[net.Conn]bool
	changed chan struct{}
}

func (c *conns) change(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateNew, http.StateActive:
		c.busy[conn] = true
		return
	case http.StateIdle:
		c.busy[conn] = false
	default:
		delete(c.busy, conn)
	}
	select {
	case c.changed <- struct{}{}:
	default: // whoever waits has not looked since the last time
	}
}

// wait returns when the numbers are as wanted, ctx or the time is over, or
// ending is closed.
func (c *conns) wait(ctx context.Context, ending <-chan struct{}, over <-chan time.Time, enough func(busy, idle int) bool) {
	for {
		c.mu.Lock()
		busy := 0
		for _, is := range c.busy {
			if is {
				busy++
			}
		}
		idle := len(c.busy) - busy
		c.mu.Unlock()
		if enough(busy, idle) {
			return
		}
		select {
		case <-c.changed:
		case <-over:
			return
		case <-ending:
			return
		case <-ctx.Done():
			return
		}
	}
}
