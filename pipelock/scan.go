package pipelock

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/secrets"
	"airlock/internal/websocket"
)

const (
	// wholeBody is up to which length a body is scanned before its first
	// byte goes on; longer ones go on window by window.
	wholeBody = 1 << 20
	// overlap is how much of what went before is scanned again with each
	// window, so that a secret across a border is seen as one.
	overlap = 8 << 10
	// streamPause is how long a body of unknown length may pause before what
	// has come is scanned and goes on: a stream must not wait for its end.
	streamPause = 100 * time.Millisecond
	// messagePause is that of a stream of messages, each of which is written
	// as a whole and may be waited for.
	messagePause = 2 * time.Millisecond
	// scanTimeout bounds the scan of one window.
	scanTimeout = 10 * time.Second
	// maxInflate bounds what a compressed body may grow to.
	maxInflate = 64 << 20
	// defaultBody is the longest body without a limit in the configuration.
	defaultBody = 100 << 20
)

// scanner reads what leaves.
type scanner struct {
	engine *secrets.Scanner
	known  map[string]secrets.Digest
	hosts  hosts
	warn   bool // findings are written down, not refused
	limit  int64
}

// newScanner looks for the rules' tokens and for the digests that the
// configuration names.
func newScanner(f bundle.PipelockFile, getenv func(string) string) (*scanner, error) {
	known := map[string]secrets.Digest{}
	for i, name := range f.Secrets.Values {
		text := getenv(name)
		if text == "" {
			continue // a slot that holds nothing has nothing to protect
		}
		d, err := secrets.ParseDigest(text)
		if err != nil {
			return nil, config.At(fmt.Sprintf("secrets.values[%d]", i), "%s: %v", name, err)
		}
		known[name] = d
	}
	engine, err := secrets.New(secrets.Options{Known: known, ArchiveDepth: 2})
	if err != nil {
		return nil, err
	}
	// Before the first request, not with it: a replacement takes over warm.
	if err := engine.Warm(); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // compiling left as much garbage as the rules are large
	return &scanner{engine: engine, known: known, warn: f.Secrets.Action == "warn", limit: f.Limits.BodyBytes.Or(defaultBody)}, nil
}

// look scans one text and turns a finding into the verdict of its surface.
func (s *scanner) look(ctx context.Context, surface string, data []byte) policy.Verdict {
	ctx, cancel := context.WithTimeout(ctx, scanTimeout)
	defer cancel()
	found, err := s.engine.Scan(ctx, data)
	switch {
	case err != nil:
		return policy.Denied("scan", "the "+surface+" could not be scanned: "+err.Error())
	case len(found) > 0:
		return policy.Denied("secret: "+found[0].Rule, "the "+surface+" holds what looks like a secret ("+found[0].Rule+")")
	}
	return policy.Allowed("scan")
}

// head scans what a request says before its body. Fields that egress filled
// are named in injected and left out. All is read in one go; only when
// something is found is it asked where.
func (s *scanner) head(r *http.Request, h policy.Host, injected []string) policy.Verdict {
	surfaces := []struct {
		name string
		text []byte
	}{
		{"host name", s.hosts.unread(h)},
		{"target", s.target(r.URL, injected)},
		{"header", s.fields(r, injected)},
	}
	var whole []byte
	for _, part := range surfaces {
		whole = append(append(whole, part.text...), '\n')
	}
	v := s.look(r.Context(), "request", whole)
	if v.Allow {
		s.hosts.read(h)
	}
	if v.Allow || v.Rule == "scan" {
		return v
	}
	for _, part := range surfaces {
		if where := s.look(r.Context(), part.name, part.text); !where.Allow {
			return where
		}
	}
	return policy.Allowed("scan") // the end of one with the beginning of another
}

// hostText is a host name as labels, as it is, and as one word.
func hostText(name string) []byte {
	return []byte(strings.ReplaceAll(name, ".", "\n") + "\n" + name + "\n" + strings.ReplaceAll(name, ".", ""))
}

// fields are the method and the header, as far as they are the agent's. Names
// are written in lower case too: on the way here their first letters became
// capitals.
func (s *scanner) fields(r *http.Request, injected []string) []byte {
	text := append([]byte(r.Method), '\n')
	for name, values := range r.Header {
		text = append(append(text, strings.ToLower(name)...), '\n')
		for _, v := range values {
			if v, ok := s.own(name, []byte(v), injected); ok {
				text = append(append(append(append(text, name...), ": "...), v...), '\n')
			}
		}
	}
	return text
}

// own is the part of a field, parameter or body that is the agent's: all of
// it, none where egress filled it, and what stands beside the credential where
// egress replaced a placeholder in it.
func (s *scanner) own(name string, value []byte, injected []string) ([]byte, bool) {
	for _, i := range injected {
		whole, slot, part := strings.Cut(i, httpd.Replaced)
		switch {
		case whole != name && (strings.Contains(name, ":") || !strings.EqualFold(whole, name)): // fields alone have no case
		case !part:
			return nil, false
		default:
			value = s.without(value, slot)
		}
	}
	return value, true
}

// without takes the value of a slot out of a text. What stood around it is
// there twice then: apart, and as one.
func (s *scanner) without(text []byte, slot string) []byte {
	d, known := s.known[bundle.DigestSlot(slot)]
	if !known {
		return text
	}
	parts := d.Split(text)
	if len(parts) == 1 {
		return text
	}
	return append(bytes.Join(parts, []byte("\n")), append([]byte("\n"), bytes.Join(parts, nil)...)...)
}

