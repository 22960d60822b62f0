package pipelock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"airlock/internal/httpd"
	"airlock/internal/inflate"
	"airlock/internal/policy"
)

// body puts the scan between a request's body and the origin. A body that is
// short is scanned as a whole before anything is dialled; what is found in a
// longer one later is reported when it is stopped. A body that egress has
// written itself, for a request of its own, is not scanned.
func (s *scanner) body(r *http.Request, to scanContext) (policy.Verdict, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return policy.Allowed("scan"), nil
	}
	if slices.Contains(to.injected, httpd.InjectedBody) {
		return policy.Allowed("scan"), nil
	}
	if r.ContentLength > s.limit {
		return policy.Denied("limits.body_bytes", fmt.Sprintf("the body is longer than %d bytes", s.limit)), nil
	}
	b := &scannedBody{scanner: s, to: to, ctx: r.Context(), src: r.Body, length: r.ContentLength, left: s.limit, trailer: func() http.Header { return r.Trailer }}
	b.codings, b.framed = codingsOf(r.Header)
	b.signed = to.action == actionRedact && signed(r.Header)
	b.parts = newParts(r.Header.Get("Content-Type"))
	if r.ContentLength < 0 && len(b.codings) == 0 { // a compressed one is read as a whole or not at all
		b.pause = streamPause
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			b.pause = messagePause
		}
	}
	b.holds = to.action == actionRedact && len(b.codings) == 0 && inOnePiece(r.Header.Get("Content-Type"))
	v, err := b.begin()
	if err != nil || !v.Allow {
		b.held.releaseAll()
		return v, err
	}
	r.Body = b
	return v, nil
}

// begin reads and scans the first window.
func (b *scannedBody) begin() (policy.Verdict, error) {
	s := b.scanner
	size := int64(smallBody)
	if b.length >= 0 {
		size = min(size, b.length)
	}
	done, err := s.memory.firstWindows.acquire(b.ctx, size)
	if err != nil {
		return policy.Verdict{}, err
	}
	b.held.set(&b.held.first, done)
	first, ended, err := b.read()
	if err != nil && !ended {
		return policy.Verdict{}, err
	}
	b.ended = ended
	first, v, err := b.scanFirst(first)
	var refused *refusedError
	if errors.As(err, &refused) {
		v, err = refused.v, nil
	}
	b.forwardWindow(first, 0)
	return v, err
}

// scanFirst scans the first window. That of a compressed body is the whole body.
func (b *scannedBody) scanFirst(text []byte) ([]byte, policy.Verdict, error) {
	if len(b.codings) == 0 {
		return b.scanWindow(text, 0)
	}
	for !b.ended {
		var err error
		if text, err = b.grow(text, 0); err != nil {
			return text, policy.Verdict{}, err
		}
	}
	v, err := b.scanner.compressed(b.ctx, b.to.host, b.codings, b.framed, b.parts, text)
	return text, b.resolve(v), err
}

// shortBody is up to which length what a body says is read together with what
// the host got before, in bytes.
const shortBody = 8 << 10

// scannedText returns what of a text is scanned.
func (b *scannedBody) scannedText(text []byte) []byte {
	text, _ = b.scanner.own(httpd.InjectedBody, text, b.to.injected)
	if b.framed {
		text = append(append(bytes.Clone(text), '\n'), withoutFrames(text)...)
	}
	return text
}

// scanWindow scans a window and applies the configured action; the bytes from from on have not been
// sent yet and may be redacted. It returns the window, extended where compressed data continues
// after it.
func (b *scannedBody) scanWindow(text []byte, from int) ([]byte, policy.Verdict, error) {
	var v, inParts policy.Verdict
	for {
		began := time.Now()
		var open, partOpen bool
		v, open = b.scanner.scanTextPart(b.ctx, "body", b.scannedText(text))
		parts := b.parts
		if v.Allow || isFinding(v) {
			parts, inParts, partOpen = parts.scan(b.ctx, b.scanner, text, from, b.ended)
		}
		if b.ended || !open && !partOpen || b.blocks(v) || b.blocks(inParts) {
			b.parts = parts
			break
		}
		var err error
		if text, err = b.grow(text, time.Since(began)); err != nil {
			return text, v, err
		}
	}
	if isFinding(v) && b.to.action == actionRedact && !b.signed {
		if v = b.redact(text, from); v.Allow {
			_, inParts, _ = b.parts.scan(b.ctx, b.scanner, text, from, b.ended)
		}
	}
	if v = b.resolve(v); v.Allow {
		v = b.resolve(inParts)
	}
	if v.Allow && len(text)-from <= shortBody {
		v = b.resolve(b.scanner.scanJoined(b.ctx, b.to.host, []string{string(b.scannedText(text[from:]))}))
	}
	return text, v, nil
}

