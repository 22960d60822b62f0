package pipelock

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// body puts the scan between a request's body and the origin. A body that is
// short is scanned as a whole before anything is dialled; what is found in a
// longer one later is reported when it is stopped. A body that egress has
// written itself, for a request of its own, is not scanned.
func (s *scanner) body(r *http.Request, injected []string, report func(policy.Verdict)) (policy.Verdict, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return policy.Allowed("scan"), nil
	}
	if slices.Contains(injected, httpd.InjectedBody) {
		return policy.Allowed("scan"), nil
	}
	if r.ContentLength > s.limit {
		return policy.Denied("limits.body_bytes", fmt.Sprintf("the body is longer than %d bytes", s.limit)), nil
	}
	encoding, framed := encodingOf(r.Header)
	own := func(text []byte) []byte {
		text, _ = s.own(httpd.InjectedBody, text, injected)
		if framed {
			text = append(append(bytes.Clone(text), '\n'), withoutFrames(text)...)
		}
		return text
	}
	b := &scannedBody{scanner: s, own: own, report: report, ctx: r.Context(), src: r.Body, length: r.ContentLength, left: s.limit, trailer: func() http.Header { return r.Trailer }}
	if r.ContentLength < 0 && encoding == "" { // a compressed one is read as a whole or not at all
		b.pause = streamPause
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			b.pause = messagePause
		}
	}
	v, err := b.begin(encoding, framed)
	if err != nil || !v.Allow && !s.warn {
		b.held.close()
		return v, err
	}
	r.Body = b
	return v, nil
}

// begin reads and scans the first window.
func (b *scannedBody) begin(encoding string, framed bool) (policy.Verdict, error) {
	s := b.scanner
	size := int64(smallBody)
	if b.length >= 0 {
		size = min(size, b.length)
	}
	done, err := s.memory.begins.take(b.ctx, size)
	if err != nil {
		return policy.Verdict{}, err
	}
	b.held.keep(&b.held.begin, done)
	first, ended, err := b.read()
	if err != nil && !ended {
		return policy.Verdict{}, err
	}
	b.ready, b.tail, b.ended = first, tailOf(first), ended
	if encoding != "" && !ended {
		return policy.Denied("scan", "a compressed body this long cannot be scanned"), nil
	}
	return s.window(b.ctx, encoding, framed, b.own, first)
}

// encodingOf is how a body is compressed, empty when it is not, and whether
// it is framed in the way of S3 (aws-chunked) besides.
func encodingOf(h http.Header) (compressed string, framed bool) {
	framed = strings.HasPrefix(h.Get("X-Amz-Content-Sha256"), "STREAMING-")
	var rest []string
	for part := range strings.SplitSeq(strings.Join(h["Content-Encoding"], ","), ",") {
		switch part = strings.ToLower(strings.TrimSpace(part)); part {
		case "", "identity":
		case "aws-chunked":
			framed = true
		default:
			rest = append(rest, part)
		}
	}
	return strings.Join(rest, ","), framed
}

// frame is what stands between two pieces of a body that is framed in the way
// of S3.
var frame = regexp.MustCompile(`(?:^|\r\n)[0-9a-fA-F]{1,16}(?:;[^\r\n]{0,256})?\r\n`)

func withoutFrames(text []byte) []byte { return frame.ReplaceAll(text, nil) }

// unframe is the content of a whole body that is framed in the way of S3.
func unframe(data []byte) (content []byte, err error) {
	for {
		head, rest, ok := bytes.Cut(data, []byte("\r\n"))
		size, _, _ := bytes.Cut(head, []byte(";"))
		n, err := strconv.ParseUint(string(size), 16, 31)
		if !ok || err != nil || n > uint64(len(rest)) {
			return nil, errors.New("it is not framed as it says")
		}
		if n == 0 {
			return content, nil
		}
		content = append(content, rest[:n]...)
		data = bytes.TrimPrefix(rest[n:], []byte("\r\n"))
	}
}

