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

// answer is an http.ResponseWriter, and all that http.ResponseController
// knows. It is full duplex, and invents no field.
type answer struct {
	k      *conn
	r      *http.Request
	cancel context.CancelFunc
	body   *requestBody
	header http.Header

	wmu      sync.Mutex // a 100 may be written by whoever reads the body
	out      *bufio.Writer
	wrote    bool // the header
	status   int
	chunked  bool
	last     bool  // the connection closes behind the answer
	left     int64 // of the length that was announced; -1: none was
	trailers []string
	err      error

	watch   sync.Mutex
	timer   *time.Timer
	waiting chan struct{} // closed when the watch has ended
	over    bool
}

// maxAhead is how much a client may send behind a request that is not
// answered yet, in bytes.
const maxAhead = 64 << 10

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 16<<10) }}

// writer is there while something is to be written.
func (w *answer) writer() *bufio.Writer {
	if w.out == nil {
		w.out = writers.Get().(*bufio.Writer)
		w.out.Reset(w.k.c)
	}
	return w.out
}

// Header implements http.ResponseWriter.
func (w *answer) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. Informational answers are
// written at once.
func (w *answer) WriteHeader(status int) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(status)
}

func (w *answer) writeHeader(status int) {
	if w.wrote || w.err != nil {
		return
	}
	if status < 200 {
		if w.r.ProtoMinor > 0 {
			w.statusLine(status)
			w.fields(w.header)
			w.flush()
		}
		return
	}
	w.wrote, w.status = true, status
	w.frame()
	w.statusLine(status)
	w.fields(w.header)
}

