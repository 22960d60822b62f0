package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// responseWriter is an http.ResponseWriter, and supports everything that http.ResponseController
// knows. It is full duplex and adds no fields such as Date. The handler may write while another
// goroutine reads the body.
type responseWriter struct {
	k      *conn
	r      *http.Request
	cancel context.CancelFunc
	body   *requestBody
	header http.Header

	wmu         sync.Mutex // guards the output: the reader of the body may write a 100
	out         *bufio.Writer
	wroteHeader bool // the header
	status      int
	chunked     bool
	closeAfter  bool  // the connection closes after the response
	left        int64 // bytes of the announced Content-Length; -1: none was announced
	trailers    []string
	err         error

	watchMu      sync.Mutex
	watchTimer   *time.Timer
	watchDone    chan struct{} // closed when watchClient has returned
	watchStopped bool
}

// maxAhead is how much a client may send after a request that is not answered yet, in bytes.
const maxAhead = 64 << 10

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 16<<10) }}

// writer returns the buffered writer, taking one from the pool where there is none.
func (w *responseWriter) writer() *bufio.Writer {
	if w.out == nil {
		w.out = writers.Get().(*bufio.Writer)
		w.out.Reset(w.k.c)
	}
	return w.out
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Informational responses are sent at once.
func (w *responseWriter) WriteHeader(status int) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(status)
}

func (w *responseWriter) writeHeader(status int) {
	if w.wroteHeader || w.err != nil {
		return
	}
	if status < 200 {
		if w.r.ProtoMinor > 0 {
			w.writeStatusLine(status)
			w.writeHead(w.header)
			w.flush()
		}
		return
	}
	w.wroteHeader, w.status = true, status
	w.setFraming()
	w.writeStatusLine(status)
	w.writeHead(w.header)
}

