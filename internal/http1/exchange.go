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
		body.close()
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
		res.Trailer, b.trailer = late(res.Header)
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
