package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection of a server. The goroutine of serve owns it; closeIdle is called from others.
type conn struct {
	s   *Server
	c   net.Conn
	in  connReader
	ctx context.Context

	mu      sync.Mutex
	active  bool // has a request, or may be about to get one: must not be closed
	closing bool

	hijacked bool
}

func newConn(s *Server, c net.Conn) *conn {
	k := &conn{s: s, c: c, in: newConnReader(c), active: true}
	if s.Context != nil {
		k.ctx = s.Context(c)
	} else {
		k.ctx = context.Background()
	}
	return k
}

// serve answers one request after the other until the connection cannot be kept.
func (k *conn) serve() {
	defer func() {
		if !k.hijacked {
			_ = k.c.Close()
		}
		k.s.removeConn(k)
	}()
	for first := true; k.awaitRequest(first) && k.serveOne(); first = false {
	}
}

// awaitRequest waits for the first byte of a request and reports whether it came. If the client has
// disconnected or is late, the connection is closed without a response.
func (k *conn) awaitRequest(first bool) bool {
	wait := k.s.IdleTimeout
	if first {
		wait = k.s.HeaderTimeout
	}
	if k.in.buffered() > 0 {
		return k.setActive(first)
	}
	_ = k.c.SetReadDeadline(time.Now().Add(wait))
	if !first && !k.setIdle() {
		return false
	}
	err := k.in.fill()
	return k.setActive(first) && err == nil
}

// setIdle marks the connection as idle, so that closeIdle may close it. It reports whether the
// connection is still open.
func (k *conn) setIdle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.active = false
	return !k.closing
}

// setActive marks the connection as active and reports whether the next request may be answered.
// A server with a GoodbyeMessage that shuts down answers only the first request of a connection.
func (k *conn) setActive(first bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return false
	}
	if !first && k.s.GoodbyeMessage != nil && k.s.shuttingDown.Load() {
		k.sendGoodbye(k.s.GoodbyeMessage)
		return false
	}
	k.active = true
	return true
}

// closeIdle closes the connection if it is idle. An active one closes after its response, because
// the server is shutting down.
func (k *conn) closeIdle(message []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.active && !k.closing {
		k.sendGoodbye(message)
	}
}

// sendGoodbye writes the message, if any, and closes the connection. The caller holds k.mu.
func (k *conn) sendGoodbye(message []byte) {
	k.closing = true
	if message != nil {
		_ = k.c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = k.c.Write(message) // a client that does not get it finds the connection closed
	}
	_ = k.c.Close()
}

// serveOne serves a request whose first byte has been read. It reports whether the connection may
// carry another.
func (k *conn) serveOne() bool {
	r, err := k.readRequest()
	if err != nil {
		k.answerMalformed(err)
		return false
	}
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	r = r.WithContext(ctx)
	w := &responseWriter{k: k, r: r, cancel: cancel, header: make(http.Header, 8)}
	body := k.newBody(r, w)
	w.body = body
	if body == nil {
		w.startWatch()
	}
	clean := k.handle(w, r)
	w.stopWatch()
	if k.hijacked {
		return false
	}
	keep, unread := clean && w.finish(), false
	if body != nil {
		ended := body.discard(keep)
		keep, unread = keep && ended, !ended
	}
	if !clean {
		w.abort()
		return false
	}
	if !keep {
		k.lingeringClose(unread, body)
	}
	return keep
}

// readRequest reads the next head.
func (k *conn) readRequest() (*http.Request, error) {
	if !k.in.hasFullHead() {
		_ = k.c.SetReadDeadline(time.Now().Add(k.s.HeaderTimeout))
	}
	text, err := k.in.readHead(k.s.MaxHeaderBytes, true)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errTimeout
	}
	if err != nil {
		return nil, err
	}
	r, err := parseRequest(text)
	if err != nil {
		return nil, err
	}
	r.RemoteAddr = k.c.RemoteAddr().String()
	return r, nil
}

