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

// roundTrip sends the request and reads the head of its response.
func (l *clientConn) roundTrip(r *http.Request, body outgoingBody) (*http.Response, error) {
	x := &exchange{l: l, ctx: r.Context()}
	x.stop = context.AfterFunc(x.ctx, x.abort)
	res, err := x.run(r, body)
	if err == nil {
		return res, nil
	}
	x.closeConn()
	if cause := context.Cause(x.ctx); cause != nil {
		return nil, cause
	}
	return nil, x.preferBodyError(err)
}

// exchange is one request and its response on a client connection. The goroutine that called
// RoundTrip owns it, apart from bodyErr, which sendBody sets.
type exchange struct {
	l    *clientConn
	ctx  context.Context
	stop func() bool

	bodySent chan struct{} // closed when the body has been sent; nil: it was sent with the head
	mu       sync.Mutex
	bodyErr  error // why the request's body could not be read
}

// abort makes all reads and writes of the connection fail.
func (x *exchange) abort() { _ = x.l.c.SetDeadline(time.Unix(1, 0)) }

// closeConn ends the exchange and closes its connection.
func (x *exchange) closeConn() {
	x.stop()
	_ = x.l.c.Close()
	x.l.releaseWriter()
}

// preferBodyError returns the error of reading the request's body if there is one, else err.
func (x *exchange) preferBodyError(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.bodyErr != nil {
		return &bodyError{x.bodyErr}
	}
	return err
}

func (l *clientConn) releaseWriter() {
	if l.out != nil {
		l.out.Reset(nil)
		writers.Put(l.out)
		l.out = nil
	}
}

func (x *exchange) run(r *http.Request, body outgoingBody) (*http.Response, error) {
	l := x.l
	l.out = writers.Get().(*bufio.Writer)
	l.out.Reset(l.c)
	if err := writeRequest(l.out, r, body); err != nil {
		body.close()
		return nil, err
	}
	if body.stream != nil {
		x.bodySent = make(chan struct{})
		go x.sendBody(l.out, r, body.stream)
		l.out = nil
	} else {
		// If this fails, the server may have sent a response that says why.
		_ = l.out.Flush()
		l.releaseWriter()
	}
	for {
		res, err := x.readHead(r)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return x.attachBody(res, r), nil
		}
		if err := traceInformational(x.ctx, res); err != nil {
			return nil, err
		}
	}
}

// traceInformational passes an informational response to the httptrace.ClientTrace of the request.
func traceInformational(ctx context.Context, res *http.Response) error {
	trace := httptrace.ContextClientTrace(ctx)
	if trace == nil || trace.Got1xxResponse == nil || res.StatusCode == http.StatusContinue {
		return nil
	}
	return trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header))
}

// readHead reads the head of the next response, which may be informational.
func (x *exchange) readHead(r *http.Request) (*http.Response, error) {
	text, err := x.l.in.readHead(x.l.t.MaxHeaderBytes, false)
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

// attachBody sets the body of the response.
func (x *exchange) attachBody(res *http.Response, r *http.Request) *http.Response {
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.stop()
		res.Body = &upgradedConn{x.l.c, &x.l.in}
		return res
	}
	b := &responseBody{x: x, res: res}
	b.framedBody = framedBody{in: &x.l.in, chunked: res.TransferEncoding != nil, left: res.ContentLength}
	if b.chunked {
		b.left = 0
		res.Trailer, b.setTrailer = newTrailer(res.Header)
	}
	res.Body = b
	if r.Method == http.MethodHead || res.StatusCode == http.StatusNotModified || res.ContentLength == 0 && !b.chunked {
		b.err, b.left = io.EOF, 0
		b.release()
	}
	return res
}

// sendBody writes a streamed body and its trailer, on a goroutine of its own.
func (x *exchange) sendBody(out *bufio.Writer, r *http.Request, stream io.ReadCloser) {
	defer close(x.bodySent)
	defer stream.Close()
	err := copyBody(out, r, stream)
	out.Reset(nil)
	writers.Put(out)
	var reading *bodyError
	if errors.As(err, &reading) {
		x.mu.Lock()
		x.bodyErr = reading.err
		x.mu.Unlock()
		x.abort() // the server must not respond to an incomplete request
	}
}

