package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
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

// exchange sends the request and reads the head of its answer.
func (l *link) exchange(r *http.Request, body held) (*http.Response, error) {
	x := &exchange{l: l, ctx: r.Context()}
	x.stop = context.AfterFunc(x.ctx, x.abort)
	res, err := x.run(r, body)
	if err == nil {
		return res, nil
	}
	x.cut()
	if cause := context.Cause(x.ctx); cause != nil {
		return nil, cause
	}
	return nil, x.reason(err)
}

// exchange is one request and its answer.
type exchange struct {
	l    *link
	ctx  context.Context
	stop func() bool

	sent    chan struct{} // closed when the body has been sent; nil: it went with the head
	mu      sync.Mutex
	bodyErr error // of reading the request's body
}

// abort makes everybody who reads or writes the connection give up.
func (x *exchange) abort() { _ = x.l.c.SetDeadline(time.Unix(1, 0)) }

// cut ends the exchange together with its connection.
func (x *exchange) cut() {
	x.stop()
	_ = x.l.c.Close()
	x.l.release()
}

// reason prefers what came instead of the request's body.
func (x *exchange) reason(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.bodyErr != nil {
		return &bodyError{x.bodyErr}
	}
	return err
}

func (l *link) release() {
	if l.out != nil {
		l.out.Reset(nil)
		writers.Put(l.out)
		l.out = nil
	}
}

func (x *exchange) run(r *http.Request, body held) (*http.Response, error) {
	l := x.l
	l.out = writers.Get().(*bufio.Writer)
	l.out.Reset(l.c)
	if err := writeRequest(l.out, r, body); err != nil {
		return nil, err
	}
	if body.stream != nil {
		x.sent = make(chan struct{})
		go x.send(l.out, r, body.stream)
		l.out = nil
	} else {
		// Where this fails the server may have said why.
		_ = l.out.Flush()
		l.release()
	}
	for {
		res, err := x.head(r)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return x.answered(res, r), nil
		}
		if err := inform(x.ctx, res); err != nil {
			return nil, err
		}
	}
}

// inform hands an informational answer to whoever traces the request.
func inform(ctx context.Context, res *http.Response) error {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil || trace.Got1xxResponse == nil || res.StatusCode == http.StatusContinue {
		return nil
	}
	return trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header))
}

// head reads the next head.
func (x *exchange) head(r *http.Request) (*http.Response, error) {
	text, err := x.l.src.head(x.l.t.MaxHeaderBytes, false)
	if err == io.EOF || isReset(err) {
		return nil, errUnanswered
	}
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	res, err := parseResponse(text)
	if err == nil {
		err = frameResponse(res, r.Method)
	}
	if err != nil {
		return nil, fmt.Errorf("reading an answer: %w", err)
	}
	res.Request = r
	return res, nil
}

// answered gives the answer its body.
func (x *exchange) answered(res *http.Response, r *http.Request) *http.Response {
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.stop()
		res.Body = &switched{x.l.c, &x.l.src}
		return res
	}
	b := &responseBody{x: x, res: res}
	b.framed = framed{src: &x.l.src, chunked: res.TransferEncoding != nil, left: res.ContentLength}
	if b.chunked {
		b.left = 0
		res.Trailer = http.Header{}
		for _, name := range listed(res.Header["Trailer"]) {
			res.Trailer[name] = nil
		}
		b.trailer = func(h http.Header) {
			for name, values := range h {
				res.Trailer[name] = values
			}
		}
	}
	res.Body = b
	if r.Method == http.MethodHead || res.StatusCode == http.StatusNotModified || res.ContentLength == 0 && !b.chunked {
		b.err, b.left = io.EOF, 0
		b.done()
	}
	return res
}

// send writes a body that came as a stream, and its trailer.
func (x *exchange) send(out *bufio.Writer, r *http.Request, stream io.ReadCloser) {
	defer close(x.sent)
	defer stream.Close()
	err := copyBody(out, r, stream)
	out.Reset(nil)
	writers.Put(out)
	var reading *bodyError
	if errors.As(err, &reading) {
		x.mu.Lock()
		x.bodyErr = reading.err
		x.mu.Unlock()
		x.abort() // half a request must not be answered
	}
}