// setFraming chooses how the body is framed, and sets the header fields that say so.
func (w *responseWriter) setFraming() {
	h := w.header
	w.left = -1
	delete(h, "Transfer-Encoding")
	empty := w.status == http.StatusNoContent
	trailing := len(h["Trailer"]) > 0 && w.r.ProtoMinor > 0 && w.r.Method != http.MethodHead // trailers need chunked coding
	if n, ok := parseLength(first(h["Content-Length"])); ok && !empty && !trailing {
		w.left = n
	} else {
		delete(h, "Content-Length")
	}
	w.closeAfter = w.r.Close || w.k.s.shuttingDown.Load() || Lists(h, "Connection", "close") || w.body.forcesClose()
	switch {
	case w.r.Method == http.MethodHead || w.status == http.StatusNotModified || empty:
		w.left = 0
	case w.left < 0 && w.r.ProtoMinor > 0:
		w.chunked = true
		h["Transfer-Encoding"] = []string{"chunked"}
		w.trailers = listNames(h["Trailer"])
	case w.left < 0:
		w.closeAfter = true
	}
	if w.closeAfter {
		h["Connection"] = []string{"close"}
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// listNames returns the field names in a list-valued field, in canonical form.
func listNames(values []string) (names []string) {
	for _, list := range values {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	return names
}

func (w *responseWriter) writeStatusLine(status int) {
	out := w.writer()
	_, _ = out.WriteString("HTTP/1.1 ") // bufio.Writer keeps an error until Flush
	_, _ = out.WriteString(strconv.Itoa(status))
	_ = out.WriteByte(' ')
	_, _ = out.WriteString(http.StatusText(status))
	_, _ = out.WriteString("\r\n")
}

// writeHead writes the header fields and the empty line after them.
func (w *responseWriter) writeHead(h http.Header) {
	if err := writeFields(w.writer(), h, w.trailers); err != nil {
		w.err = err
	}
	_, _ = w.out.WriteString("\r\n")
}

// writeFields writes fields in the order of their names, without those in skip.
func writeFields(out *bufio.Writer, h http.Header, skip []string) error {
	var space [32]string
	names := space[:0]
	for name := range h {
		if !slices.Contains(skip, name) && !strings.HasPrefix(name, http.TrailerPrefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			if !all(name, token) || value != "" && !all(value, content) {
				return fmt.Errorf("writing a header: the field %q cannot be written", name)
			}
			_, _ = out.WriteString(name)
			_, _ = out.WriteString(": ")
			_, _ = out.WriteString(value)
			_, _ = out.WriteString("\r\n")
		}
	}
	return nil
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(http.StatusOK)
	switch {
	case w.err != nil:
		return 0, w.err
	case w.left == 0 && !w.chunked:
		if len(p) > 0 {
			return 0, w.bodyTooLong()
		}
		return 0, nil
	case w.left > 0 && int64(len(p)) > w.left:
		return 0, w.bodyTooLong()
	case len(p) == 0:
		return 0, nil
	}
	out := w.writer()
	if w.chunked {
		_, _ = fmt.Fprintf(out, "%x\r\n", len(p))
	}
	n, err := out.Write(p)
	if w.chunked {
		_, err = out.WriteString("\r\n")
	}
	if w.left > 0 {
		w.left -= int64(n)
	}
	w.fail(err)
	return n, w.err
}

func (w *responseWriter) bodyTooLong() error {
	if w.r.Method == http.MethodHead || w.status == http.StatusNotModified || w.status == http.StatusNoContent {
		return http.ErrBodyNotAllowed
	}
	w.err = http.ErrContentLength
	return w.err
}

// fail records a write error and cancels the request.
func (w *responseWriter) fail(err error) {
	if err != nil && w.err == nil {
		w.err = err
		w.cancel()
	}
}

// FlushError implements what http.ResponseController looks for.
func (w *responseWriter) FlushError() error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(http.StatusOK)
	w.flush()
	return w.err
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

func (w *responseWriter) flush() {
	if w.out != nil && w.err == nil {
		w.fail(w.out.Flush())
	}
}

// sendContinue sends "100 Continue" unless the response has begun.
func (w *responseWriter) sendContinue() {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if !w.wroteHeader && w.err == nil {
		_, _ = w.writer().WriteString("HTTP/1.1 100 Continue\r\n\r\n")
		w.flush()
	}
}

// finish completes the response and reports whether the connection may be kept.
func (w *responseWriter) finish() (keep bool) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if !w.wroteHeader && w.err == nil {
		w.header["Content-Length"] = []string{"0"}
		w.writeHeader(http.StatusOK)
	}
	if w.chunked && w.err == nil {
		_, _ = w.out.WriteString("0\r\n")
		w.writeTrailer()
	}
	w.flush()
	w.releaseWriter()
	return w.err == nil && !w.closeAfter && w.left <= 0
}

// abort drops the part of the response that is still buffered.
func (w *responseWriter) abort() {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.err = http.ErrAbortHandler
	w.releaseWriter()
}

// releaseWriter returns the buffered writer to the pool.
func (w *responseWriter) releaseWriter() {
	if w.out != nil {
		w.out.Reset(nil)
		writers.Put(w.out)
		w.out = nil
	}
}

// writeTrailer writes the announced trailer fields and those with http.TrailerPrefix.
func (w *responseWriter) writeTrailer() {
	late := http.Header{}
	for _, name := range w.trailers {
		if values := w.header[name]; len(values) > 0 && !IsReserved(name) {
			late[name] = values
		}
	}
	for name, values := range w.header {
		if plain, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && !IsReserved(plain) {
			late[http.CanonicalHeaderKey(plain)] = values
		}
	}
	if err := writeFields(w.out, late, nil); err != nil {
		w.fail(err)
	}
	_, _ = w.out.WriteString("\r\n")
}

// startWatch starts the watch for a disconnect of the client after watchAfter. No other code may read
// the connection until stopWatch.
func (w *responseWriter) startWatch() {
	w.watchMu.Lock()
	defer w.watchMu.Unlock()
	if !w.watchStopped && w.watchTimer == nil {
		w.watchTimer = time.AfterFunc(watchAfter, w.watchClient)
	}
}

// watchClient reads ahead until the client disconnects, and then cancels the request. What it reads
// stays in the buffer of the connection, for the next request.
func (w *responseWriter) watchClient() {
	w.watchMu.Lock()
	if w.watchStopped {
		w.watchMu.Unlock()
		return
	}
	done := make(chan struct{})
	w.watchDone = done
	_ = w.k.c.SetReadDeadline(time.Time{})
	w.watchMu.Unlock()
	defer close(done)
	var err error
	for err == nil && w.k.in.buffered() < maxAhead {
		err = w.k.in.fill()
	}
	w.watchMu.Lock()
	defer w.watchMu.Unlock()
	if !w.watchStopped {
		w.cancel() // disconnected, or sends more than a client that waits for a response does
	}
}

// stopWatch stops the watch and waits until watchClient has returned.
func (w *responseWriter) stopWatch() {
	w.watchMu.Lock()
	w.watchStopped = true
	done := w.watchDone
	if w.watchTimer != nil {
		w.watchTimer.Stop()
	}
	if done != nil {
		_ = w.k.c.SetReadDeadline(time.Unix(1, 0))
	}
	w.watchMu.Unlock()
	if done != nil {
		<-done
	}
}

// Hijack implements http.Hijacker. The connection that it returns first yields the bytes that the
// client has already sent.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.body != nil {
		return nil, nil, errors.New("taking over a connection with a body on it")
	}
	w.stopWatch()
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if w.wroteHeader || w.k.hijacked {
		return nil, nil, http.ErrHijacked
	}
	w.flush()
	if w.err != nil {
		return nil, nil, w.err
	}
	w.k.hijacked = true
	_ = w.k.c.SetDeadline(time.Time{})
	c := w.k.c
	if early := w.k.in.buf[w.k.in.r:w.k.in.w]; len(early) > 0 {
		c = &replay{Conn: c, early: early}
	}
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), nil
}