// target is the path and the query, as written and decoded, without what
// egress put there.
func (s *scanner) target(u *url.URL, injected []string) []byte {
	var b bytes.Buffer
	b.WriteString(u.EscapedPath() + "\n" + u.Path + "\n")
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		key, value, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			name = key
		}
		own, ok := s.own("query:"+url.QueryEscape(name), []byte(value), injected)
		if !ok {
			continue
		}
		part = key + "=" + string(own)
		b.WriteString(part + "\n")
		if plain, err := url.QueryUnescape(part); err == nil && plain != part {
			b.WriteString(plain + "\n")
		}
	}
	return b.Bytes()
}

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
	b := &scannedBody{scanner: s, own: own, report: report, ctx: r.Context(), src: r.Body, left: s.limit, trailer: func() http.Header { return r.Trailer }}
	if r.ContentLength < 0 && encoding == "" { // a compressed one is read as a whole or not at all
		b.pause = streamPause
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			b.pause = messagePause
		}
	}
	first, ended, err := b.read(wholeBody)
	if err != nil && !ended {
		return policy.Verdict{}, err
	}
	if encoding != "" && !ended {
		return policy.Denied("scan", "a compressed body this long cannot be scanned"), nil
	}
	if v := s.window(r.Context(), encoding, framed, own, first); !v.Allow {
		return v, nil
	}
	b.ready, b.tail, b.ended = first, tailOf(first), ended
	r.Body = b
	return policy.Allowed("scan"), nil
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
func (s *scanner) window(ctx context.Context, encoding string, framed bool, own func([]byte) []byte, data []byte) policy.Verdict {
	if encoding == "" {
		return s.look(ctx, "body", own(data))
	}
	var err error
	if framed {
		data, err = unframe(data)
	}
	var plain []byte
	if err == nil {
		plain, err = inflate(encoding, data)
	}
	if err != nil {
		return policy.Denied("scan", "the body could not be inflated: "+err.Error())
	}
	return s.look(ctx, "body", plain)
}

func inflate(encoding string, data []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch encoding {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case "deflate":
		r, err = zlib.NewReader(bytes.NewReader(data))
	case "zstd":
		r, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxInflate))
	default:
		return nil, errors.New("an encoding that is not known")
	}
	if err != nil {
		return nil, errors.New("it is not encoded as it says")
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxInflate+1))
	if err != nil {
		return nil, errors.New("it is not encoded as it says")
	}
	if len(plain) > maxInflate {
		return nil, fmt.Errorf("it grows to more than %d bytes", maxInflate)
	}
	return plain, nil
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
	left    int64
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
	if b.ended {
		return b.end()
	}
	next, ended, err := b.read(wholeBody)
	if err != nil && !ended {
		return err
	}
	b.ended = ended
	if len(next) == 0 {
		return nil
	}
	if v := b.scanner.look(b.ctx, "body", b.own(append(b.tail, next...))); !v.Allow {
		return &refusedError{v: v}
	}
	b.ready, b.tail = next, tailOf(append(b.tail, next...))
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

// read collects up to n bytes: until the end, or until a stream pauses.
func (b *scannedBody) read(n int) (got []byte, ended bool, err error) {
	if b.pause == 0 {
		got, err = io.ReadAll(io.LimitReader(b.src, int64(n)))
		ended = err == nil && len(got) < n
	} else {
		if b.pump == nil {
			b.pump = newPump(b.ctx, b.src)
		}
		got, ended, err = b.pump.collect(n, b.pause)
	}
	if b.left -= int64(len(got)); b.left < 0 {
		return nil, false, &refusedError{v: policy.Denied("limits.body_bytes", fmt.Sprintf("the body is longer than %d bytes", b.scanner.limit))}
	}
	return got, ended, err
}

// Close implements io.Closer.
func (b *scannedBody) Close() error { return b.src.Close() }

// pump reads a stream ahead, one piece at a time, so that a pause can be
// noticed. Its goroutine ends with the body or the request.
type pump struct {
	pieces chan piece
	rest   []byte
}

type piece struct {
	data []byte
	err  error
}

func newPump(ctx context.Context, src io.Reader) *pump {
	p := &pump{pieces: make(chan piece)}
	go func() {
		defer close(p.pieces)
		for {
			buf := make([]byte, 32<<10)
			n, err := src.Read(buf)
			select {
			case p.pieces <- piece{buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return p
}

// collect waits for the first piece as long as it takes, and for each further
// one no longer than pause.
func (p *pump) collect(n int, pause time.Duration) (got []byte, ended bool, err error) {
	got, p.rest = p.rest, nil
	var timeout <-chan time.Time
	for len(got) < n {
		if len(got) > 0 {
			timeout = time.After(pause)
		}
		select {
		case next, more := <-p.pieces:
			if !more { // the client has left
				return got, false, io.ErrUnexpectedEOF
			}
			got = append(got, next.data...)
			if next.err == io.EOF {
				return got, true, nil
			}
			if next.err != nil {
				return got, false, next.err
			}
		case <-timeout:
			return got, false, nil
		}
	}
	return got, false, nil
}

// frames scans what the agent sends over a WebSocket, each frame with the end
// of the ones before it.
func (s *scanner) frames(ctx context.Context, report func(policy.Verdict)) *websocket.Inspector {
	var tail []byte
	return websocket.NewInspector(func(f websocket.Frame) error {
		text := f.Payload
		if f.Opcode < websocket.Close {
			// A control frame may stand between two parts of a message
			// (RFC 6455 §5.4); it is read by itself.
			text = append(tail, f.Payload...)
			tail = tailOf(text)
		}
		v := s.look(ctx, "websocket frame", text)
		if v.Allow {
			return nil
		}
		report(v)
		if s.warn {
			return nil
		}
		return &refusedError{v: v}
	})
}

// injectedFields reads the field that egress names its injections in.
func injectedFields(h http.Header) []string {
	var all []string
	for part := range strings.SplitSeq(h.Get(httpd.HeaderInjected), ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}