// answerMalformed responds to input that is no valid request and closes the connection.
func (k *conn) answerMalformed(err error) {
	var v *Violation
	if !errors.As(err, &v) {
		return // the client disconnected within the head
	}
	r := &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Close: true}
	w := &responseWriter{k: k, r: r, cancel: func() {}, header: http.Header{}}
	k.s.Malformed(w, v)
	w.finish()
	k.lingeringClose(true, nil)
}

// newBody sets the body of the request and returns it; nil: the request has none.
func (k *conn) newBody(r *http.Request, w *responseWriter) *requestBody {
	if r.ContentLength == 0 {
		r.Body = http.NoBody
		return nil
	}
	b := &requestBody{k: k, w: w, size: r.ContentLength}
	b.expectContinue.Store(len(r.Header["Expect"]) > 0 && r.ProtoMinor > 0)
	b.framedBody = framedBody{in: &k.in, strict: true, chunked: r.ContentLength < 0, left: max(r.ContentLength, 0)}
	if b.chunked {
		r.Trailer, b.setTrailer = newTrailer(r.Header)
	}
	r.Body = b
	return b
}

// handle calls the handler. After a panic clean is false: the response may be incomplete.
func (k *conn) handle(w *responseWriter, r *http.Request) (clean bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				// Not the value: it could hold a part of a message.
				k.s.Log.Error("a handler panicked; the connection is cut", "where", panicLocation())
			}
			clean = false
		}
	}()
	k.s.Handler.ServeHTTP(w, r)
	return true
}

// requestBody is the body of a request as the handler reads it.
type requestBody struct {
	framedBody
	k              *conn
	w              *responseWriter
	size           int64       // -1: in chunks
	expectContinue atomic.Bool // the client waits for a 100 (RFC 9110 §10.1.1)

	mu          sync.Mutex // held while reading
	readStarted atomic.Bool
	ended       atomic.Bool // was read to its end
	closed      atomic.Bool
}

// forcesClose reports whether the connection has to close after a response that begins now: the
// body has not been read to its end, and it is not short and untouched, so that it could be read
// and dropped.
func (b *requestBody) forcesClose() bool {
	if b == nil || b.ended.Load() {
		return false
	}
	return b.readStarted.Load() || b.expectContinue.Load() || b.size < 0 || b.size > maxDiscard
}

// Read implements io.Reader. The first call sends "100 Continue" if the client waits for it.
func (b *requestBody) Read(p []byte) (int, error) {
	b.readStarted.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.expectContinue.CompareAndSwap(true, false) {
		b.w.sendContinue()
	}
	if !b.pending() {
		_ = b.k.c.SetReadDeadline(time.Now().Add(b.k.s.IdleTimeout))
	}
	n, err := b.framedBody.Read(p)
	var v *Violation
	switch {
	case err == io.EOF:
		b.ended.Store(true)
		b.w.startWatch()
	case err != nil && !errors.As(err, &v):
		b.w.cancel() // the client has disconnected
	}
	return n, err
}

// Buffered reports whether a Read would return at once.
func (b *requestBody) Buffered() bool { return b.pending() }

// Close implements io.Closer. It does nothing: discard handles what is unread.
func (b *requestBody) Close() error { return nil }

// discard reads and drops what the handler did not read, and reports whether the end of the body was
// reached. A Read that is still waiting is interrupted; the connection cannot be kept then.
func (b *requestBody) discard(keep bool) (clean bool) {
	b.closed.Store(true)
	if !b.mu.TryLock() {
		_ = b.k.c.SetReadDeadline(time.Unix(1, 0))
		b.mu.Lock()
		keep = false
	}
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return true
	}
	if !keep || b.expectContinue.Load() || b.err != nil || b.left > maxDiscard {
		return false
	}
	_ = b.k.c.SetReadDeadline(time.Now().Add(lastRead))
	_, err := io.CopyN(io.Discard, &b.framedBody, maxDiscard)
	return err == io.EOF
}