// replay is a connection whose first bytes have already been read.
type replay struct {
	net.Conn
	early []byte
}

// Read implements net.Conn.
func (c *replay) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}

// CloseWrite half-closes the connection.
func (c *replay) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn returns the underlying connection.
func (c *replay) NetConn() net.Conn { return c.Conn }

// hasFullHead reports whether the buffer ends with a complete head. false may be wrong.
func (s *connReader) hasFullHead() bool {
	return bytes.HasSuffix(s.buf[s.r:s.w], []byte("\r\n\r\n"))
}

// panicLocation returns where a panic began: the innermost function that is not the runtime's.
func panicLocation() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(4, callers)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
	}
}

var _ io.Writer = (*responseWriter)(nil)

// AppendHead appends the head of a response that the caller sends without a Server.
func AppendHead(to []byte, status int, h http.Header) []byte {
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	fmt.Fprintf(out, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = writeFields(out, h, nil) // the fields are the caller's own, or were read by this package
	_, _ = out.WriteString("\r\n")
	_ = out.Flush()
	return append(to, b.Bytes()...)
}

// WriteConnect writes a CONNECT request for a tunnel to target, host:port.
func WriteConnect(to io.Writer, target string, h http.Header) error {
	if !all(target, visible) {
		return errors.New("writing a CONNECT: its target cannot be written")
	}
	out := bufio.NewWriter(to)
	_, _ = out.WriteString("CONNECT " + target + " HTTP/1.1\r\n") // bufio.Writer keeps an error until Flush
	if err := writeFields(out, h, nil); err != nil {
		return err
	}
	_, _ = out.WriteString("\r\n")
	return out.Flush()
}

// Replay returns a connection that yields early before the input of c.
func Replay(c net.Conn, early []byte) net.Conn {
	return &replay{Conn: c, early: bytes.Clone(early)}
}