// blocks reports whether a verdict is final, whatever follows the window.
func (b *scannedBody) blocks(v policy.Verdict) bool {
	return !v.Allow && (!isFinding(v) || b.to.action == actionBlock || b.to.action == "")
}

// redact redacts the findings in a window.
func (b *scannedBody) redact(text []byte, from int) policy.Verdict {
	o := redactor{scanner: b.scanner, ctx: b.ctx, surface: "body", from: from, toScan: b.scannedText, more: !b.ended, llm: b.to.llm}
	b.scanner.trackReported(&o, b.to)
	o.held = b.heldBack(text, from)
	v := o.redact(text)
	if v.Allow && o.hasNew() && b.to.report(wordRedacted, v) != nil {
		return unwritten()
	}
	if v.Allow {
		o.markReported()
	}
	return v
}

// forwardWindow makes a scanned window readable; the bytes from from on have not been sent yet.
// Where findings are redacted, its end is held back and scanned again with the next window, because
// a secret may begin there.
func (b *scannedBody) forwardWindow(text []byte, from int) {
	b.back = b.heldBack(text, from)
	b.ready = text[from : len(text)-b.back]
	if b.back > 0 {
		b.tail = bytes.Clone(text[max(0, len(text)-b.back-overlap):])
		return
	}
	b.tail = b.tailOf(text)
}

// heldBack returns how many bytes at the end of a window are kept until the next one has been
// scanned; the bytes from from on have not been sent yet. A stream that pauses waits for an answer
// to what it sent: nothing of it is held back.
func (b *scannedBody) heldBack(text []byte, from int) int {
	if full := len(text)-from >= streamWindow; !b.holds || b.ended || b.pause > 0 && !full {
		return 0
	}
	return min(overlap, len(text)-from)
}

// inOnePiece reports whether a body is read as one text, and not in parts or messages.
func inOnePiece(contentType string) bool {
	kind := strings.ToLower(strings.TrimSpace(contentType))
	return !strings.HasPrefix(kind, "multipart/") && !strings.HasPrefix(kind, "application/grpc")
}

// resolve is for what was not redacted.
func (b *scannedBody) resolve(v policy.Verdict) policy.Verdict {
	if isFinding(v) {
		if b.signed {
			v.Why += "; the body is signed or has a checksum"
		}
		v, b.granted = b.to.resolve(b.ctx, v, b.granted)
	}
	return v
}

// codingsOf is how a body is compressed, and whether it is framed in the way
// of S3 (aws-chunked) besides.
func codingsOf(h http.Header) (codings []string, framed bool) {
	framed = strings.HasPrefix(h.Get("X-Amz-Content-Sha256"), "STREAMING-")
	for _, name := range inflate.Codings(h) {
		if name == "aws-chunked" {
			framed = true
		} else {
			codings = append(codings, name)
		}
	}
	return codings, framed
}

// frame is the separator of two pieces of a body with aws-chunked framing.
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

// compressed scans a whole body that is compressed.
func (s *scanner) compressed(ctx context.Context, to policy.Host, codings []string, framed bool, parts parts, data []byte) (policy.Verdict, error) {
	var err error
	if framed {
		data, err = unframe(data)
	}
	var plain []byte
	done := func() {}
	if err == nil {
		plain, done, err = s.inflate(ctx, codings, data)
	}
	if errors.Is(err, errBusy) {
		return policy.Verdict{}, err
	}
	if err != nil {
		return policy.Denied("scan", "the body could not be inflated: "+oneLine(err.Error())), nil
	}
	defer done()
	v := s.scanText(ctx, "body", plain)
	if v.Allow {
		_, v, _ = parts.scan(ctx, s, plain, 0, true)
	}
	if v.Allow && len(plain) <= shortBody {
		v = s.scanJoined(ctx, to, []string{string(plain)})
	}
	return v, nil
}