func copyBody(out *bufio.Writer, r *http.Request, stream io.Reader) (err error) {
	defer func() {
		if recover() != nil { // no caller would recover it; its value may quote the body, so it is dropped
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

// framingFields are the fields that writeRequest sets itself.
var framingFields = []string{"Host", "Content-Length", "Transfer-Encoding", "Trailer"}

// writeRequest writes the head, and the body if it is buffered.
func writeRequest(out *bufio.Writer, r *http.Request, body outgoingBody) error {
	target := r.URL.RequestURI()
	if !all(r.Method, token) || !all(target, visible) || r.Host != "" && !all(r.Host, visible) {
		return errors.New("writing a request: its line cannot be written")
	}
	for _, s := range [...]string{r.Method, " ", target, " HTTP/1.1\r\nHost: ", r.Host, "\r\n"} {
		_, _ = out.WriteString(s) // bufio.Writer keeps an error until Flush
	}
	switch {
	case body.stream != nil && r.ContentLength <= 0:
		_, _ = out.WriteString("Transfer-Encoding: chunked\r\n")
		if len(r.Trailer) > 0 {
			_, _ = out.WriteString("Trailer: " + strings.Join(sortedNames(r.Trailer), ", ") + "\r\n")
		}
	case body.stream != nil || len(body.buffered) > 0 || methodHasBody(r.Method):
		_, _ = out.WriteString("Content-Length: " + strconv.FormatInt(max(r.ContentLength, 0), 10) + "\r\n")
	}
	if err := writeFields(out, r.Header, framingFields); err != nil {
		return err
	}
	_, _ = out.WriteString("\r\n")
	_, _ = out.Write(body.buffered)
	return nil
}

// methodHasBody reports whether a request of that method without a body must say so with
// "Content-Length: 0" (RFC 9110 §8.6).
func methodHasBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

func sortedNames(h http.Header) (all []string) {
	for name := range h {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// responseBody is the body of a response. Once its last byte has been read, the connection is free
// for the next request.
type responseBody struct {
	framedBody
	x    *exchange
	res  *http.Response
	once sync.Once
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.framedBody.Read(p)
	if err == nil {
		return n, nil
	}
	b.release()
	if err == io.EOF {
		return n, err
	}
	if cause := context.Cause(b.x.ctx); cause != nil {
		return n, cause
	}
	return n, b.x.preferBodyError(fmt.Errorf("reading an answer's body: %w", err))
}

// Buffered reports whether a Read would return at once.
func (b *responseBody) Buffered() bool { return b.pending() }

// Close implements io.Closer.
func (b *responseBody) Close() error {
	b.release()
	return nil
}

// release returns the connection to the pool, or closes it if the exchange is not complete.
func (b *responseBody) release() {
	b.once.Do(func() {
		x := b.x
		if b.err != io.EOF || b.left < 0 || b.res.Close || !x.fullySent() || !x.stop() || x.l.in.buffered() > 0 {
			x.closeConn()
			return
		}
		x.l.t.putIdle(x.l)
	})
}

// fullySent reports whether the whole request has been sent.
func (x *exchange) fullySent() bool {
	if x.bodySent == nil {
		return true
	}
	select {
	case <-x.bodySent:
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.bodyErr == nil
	default:
		return false
	}
}

// upgradedConn is a connection after a switch of protocols. Reads go through the buffer, which may
// hold the first bytes of the new protocol.
type upgradedConn struct {
	net.Conn
	in *connReader
}

// Read implements io.Reader.
func (s *upgradedConn) Read(p []byte) (int, error) { return s.in.Read(p) }

// IsBodyError reports whether a request failed because its own body could not be read.
func IsBodyError(err error) bool {
	var b *bodyError
	return errors.As(err, &b)
}
