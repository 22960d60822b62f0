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
	// smallBody is up to which length a request's body is read before it is
	// sent: with its head, and once more where the first try met a connection
	// that was being closed.
	smallBody = 64 << 10
	// spare is how many idle connections a host keeps for IdleTimeout; those
	// beyond go after a moment.
	spare  = 2
	moment = 2 * time.Second
)

// Transport is an http.RoundTripper for HTTP/1.1. The goroutine that calls it
// writes the request and reads the answer; only a body of unknown or great
// length gets one of its own. Set its fields before the first request.
type Transport struct {
	// Dial opens a connection for the request.
	Dial func(context.Context, *http.Request) (net.Conn, error)
	// Key tells which requests may share connections.
	Key func(*http.Request) string
	// Replaced recognises the notice of a server that takes its leave: nobody
	// has acted on the request, which is sent once more. nil: there is none.
	Replaced       func(*http.Response) bool
	IdleTimeout    time.Duration // of connections without a request
	MaxIdle        int           // connections of one key
	MaxHeaderBytes int           // of an answer

	mu    sync.Mutex
	idle  map[string][]*link // the one that was used last stands last
	sweep *time.Timer
	soon  bool // sweep comes within a moment
}

// link is one connection of a transport.
type link struct {
	t     *Transport
	key   string
	c     net.Conn
	src   source
	out   *bufio.Writer
	since time.Time // idle since
	stale bool      // has served a request before
}

// errUnanswered is a connection that ended before the answer began.
var errUnanswered = errors.New("the connection was closed before an answer")

// RoundTrip implements http.RoundTripper. The body of an answer that switches
// protocols is an io.ReadWriteCloser. A request without an answer is sent
// once more where that cannot do a thing twice.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := hold(r)
	if err != nil {
		return nil, err
	}
	l, err := t.take(r, !body.streamed() || t.Replaced == nil)
	if err != nil {
		body.close()
		return nil, err
	}
	stale := l.stale // l may be somebody else's behind the exchange
	res, err := l.exchange(r, body)
	if !stale || body.streamed() {
		return res, err
	}
	replaced := err == nil && t.Replaced != nil && t.Replaced(res)
	switch {
	case replaced:
		_ = res.Body.Close()
	case errors.Is(err, errUnanswered) && idempotent(r.Method) && r.Context().Err() == nil:
	default:
		return res, err
	}
	if l, err = t.take(r, false); err != nil {
		return nil, err
	}
	return l.exchange(r, body)
}

// idempotent is RFC 9110 §9.2.2.
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// held is a body that can be sent again, or a stream.
type held struct {
	text   []byte
	stream io.ReadCloser
}

func (h held) streamed() bool { return h.stream != nil }

// close is for a stream that nobody will read.
func (h held) close() {
	if h.stream != nil {
		_ = h.stream.Close()
	}
}

func hold(r *http.Request) (held, error) {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return held{}, nil
	case r.ContentLength <= 0 || r.ContentLength > smallBody: // 0 is "unknown" where there is a body
		return held{stream: r.Body}, nil
	}
	defer r.Body.Close()
	text := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, text); err != nil {
		return held{}, &bodyError{unexpected(err)}
	}
	return held{text: text}, nil
}

// bodyError is what came instead of a request's body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the request's body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// take finds an idle connection that is still open, or makes one.
func (t *Transport) take(r *http.Request, again bool) (*link, error) {
	key := t.Key(r)
	for again {
		l := t.pop(key)
		if l == nil {
			break
		}
		if quiet(l.c) {
			l.stale = true
			return l, nil
		}
		_ = l.c.Close()
	}
	c, err := t.Dial(r.Context(), r)
	if err != nil {
		return nil, err
	}
	return &link{t: t, key: key, c: c, src: newSource(c)}, nil
}

func (t *Transport) pop(key string) *link {
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

// put keeps the connection for the next request.
func (t *Transport) put(l *link) {
	l.since = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.idle[l.key]) >= t.MaxIdle {
		_ = l.c.Close()
		return
	}
	if t.idle == nil {
		t.idle = map[string][]*link{}
	}
	t.idle[l.key] = append(t.idle[l.key], l)
	switch {
	case t.sweep == nil:
		t.sweep, t.soon = time.AfterFunc(moment/2, t.clean), true
	case !t.soon && len(t.idle[l.key]) > spare:
		t.sweep.Reset(moment / 2)
		t.soon = true
	}
}

// clean closes what has been idle too long. It comes again while there is
// something to look after.
func (t *Transport) clean() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	next := t.IdleTimeout
	for key, all := range t.idle {
		kept := all[:0]
		for i, l := range all {
			patience := t.IdleTimeout
			if i < len(all)-spare {
				patience = min(moment, patience)
			}
			left := l.since.Add(patience).Sub(now)
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
		t.sweep = nil
		return
	}
	t.soon = next <= moment
	t.sweep.Reset(max(next, moment/2))
}

// CloseIdleConnections serves http.Client.
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