// window scans a part of a body, inflated where it is compressed.
func (s *scanner) window(ctx context.Context, encoding string, framed bool, own func([]byte) []byte, data []byte) (policy.Verdict, error) {
	if encoding == "" {
		return s.look(ctx, "body", own(data)), nil
	}
	var err error
	if framed {
		data, err = unframe(data)
	}
	var plain []byte
	done := func() {}
	if err == nil {
		plain, done, err = s.inflate(ctx, encoding, data)
	}
	if errors.Is(err, errBusy) {
		return policy.Verdict{}, err
	}
	if err != nil {
		return policy.Denied("scan", "the body could not be inflated: "+err.Error()), nil
	}
	defer done()
	return s.look(ctx, "body", plain), nil
}

// maxWindow bounds what the decoder of a body may keep, in bytes (RFC 8878
// §3.1.1.1.2 recommends 8 MiB as what every decoder supports).
const maxWindow = 8 << 20

// inflate makes a body plain. It does so twice: first to know how much it will
// be, so that the memory for it is asked for once.
func (s *scanner) inflate(ctx context.Context, encoding string, data []byte) (plain []byte, done func(), err error) {
	decoder := int64(smallBody)
	if encoding == "zstd" {
		decoder = 2 * maxWindow
	}
	done, err = s.memory.inflated.take(ctx, decoder)
	if err != nil {
		return nil, nil, err
	}
	size, err := inflated(encoding, data, io.Discard)
	done()
	if err != nil {
		return nil, nil, err
	}
	if done, err = s.memory.inflated.take(ctx, decoder+2*size); err != nil { // the scan may make it as much again
		return nil, nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err = inflated(encoding, data, b); err != nil {
		done()
		return nil, nil, err
	}
	return b.Bytes(), done, nil
}

func inflated(encoding string, data []byte, to io.Writer) (size int64, err error) {
	var r io.Reader
	switch encoding {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(data))
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		return 0, errors.New("an encoding that is not known")
	}
	if err != nil {
		return 0, errors.New("it is not encoded as it says")
	}
	size, err = io.Copy(to, io.LimitReader(r, maxInflate+1))
	if err != nil {
		return 0, errors.New("it is not encoded as it says")
	}
	if size > maxInflate {
		return 0, fmt.Errorf("it grows to more than %d bytes", maxInflate)
	}
	return size, nil
}

func tailOf(p []byte) []byte { return bytes.Clone(p[max(0, len(p)-overlap):]) }

// scannedBody gives on what has been scanned.
type scannedBody struct {
	scanner *scanner
	own     func([]byte) []byte // what of a text is to be scanned
	report  func(policy.Verdict)
	ctx     context.Context
	src     io.ReadCloser
	trailer func() http.Header
	length  int64 // -1: not known
	left    int64 // of what may come at all
	held    holding
	pause   time.Duration // 0: the length is known, there is no need to hurry

	pump  *pump
	ready []byte // scanned, not yet read
	tail  []byte // the end of what went before
	ended bool
	err   error
}

