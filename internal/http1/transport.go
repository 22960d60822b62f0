package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// smallBody is the largest body of a request, in bytes, that is read before it is sent. It is
	// sent together with the head, and can be sent again if the server was closing the connection.
	smallBody = 64 << 10
	// maxLongIdle is how many idle connections per key are kept for IdleTimeout; more than these
	// are closed after shortIdle.
	maxLongIdle = 2
	shortIdle   = 2 * time.Second
)

// Transport is an http.RoundTripper for HTTP/1.1. The goroutine that calls RoundTrip writes the
// request and reads the response; only a body of unknown or great length is sent by another. Its
// fields must be set before the first request; its methods may be called concurrently.
type Transport struct {
	// Dial opens a connection for the request.
	Dial func(context.Context, *http.Request) (net.Conn, error)
	// Key returns a string that is equal for requests that may share connections.
	Key func(*http.Request) string
	// IsGoodbye reports whether a response is the Server.GoodbyeMessage of a server that shuts down:
	// the request was not acted on, and is sent again. It may be nil.
	IsGoodbye      func(*http.Response) bool
	IdleTimeout    time.Duration // of connections without a request
	MaxIdle        int           // connections of one key
	MaxHeaderBytes int           // of a response

	mu         sync.Mutex
	idle       map[string][]*clientConn // by key, the most recently used last
	sweepTimer *time.Timer
	sweepSoon  bool // sweepTimer fires within shortIdle
}

// clientConn is one connection of a transport. One exchange at a time owns it; in between, the pool.
type clientConn struct {
	t         *Transport
	key       string
	c         net.Conn
	in        connReader
	out       *bufio.Writer
	idleSince time.Time // idle since
	reused    bool      // has carried a request before
}

// errUnanswered reports a connection that ended before the response began.
var errUnanswered = errors.New("the connection was closed before an answer")

// RoundTrip implements http.RoundTripper. The body of a response that switches protocols is an
// io.ReadWriteCloser. A request that a reused connection did not answer is sent again if it is
// idempotent.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := newOutgoingBody(r)
	if err != nil {
		return nil, err
	}
	l, err := t.getConn(r, !body.streamed() || t.IsGoodbye == nil)
	if err != nil {
		body.close()
		return nil, err
	}
	reused := l.reused // l may belong to another exchange after this one
	res, err := l.roundTrip(r, body)
	if !reused || body.streamed() {
		return res, err
	}
	goodbye := err == nil && t.IsGoodbye != nil && t.IsGoodbye(res)
	switch {
	case goodbye:
		_ = res.Body.Close()
	case errors.Is(err, errUnanswered) && idempotent(r.Method) && r.Context().Err() == nil:
	default:
		return res, err
	}
	if l, err = t.getConn(r, false); err != nil {
		return nil, err
	}
	return l.roundTrip(r, body)
}

// idempotent reports whether a request of that method can be repeated (RFC 9110 §9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// outgoingBody is the body of a request: buffered, so that it can be sent again, or a stream.
type outgoingBody struct {
	buffered []byte
	stream   io.ReadCloser
}

func (h outgoingBody) streamed() bool { return h.stream != nil }

// close closes a stream that will not be read.
func (h outgoingBody) close() {
	if h.stream != nil {
		_ = h.stream.Close()
	}
}

// newOutgoingBody reads a small body into memory, and leaves others as streams.
func newOutgoingBody(r *http.Request) (outgoingBody, error) {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return outgoingBody{}, nil
	case r.ContentLength <= 0 || r.ContentLength > smallBody: // with a body, 0 means unknown
		return outgoingBody{stream: r.Body}, nil
	}
	defer r.Body.Close()
	text := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, text); err != nil {
		return outgoingBody{}, &bodyError{unexpected(err)}
	}
	return outgoingBody{buffered: text}, nil
}

// bodyError is an error of reading a request's body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// getConn returns an idle connection that is still open if reuse is set, or dials a new one.
func (t *Transport) getConn(r *http.Request, reuse bool) (*clientConn, error) {
	key := t.Key(r)
	for reuse {
		l := t.popIdle(key)
		if l == nil {
			break
		}
		if isReusable(l.c) {
			l.reused = true
			return l, nil
		}
		_ = l.c.Close()
	}
	c, err := t.Dial(r.Context(), r)
	if err != nil {
		return nil, err
	}
	return &clientConn{t: t, key: key, c: c, in: newConnReader(c)}, nil
}

// popIdle removes and returns the most recently used idle connection of a key, or nil.
func (t *Transport) popIdle(key string) *clientConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := t.idle[key]
	if len(all) == 0 {
		return nil
	}
	l := all[len(all)-1]
	all[len(all)-1] = nil
	t.idle[key] = all[:len(all)-1]
	return l
}

// putIdle keeps a connection for the next request, or closes it if there are MaxIdle of its key.
func (t *Transport) putIdle(l *clientConn) {
	l.idleSince = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.idle[l.key]) >= t.MaxIdle {
		_ = l.c.Close()
		return
	}
	if t.idle == nil {
		t.idle = map[string][]*clientConn{}
	}
	t.idle[l.key] = append(t.idle[l.key], l)
	switch {
	case t.sweepTimer == nil:
		t.sweepTimer, t.sweepSoon = time.AfterFunc(shortIdle/2, t.closeExpired), true
	case !t.sweepSoon && len(t.idle[l.key]) > maxLongIdle:
		t.sweepTimer.Reset(shortIdle / 2)
		t.sweepSoon = true
	}
}

// closeExpired closes connections that have been idle for too long, and sets the timer for the next
// one.
func (t *Transport) closeExpired() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	next := t.IdleTimeout
	for key, all := range t.idle {
		kept := all[:0]
		for i, l := range all {
			limit := t.IdleTimeout
			if i < len(all)-maxLongIdle {
				limit = min(shortIdle, limit)
			}
			left := l.idleSince.Add(limit).Sub(now)
			if left <= 0 {
				_ = l.c.Close()
				continue
			}
			kept = append(kept, l)
			next = min(next, left)
		}
		clear(all[len(kept):])
		if t.idle[key] = kept; len(kept) == 0 {
			delete(t.idle, key)
		}
	}
	if len(t.idle) == 0 {
		t.sweepTimer = nil
		return
	}
	t.sweepSoon = next <= shortIdle
	t.sweepTimer.Reset(max(next, shortIdle/2))
}

// CloseIdleConnections implements what http.Client looks for.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, all := range t.idle {
		for _, l := range all {
			_ = l.c.Close()
		}
	}
	t.idle = nil
}
