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

// conn is one connection of a server.
type conn struct {
	s   *Server
	c   net.Conn
	src source
	ctx context.Context

	mu        sync.Mutex
	busy      bool // with a request, or with one that may be on its way: not to be closed
	dismissed bool

	taken bool // by Hijack
}

func newConn(s *Server, c net.Conn) *conn {
	k := &conn{s: s, c: c, src: newSource(c), busy: true}
	if s.Context != nil {
		k.ctx = s.Context(c)
	} else {
		k.ctx = context.Background()
	}
	return k
}

// serve answers one request after the other.
func (k *conn) serve() {
	defer func() {
		if !k.taken {
			_ = k.c.Close()
		}
		k.s.forget(k)
	}()
	for first := true; k.await(first) && k.one(); first = false {
	}
}

// await waits for the first byte of a request. Without one it tells nobody
// why: the client has left, or it is late.
func (k *conn) await(first bool) bool {
	wait := k.s.IdleTimeout
	if first {
		wait = k.s.HeaderTimeout
	}
	if k.src.buffered() > 0 {
		return k.occupy(first)
	}
	_ = k.c.SetReadDeadline(time.Now().Add(wait))
	if !first && !k.rest() {
		return false
	}
	err := k.src.fill()
	return k.occupy(first) && err == nil
}

// rest lets the connection be closed while nothing is on it.
func (k *conn) rest() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = false
	return !k.dismissed
}

// occupy is the end of a rest. A server that leaves with a notice answers only
// what it had accepted before.
func (k *conn) occupy(first bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dismissed {
		return false
	}
	if !first && k.s.Notice != nil && k.s.leaving.Load() {
		k.sendOff(k.s.Notice)
		return false
	}
	k.busy = true
	return true
}

// dismiss closes the connection if nothing is on it, else it closes behind
// the answer.
func (k *conn) dismiss(notice []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.busy && !k.dismissed {
		k.sendOff(notice)
	}
}

func (k *conn) sendOff(notice []byte) {
	k.dismissed = true
	if notice != nil {
		_ = k.c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = k.c.Write(notice) // whoever does not get it finds the connection closed
	}
	_ = k.c.Close()
}

// one serves a request, of which a byte at least is there. It tells whether
// the connection may carry another.
func (k *conn) one() bool {
	r, err := k.read()
	if err != nil {
		k.malformed(err)
		return false
	}
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	r = r.WithContext(ctx)
	w := &answer{k: k, r: r, cancel: cancel, header: make(http.Header, 8)}
	body := k.body(r, w)
	w.body = body
	if body == nil {
		w.watchSoon()
	}
	clean := k.handle(w, r)
	w.unwatch()
	if k.taken {
		return false
	}
	keep, unread := clean && w.finish(), false
	if body != nil {
		ended := body.discard(keep)
		keep, unread = keep && ended, !ended
	}
	if !clean {
		w.abandon()
		return false
	}
	if !keep {
		k.lingeringClose(unread, body)
	}
	return keep
}

// read reads the next head.
func (k *conn) read() (*http.Request, error) {
	if !k.src.complete() {
		_ = k.c.SetReadDeadline(time.Now().Add(k.s.HeaderTimeout))
	}
	text, err := k.src.head(k.s.MaxHeaderBytes, true)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errLate
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

// malformed answers what was no request. Then the connection closes.
func (k *conn) malformed(err error) {
	var v *Violation
	if !errors.As(err, &v) {
		return // the client left in the middle
	}
	w := &answer{k: k, r: &http.Request{Method: http.MethodGet, ProtoMajor: 1, ProtoMinor: 1, Close: true}, cancel: func() {}, header: http.Header{}}
	k.s.Malformed(w, v)
	w.finish()
	k.lingeringClose(true, nil)
}

// body gives the request its body; nil: it has none.
func (k *conn) body(r *http.Request, w *answer) *requestBody {
	if r.ContentLength == 0 {
		r.Body = http.NoBody
		return nil
	}
	b := &requestBody{k: k, w: w, size: r.ContentLength}
	b.expected.Store(len(r.Header["Expect"]) > 0 && r.ProtoMinor > 0)
	b.framed = framed{src: &k.src, strict: true, chunked: r.ContentLength < 0, left: max(r.ContentLength, 0)}
	if b.chunked {
		r.Trailer, b.trailer = late(r.Header)
	}
	r.Body = b
	return b
}

// handle calls the handler; after a panic the answer is not whole.
func (k *conn) handle(w *answer, r *http.Request) (clean bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				// Not the value: it could hold a part of a message.
				k.s.Log.Error("a handler panicked; the connection is cut", "where", panicked())
			}
			clean = false
		}
	}()
	k.s.Handler.ServeHTTP(w, r)
	return true
}

// requestBody is the body as the handler reads it.
type requestBody struct {
	framed
	k        *conn
	w        *answer
	size     int64       // -1: in chunks
	expected atomic.Bool // the client waits for a 100 (RFC 9110 §10.1.1)

	mu      sync.Mutex // held while reading
	touched atomic.Bool
	ended   atomic.Bool // was read to its end
	closed  atomic.Bool
}

// leftAlone tells whether the connection ends with an answer that begins now:
// the body is still on its way, and not one that is short and unread, which
// can be read away.
func (b *requestBody) leftAlone() bool {
	if b == nil || b.ended.Load() {
		return false
	}
	return b.touched.Load() || b.expected.Load() || b.size < 0 || b.size > maxDiscard
}

// Read implements io.Reader. The first asks the client for the body, where it
// waits for that.
func (b *requestBody) Read(p []byte) (int, error) {
	b.touched.Store(true)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.expected.CompareAndSwap(true, false) {
		b.w.goOn()
	}
	if !b.pending() {
		_ = b.k.c.SetReadDeadline(time.Now().Add(b.k.s.IdleTimeout))
	}
	n, err := b.framed.Read(p)
	var v *Violation
	switch {
	case err == io.EOF:
		b.ended.Store(true)
		b.w.watchSoon()
	case err != nil && !errors.As(err, &v):
		b.w.cancel() // the client has left
	}
	return n, err
}

// Buffered tells whether a Read would return at once.
func (b *requestBody) Buffered() bool { return b.pending() }

// Close implements io.Closer; what is unread is the server's concern.
func (b *requestBody) Close() error { return nil }

// discard reads away what the handler left. A reader that is still waiting is
// interrupted; then the connection cannot be kept.
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
	if !keep || b.expected.Load() || b.err != nil || b.left > maxDiscard {
		return false
	}
	_ = b.k.c.SetReadDeadline(time.Now().Add(lastRead))
	_, err := io.CopyN(io.Discard, &b.framed, maxDiscard)
	return err == io.EOF
}
