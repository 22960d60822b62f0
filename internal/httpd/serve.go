package httpd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
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
func Serve(ctx context.Context, srv *http.Server, l net.Listener, drain time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		_ = srv.Close() // the time is up: what is left is cut
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