// frame decides how the body is framed, and tells the client.
func (w *answer) frame() {
	h := w.header
	w.left = -1
	delete(h, "Transfer-Encoding")
	empty := w.status == http.StatusNoContent
	trailing := len(h["Trailer"]) > 0 && w.r.ProtoMinor > 0 && w.r.Method != http.MethodHead // which only chunks can carry
	if n, ok := number(first(h["Content-Length"])); ok && !empty && !trailing {
		w.left = n
	} else {
		delete(h, "Content-Length")
	}
	w.last = w.r.Close || w.k.s.leaving.Load() || Lists(h, "Connection", "close") || w.body.leftAlone()
	switch {
	case w.r.Method == http.MethodHead || w.status == http.StatusNotModified || empty:
		w.left = 0
	case w.left < 0 && w.r.ProtoMinor > 0:
		w.chunked = true
		h["Transfer-Encoding"] = []string{"chunked"}
		w.trailers = listed(h["Trailer"])
	case w.left < 0:
		w.last = true
	}
	if w.last {
		h["Connection"] = []string{"close"}
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// listed are the names in a field that lists names.
func listed(values []string) (names []string) {
	for _, list := range values {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	return names
}

func (w *answer) statusLine(status int) {
	out := w.writer()
	_, _ = out.WriteString("HTTP/1.1 ") // an error stays with the writer
	_, _ = out.WriteString(strconv.Itoa(status))
	_ = out.WriteByte(' ')
	_, _ = out.WriteString(http.StatusText(status))
	_, _ = out.WriteString("\r\n")
}

// fields writes a header and the empty line behind it.
func (w *answer) fields(h http.Header) {
	if err := writeFields(w.writer(), h, w.trailers); err != nil {
		w.err = err
	}
	_, _ = w.out.WriteString("\r\n")
}

// writeFields writes fields in the order of their names, but not the ones
// that are to come in the trailer.
func writeFields(out *bufio.Writer, h http.Header, later []string) error {
	var space [32]string
	names := space[:0]
	for name := range h {
		if !slices.Contains(later, name) && !strings.HasPrefix(name, http.TrailerPrefix) {
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
func (w *answer) Write(p []byte) (int, error) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(http.StatusOK)
	switch {
	case w.err != nil:
		return 0, w.err
	case w.left == 0 && !w.chunked:
		if len(p) > 0 {
			return 0, w.tooMuch()
		}
		return 0, nil
	case w.left > 0 && int64(len(p)) > w.left:
		return 0, w.tooMuch()
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

func (w *answer) tooMuch() error {
	if w.r.Method == http.MethodHead || w.status == http.StatusNotModified || w.status == http.StatusNoContent {
		return http.ErrBodyNotAllowed
	}
	w.err = http.ErrContentLength
	return w.err
}

// fail remembers that the client cannot be reached any more.
func (w *answer) fail(err error) {
	if err != nil && w.err == nil {
		w.err = err
		w.cancel()
	}
}

// FlushError serves http.ResponseController.
func (w *answer) FlushError() error {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.writeHeader(http.StatusOK)
	w.flush()
	return w.err
}

// Flush implements http.Flusher.
func (w *answer) Flush() { _ = w.FlushError() }

func (w *answer) flush() {
	if w.out != nil && w.err == nil {
		w.fail(w.out.Flush())
	}
}

// goOn asks for the body.
func (w *answer) goOn() {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if !w.wrote && w.err == nil {
		_, _ = w.writer().WriteString("HTTP/1.1 100 Continue\r\n\r\n")
		w.flush()
	}
}

// finish ends the answer. It tells whether the connection may be kept.
func (w *answer) finish() (keep bool) {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if !w.wrote && w.err == nil {
		w.header["Content-Length"] = []string{"0"}
		w.writeHeader(http.StatusOK)
	}
	if w.chunked && w.err == nil {
		_, _ = w.out.WriteString("0\r\n")
		w.trailer()
	}
	w.flush()
	w.release()
	return w.err == nil && !w.last && w.left <= 0
}

// abandon leaves an answer as it is: what was not sent yet is not sent.
func (w *answer) abandon() {
	w.wmu.Lock()
	defer w.wmu.Unlock()
	w.err = http.ErrAbortHandler
	w.release()
}

func (w *answer) release() {
	if w.out != nil {
		w.out.Reset(nil)
		writers.Put(w.out)
		w.out = nil
	}
}

// trailer writes the fields that were announced, and those that carry the
// prefix of net/http.
func (w *answer) trailer() {
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

// watchSoon begins to look for the end of the connection if the answer takes
// longer. Nothing else reads the connection now.
func (w *answer) watchSoon() {
	w.watch.Lock()
	defer w.watch.Unlock()
	if !w.over && w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.look)
	}
}

func (w *answer) look() {
	w.watch.Lock()
	if w.over {
		w.watch.Unlock()
		return
	}
	ended := make(chan struct{})
	w.waiting = ended
	_ = w.k.c.SetReadDeadline(time.Time{})
	w.watch.Unlock()
	defer close(ended)
	var err error
	for err == nil && w.k.src.buffered() < maxAhead {
		err = w.k.src.fill()
	}
	w.watch.Lock()
	defer w.watch.Unlock()
	if !w.over {
		w.cancel() // it has left, or sends more than anybody who waits for an answer
	}
}

// unwatch ends the watch and waits for its end.
func (w *answer) unwatch() {
	w.watch.Lock()
	w.over = true
	waiting := w.waiting
	if w.timer != nil {
		w.timer.Stop()
	}
	if waiting != nil {
		_ = w.k.c.SetReadDeadline(time.Unix(1, 0))
	}
	w.watch.Unlock()
	if waiting != nil {
		<-waiting
	}
}

// Hijack implements http.Hijacker. Bytes that the client has sent already are
// read from the connection like any others.
func (w *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.body != nil {
		return nil, nil, errors.New("taking over a connection with a body on it")
	}
	w.unwatch()
	w.wmu.Lock()
	defer w.wmu.Unlock()
	if w.wrote || w.k.taken {
		return nil, nil, http.ErrHijacked
	}
	w.flush()
	if w.err != nil {
		return nil, nil, w.err
	}
	w.k.taken = true
	_ = w.k.c.SetDeadline(time.Time{})
	c := w.k.c
	if early := w.k.src.buf[w.k.src.r:w.k.src.w]; len(early) > 0 {
		c = &replay{Conn: c, early: early}
	}
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), nil
}

// replay is a connection whose first bytes were read before.
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

// CloseWrite ends one direction.
func (c *replay) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// NetConn is the connection below.
func (c *replay) NetConn() net.Conn { return c.Conn }

// complete tells whether a whole head is buffered, as far as that is cheap to
// say.
func (s *source) complete() bool {
	return bytes.HasSuffix(s.buf[s.r:s.w], []byte("\r\n\r\n"))
}

// panicked is the place of a panic: the first function that is not the
// runtime's.
func panicked() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(4, callers)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
	}
}

var _ io.Writer = (*answer)(nil)

// AppendHead appends the head of an answer that is written by hand.
func AppendHead(to []byte, status int, h http.Header) []byte {
	var b bytes.Buffer
	out := bufio.NewWriter(&b)
	fmt.Fprintf(out, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = writeFields(out, h, nil) // the caller's own, or read by this package
	_, _ = out.WriteString("\r\n")
	_ = out.Flush()
	return append(to, b.Bytes()...)
}

// WriteConnect asks a proxy for a tunnel to a target, host:port.
func WriteConnect(to io.Writer, target string, h http.Header) error {
	if !all(target, visible) {
		return errors.New("writing a CONNECT: its target cannot be written")
	}
	out := bufio.NewWriter(to)
	_, _ = out.WriteString("CONNECT " + target + " HTTP/1.1\r\n") // an error stays with the writer
	if err := writeFields(out, h, nil); err != nil {
		return err
	}
	_, _ = out.WriteString("\r\n")
	return out.Flush()
}

// Replay is a connection whose first bytes were read before.
func Replay(c net.Conn, early []byte) net.Conn {
	return &replay{Conn: c, early: bytes.Clone(early)}
}