// inflate makes a body plain. It does so twice: first to know how much it will
// be, so that the memory for it is asked for once.
func (s *scanner) inflate(ctx context.Context, codings []string, data []byte) (plain []byte, done func(), err error) {
	decoder := int64(smallBody)
	for _, c := range codings {
		if c == "zstd" || c == "br" {
			decoder += 2 * inflate.MaxWindow
		}
	}
	done, err = s.memory.inflated.acquire(ctx, decoder)
	if err != nil {
		return nil, nil, err
	}
	size, err := inflated(codings, data, io.Discard)
	done()
	if err != nil {
		return nil, nil, err
	}
	if done, err = s.memory.inflated.acquire(ctx, decoder+2*size); err != nil { // the scan may make it as much again
		return nil, nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead))
	if _, err = inflated(codings, data, b); err != nil {
		done()
		return nil, nil, err
	}
	return b.Bytes(), done, nil
}

var errEncoded = errors.New("it is not encoded as it says")

func inflated(codings []string, data []byte, to io.Writer) (size int64, err error) {
	r, err := inflate.New(codings, bytes.NewReader(data))
	if errors.Is(err, inflate.ErrUnknown) {
		return 0, err
	}
	if err != nil {
		return 0, errEncoded
	}
	defer r.Close()
	if size, err = io.Copy(to, io.LimitReader(r, maxInflate+1)); err != nil {
		return 0, errEncoded
	}
	if size > maxInflate {
		return 0, fmt.Errorf("it grows to more than %d bytes", maxInflate)
	}
	return size, nil
}

// tailOf is what of a window is scanned again with the next one: not what a
// person let pass, which would be found and asked about again.
func (b *scannedBody) tailOf(text []byte) []byte {
	if !slices.ContainsFunc(b.granted, func(what string) bool { return what != "" }) {
		return tailOf(text)
	}
	found, _, err := b.scanner.find(b.ctx, text)
	if err != nil {
		return nil
	}
	end := 0
	for _, f := range found {
		end = max(end, f.End)
	}
	return tailOf(text[end:])
}

func tailOf(p []byte) []byte { return bytes.Clone(p[max(0, len(p)-overlap):]) }

// scannedBody gives on what has been scanned.
type scannedBody struct {
	scanner *scanner
	to      scanContext
	codings []string
	framed  bool
	parts   parts
	granted []string // findings that a person let pass
	ctx     context.Context
	src     io.ReadCloser
	trailer func() http.Header
	length  int64 // -1: not known
	left    int64 // of what may come at all
	held    reservation
	pause   time.Duration // 0: the length is known, there is no need to hurry

	pump  *pump
	ready []byte // scanned, not yet read
	tail  []byte // the end of what went before
	ended bool
	err   error

	signed bool // it cannot be changed on its way
	holds  bool // the end of each window is held back
	back   int  // how much of tail has not gone yet
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
			_ = b.to.report("", refused.v) // it is refused in any case
			b.held.releaseAll()
		}
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}

func (b *scannedBody) refill() error {
	b.ready = nil
	b.held.release(&b.held.grown)
	if b.ended {
		b.held.releaseAll() // the answer may take long
		return b.end()
	}
	if b.pause > 0 {
		b.held.release(&b.held.window) // the next window may take long to come
	}
	text, ended, err := b.read()
	if err != nil && !ended {
		return err
	}
	b.ended = ended
	from := len(b.tail) - b.back
	if len(text) == len(b.tail) && (b.back == 0 || !ended) {
		return nil
	}
	b.granted = make([]string, len(b.granted)) // who let pass what was there has not seen what comes
	text, v, err := b.scanWindow(text, from)
	if err != nil {
		return err
	}
	if !v.Allow {
		return &refusedError{v: v}
	}
	b.forwardWindow(text, from)
	return nil
}

// end scans the trailer, which is there now.
func (b *scannedBody) end() error {
	trailer := b.trailer()
	for _, name := range slices.Sorted(maps.Keys(trailer)) {
		for _, p := range b.scanner.field(trailer, name, scanContext{}) {
			if v := b.field(p); !v.Allow {
				return &refusedError{v: v}
			}
		}
	}
	if len(trailer) > 0 {
		if v := b.resolve(b.scanner.scanJoined(b.ctx, b.to.host, slices.Concat(slices.Collect(maps.Values(trailer))...))); !v.Allow {
			return &refusedError{v: v}
		}
	}
	return io.EOF
}