func copyBody(out *bufio.Writer, r *http.Request, stream io.Reader) (err error) {
	defer func() {
		if recover() != nil { // nobody above would catch it; and not its value, which may quote the body
			err = &bodyError{errors.New("reading the body panicked")}
		}
	}()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	if err := out.Flush(); err != nil {
		return err
	}
	left := r.ContentLength
	if left == 0 {
		left = -1
	}
	for {
		n, err := stream.Read(*buf)
		if left >= 0 {
			if left -= int64(n); left < 0 {
				return &bodyError{http.ErrContentLength}
			}
			_, _ = out.Write((*buf)[:n])
		} else if n > 0 {
			_, _ = fmt.Fprintf(out, "%x\r\n%s\r\n", n, (*buf)[:n])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return &bodyError{err}
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	if left > 0 {
		return &bodyError{io.ErrUnexpectedEOF}
	}
	if left < 0 {
		_, _ = out.WriteString("0\r\n")
		if err := writeFields(out, r.Trailer, nil); err != nil {
			return &bodyError{err}
		}
		_, _ = out.WriteString("\r\n")
	}
	return out.Flush()
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// framing are the fields that writeRequest sets by itself.
var framing = []string{"Host", "Content-Length", "Transfer-Encoding", "Trailer"}

// writeRequest writes the head, and a body that is held.
func writeRequest(out *bufio.Writer, r *http.Request, body held) error {
	target := r.URL.RequestURI()
	if !all(r.Method, token) || !all(target, visible) || r.Host != "" && !all(r.Host, visible) {
		return errors.New("writing a request: its line cannot be written")
	}
	for _, s := range [...]string{r.Method, " ", target, " HTTP/1.1\r\nHost: ", r.Host, "\r\n"} {
		_, _ = out.WriteString(s) // an error stays with the writer
	}
	switch {
	case body.stream != nil && r.ContentLength <= 0:
		_, _ = out.WriteString("Transfer-Encoding: chunked\r\n")
		if len(r.Trailer) > 0 {
			_, _ = out.WriteString("Trailer: " + strings.Join(names(r.Trailer), ", ") + "\r\n")
		}
	case body.stream != nil || len(body.text) > 0 || bodied(r.Method):
		_, _ = out.WriteString("Content-Length: " + strconv.FormatInt(max(r.ContentLength, 0), 10) + "\r\n")
	}
	if err := writeFields(out, r.Header, framing); err != nil {
		return err
	}
	_, _ = out.WriteString("\r\n")
	_, _ = out.Write(body.text)
	return nil
}

// bodied tells whether a request of that method says that it has no body (RFC
// 9110 §8.6).
func bodied(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

func names(h http.Header) (all []string) {
	for name := range h {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// responseBody is the body of an answer. With its last byte the connection is
// free for the next request.
type responseBody struct {
	framed
	x    *exchange
	res  *http.Response
	once sync.Once
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.framed.Read(p)
	if err == nil {
		return n, nil
	}
	b.done()
	if err == io.EOF {
		return n, err
	}
	if cause := context.Cause(b.x.ctx); cause != nil {
		return n, cause
	}
	return n, b.x.reason(fmt.Errorf("reading an answer's body: %w", err))
}

// Buffered tells whether a Read would return at once.
func (b *responseBody) Buffered() bool { return b.pending() }

// Close implements io.Closer.
func (b *responseBody) Close() error {
	b.done()
	return nil
}

// done gives the connection back, or closes it where the exchange is not
// complete.
func (b *responseBody) done() {
	b.once.Do(func() {
		x := b.x
		if b.err != io.EOF || b.left < 0 || b.res.Close || !x.complete() || !x.stop() || x.l.src.buffered() > 0 {
			x.cut()
			return
		}
		x.l.t.put(x.l)
	})
}

// complete tells whether the request has been sent as a whole.
func (x *exchange) complete() bool {
	if x.sent == nil {
		return true
	}
	select {
	case <-x.sent:
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.bodyErr == nil
	default:
		return false
	}
}

// switched is a connection that speaks another protocol now.
type switched struct {
	net.Conn
	src *source
}

// Read implements io.Reader.
func (s *switched) Read(p []byte) (int, error) { return s.src.Read(p) }

// IsBodyError tells whether a request failed because its own body could not be
// read.
func IsBodyError(err error) bool {
	var b *bodyError
	return errors.As(err, &b)
}