// Read implements io.Reader.
func (b *scannedBody) Read(p []byte) (int, error) {
	for len(b.ready) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.err = b.refill()
		var refused *refusedError
		if errors.As(b.err, &refused) {
			refused.reported = true
			b.report(refused.v)
		}
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

func (b *scannedBody) refill() error {
	b.ready = nil
	if b.ended {
		b.held.close() // the answer may take long
		return b.end()
	}
	if b.pause > 0 {
		b.held.drop(&b.held.window) // the next window may take long to come
	}
	text, ended, err := b.read()
	if err != nil && !ended {
		return err
	}
	b.ended = ended
	if len(text) == len(b.tail) {
		return nil
	}
	if v := b.scanner.look(b.ctx, "body", b.own(text)); !v.Allow {
		if !b.scanner.warn {
			return &refusedError{v: v}
		}
		b.report(v)
	}
	b.ready, b.tail = text[len(b.tail):], tailOf(text)
	return nil
}

// end scans the trailer, which is there now.
func (b *scannedBody) end() error {
	var fields bytes.Buffer
	for name, values := range b.trailer() {
		fmt.Fprintf(&fields, "%s: %s\n", name, strings.Join(values, "\n"))
	}
	if fields.Len() > 0 {
		if v := b.scanner.look(b.ctx, "trailer", fields.Bytes()); !v.Allow {
			return &refusedError{v: v}
		}
	}
	return io.EOF
}

// read collects the next window, behind the end of the one before.
func (b *scannedBody) read() (text []byte, ended bool, err error) {
	if b.pause == 0 {
		text, ended, err = b.window()
	} else {
		if b.pump == nil {
			b.pump = newPump(b.ctx, b.src)
		}
		text, ended, err = b.pump.collect(b.tail, b.pause, b.more)
	}
	if b.left -= int64(len(text) - len(b.tail)); b.left < 0 {
		return nil, false, &refusedError{v: policy.Denied("limits.body_bytes", fmt.Sprintf("the body is longer than %d bytes", b.scanner.limit))}
	}
	return text, ended, err
}

// window reads as much as a window takes, or up to the end. The memory of a
// long one is kept until the body is closed.
func (b *scannedBody) window() (text []byte, ended bool, err error) {
	n := wholeBody
	if b.length >= 0 {
		came := b.scanner.limit - b.left
		n = int(min(wholeBody, b.length-came+1)) // one more, to see the end
	}
	text = append(make([]byte, 0, len(b.tail)+min(n, smallBody)), b.tail...)
	if text, ended, err = fill(b.src, text); ended || err != nil || n <= smallBody {
		return text, ended, err
	}
	if !b.held.has(&b.held.window) {
		done, err := b.scanner.memory.windows.take(b.ctx, 2*int64(n))
		if err != nil {
			return text, false, err
		}
		b.held.keep(&b.held.window, done)
	}
	return fill(b.src, append(make([]byte, 0, len(b.tail)+n), text...))
}

// more tells how long the window of a stream may become.
func (b *scannedBody) more() int {
	done, ok := b.scanner.memory.windows.try(b.ctx, 2*wholeBody)
	if !ok {
		return streamWindow
	}
	b.held.keep(&b.held.window, done)
	return wholeBody
}

// fill reads until p has no room any more, or until the end.
func fill(src io.Reader, p []byte) (text []byte, ended bool, err error) {
	for len(p) < cap(p) {
		n, err := src.Read(p[len(p):cap(p)])
		p = p[:len(p)+n]
		if err == io.EOF {
			return p, true, nil
		}
		if err != nil {
			return p, false, err
		}
	}
	return p, false, nil
}

// Close implements io.Closer.
func (b *scannedBody) Close() error {
	b.held.close()
	return b.src.Close()
}

// pump reads a stream ahead, one piece at a time, so that a pause can be
// noticed. Its goroutine ends with the body or the request.
type pump struct {
	pieces chan piece
	begun  bool // somebody has waited
}

type piece struct {
	data []byte
	err  error
}

func newPump(ctx context.Context, src io.Reader) *pump {
	p := &pump{pieces: make(chan piece)}
	go func() {
		defer close(p.pieces)
		// Who takes a piece has done with the one before.
		now, next := make([]byte, pieceBytes), make([]byte, pieceBytes)
		for {
			n, err := src.Read(now)
			select {
			case p.pieces <- piece{now[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
			now, next = next, now
		}
	}()
	return p
}

// collect waits for the first piece as long as it takes, and for each further
// one no longer than pause; and for the very first of a body no longer, either:
// it may be the origin who speaks first. It puts them behind tail. A window that is full is
// as long as more says.
func (p *pump) collect(tail []byte, pause time.Duration, more func() int) (text []byte, ended bool, err error) {
	text = bytes.Clone(tail)
	n := len(tail) + streamWindow
	asked := false
	var timeout <-chan time.Time
	if !p.begun {
		p.begun, timeout = true, time.After(pause)
	}
	for {
		if len(text) >= n && !asked {
			n, asked = len(tail)+more(), true
		}
		if len(text) >= n {
			return text, false, nil
		}
		if len(text) > len(tail) {
			timeout = time.After(pause)
		}
		select {
		case next, open := <-p.pieces:
			if !open { // the client has left
				return text, false, io.ErrUnexpectedEOF
			}
			text = append(text, next.data...)
			if next.err == io.EOF {
				return text, true, nil
			}
			if next.err != nil {
				return text, false, next.err
			}
		case <-timeout:
			return text, false, nil
		}
	}
}