// field judges a field of the trailer.
func (b *scannedBody) field(p place) policy.Verdict {
	v := b.scanner.scanText(b.ctx, "trailer", p.text)
	if isFinding(v) && b.to.action == actionRedact && p.put != nil {
		o := redactor{scanner: b.scanner, ctx: b.ctx, surface: "trailer", from: p.from, named: true, llm: b.to.llm}
		b.scanner.trackReported(&o, b.to)
		if v = o.redact(p.text); v.Allow {
			if o.hasNew() && b.to.report(wordRedacted, v) != nil {
				return unwritten()
			}
			o.markReported()
			p.put(p.text[p.from:])
		}
	}
	return b.resolve(v)
}

// read collects the next window, after the end of the one before.
func (b *scannedBody) read() (text []byte, ended bool, err error) {
	if b.pause == 0 {
		text, ended, err = b.window()
	} else {
		if b.pump == nil {
			b.pump = newPump(b.ctx, b.src)
		}
		text, ended, err = b.pump.collect(b.tail, b.pause, streamWindow, b.more)
	}
	if v := b.came(len(text) - len(b.tail)); !v.Allow {
		return nil, false, &refusedError{v: v}
	}
	return text, ended, err
}

// came counts what has come of a body against its limit.
func (b *scannedBody) came(n int) policy.Verdict {
	if b.left -= int64(n); b.left < 0 {
		return policy.Denied("limits.body_bytes", fmt.Sprintf("the body is longer than %d bytes", b.scanner.limit))
	}
	return policy.Allowed("limits.body_bytes")
}

// tooLongPacked refuses compressed data that is too long to be read as a whole.
var tooLongPacked = policy.Denied("scan", fmt.Sprintf("compressed data of more than %d MiB cannot be read; ask the operator to let this host pass unread (secrets.passthrough), or send it in smaller parts", maxGrown>>20))

// grow reads on after a window that must not go on as it is: twice as much,
// or to the next pause of a stream. A scan of the window took so long: a pause
// that is shorter than some of those does not bring about the next.
func (b *scannedBody) grow(text []byte, took time.Duration) ([]byte, error) {
	before, ended := len(text), false
	if before-len(b.tail) > maxGrown {
		return text, &refusedError{v: tooLongPacked}
	}
	size := min(max(2*before, smallBody), len(b.tail)+maxGrown+1)
	if err := b.room(size); err != nil {
		return text, err
	}
	var err error
	if b.pause == 0 {
		text, ended, err = fill(b.src, append(make([]byte, 0, size), text...))
	} else {
		text, ended, err = b.pump.collect(text, max(b.pause, 4*took), size-before, nil)
	}
	if err != nil && !ended {
		return text, err
	}
	b.ended = ended
	if v := b.came(len(text) - before); !v.Allow {
		return text, &refusedError{v: v}
	}
	return text, nil
}

// room asks for the memory of a window that grows: beyond an ordinary one at
// once for all that it may become, so that none waits for another.
func (b *scannedBody) room(size int) error {
	place, from, n := &b.held.window, b.scanner.memory.windows, int64(2*wholeBody)
	switch {
	case size <= smallBody:
		return nil
	case size > wholeBody+overlap:
		place, from, n = &b.held.grown, b.scanner.memory.grown, 2*maxGrown
		if b.length >= 0 {
			n = min(n, 2*b.length)
		}
	}
	if b.held.holds(place) {
		return nil
	}
	done, err := from.acquire(b.ctx, n)
	if errors.Is(err, errBusy) {
		return &refusedError{v: busy()}
	}
	b.held.set(place, done)
	return err
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
	if !b.held.holds(&b.held.window) {
		done, err := b.scanner.memory.windows.acquire(b.ctx, 2*int64(n))
		if err != nil {
			return text, false, err
		}
		b.held.set(&b.held.window, done)
	}
	return fill(b.src, append(make([]byte, 0, len(b.tail)+n), text...))
}

// more tells how long the window of a stream may become.
func (b *scannedBody) more() int {
	done, ok := b.scanner.memory.windows.tryAcquire(b.ctx, 2*wholeBody)
	if !ok {
		return streamWindow
	}
	b.held.set(&b.held.window, done)
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
	b.held.releaseAll()
	return b.src.Close()
}

// pump reads a stream ahead, one piece at a time, so that a pause can be
// noticed. Its goroutine ends with the body or the request.
type pump struct {
	pieces chan piece
	begun  bool // a read has been waited for
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
// it may be the origin that speaks first. It appends them to tail, up to size. A window that is
// full is as long as more says, where there is one.
func (p *pump) collect(tail []byte, pause time.Duration, size int, more func() int) (text []byte, ended bool, err error) {
	text = bytes.Clone(tail)
	n := len(tail) + size
	asked := more == nil
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
