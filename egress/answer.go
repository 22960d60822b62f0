package egress

import (
	"bytes"
	"compress/zlib"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"airlock/internal/websocket"
)

// smallBody is up to which length a body is redacted as a whole, so that its
// length can be told truly, in bytes.
const smallBody = 64 << 10

// unreadableError refuses an answer that cannot be searched.
type unreadableError struct{ why string }

func (e *unreadableError) Error() string { return e.why }

// answer redacts what the upstream sent. Answers of hosts that get no
// credential are searched too when they are plain: another service may have
// been told the token by an earlier request.
func (p *pass) answer(res *http.Response) error {
	p.live.answered(p.route.Auth, res.StatusCode)
	r := p.live.redactor()
	r.header(res.Header)
	if res.StatusCode == http.StatusSwitchingProtocols {
		return readFrames(res, p.live.redactor, p.watchFrames())
	}
	if r.empty() {
		return nil
	}
	if encoding := res.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		if !p.searched() {
			return nil
		}
		if err := decode(res, encoding); err != nil {
			return err
		}
	}
	return redactBody(res, p.live.redactor)
}

// redactBody redacts with what is to be looked for at each moment: while a
// body streams, the origin may be sent another token by another request.
func redactBody(res *http.Response, now func() *redactor) error {
	if res.Request.Method == http.MethodHead || res.ContentLength == 0 {
		return nil
	}
	if res.ContentLength > 0 && res.ContentLength <= smallBody && len(res.Trailer) == 0 {
		whole := make([]byte, res.ContentLength)
		if _, err := io.ReadFull(res.Body, whole); err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		res.Body.Close()
		whole = now().all(whole)
		res.Body = ready{bytes.NewReader(whole)}
		res.ContentLength = int64(len(whole))
		res.Header.Set("Content-Length", strconv.Itoa(len(whole)))
		return nil
	}
	body := newReader(res.Body, now(), res.ContentLength > 0)
	body.now = now
	res.Body = &trailing{body, res, now}
	return nil
}

// Buffered tells whether a Read would return at once.
func (t *trailing) Buffered() bool {
	b, ok := t.ReadCloser.(interface{ Buffered() bool })
	return ok && b.Buffered()
}

// ready is a body that is there as a whole.
type ready struct{ io.Reader }

// Close implements io.Closer.
func (ready) Close() error { return nil }

// Buffered tells that a Read returns at once.
func (ready) Buffered() bool { return true }

// trailing redacts the trailer, which is there once the body has ended.
type trailing struct {
	io.ReadCloser
	res *http.Response
	now func() *redactor
}

func (t *trailing) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err == io.EOF {
		t.now().header(t.res.Trailer)
	}
	return n, err
}

// decode lets the agent have the answer as identity (RFC 9110 §8.4).
func decode(res *http.Response, encoding string) error {
	if res.StatusCode == http.StatusPartialContent {
		return &unreadableError{"a part of a compressed answer cannot be searched for the credential"}
	}
	if res.Request.Method != http.MethodHead && res.ContentLength != 0 {
		plain, err := decoder(strings.ToLower(strings.TrimSpace(encoding)), res.Body)
		if err != nil {
			return err
		}
		res.Body = struct {
			io.Reader
			io.Closer
		}{plain, res.Body}
	}
	res.Header.Del("Content-Encoding")
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	return nil
}

// maxWindow bounds what a decoder may keep, in bytes (RFC 8878 §3.1.1.1.2
// recommends 8 MiB as what every decoder supports).
const maxWindow = 8 << 20

func decoder(encoding string, body io.Reader) (io.Reader, error) {
	var r io.Reader
	var err error
	switch encoding {
	case "gzip", "x-gzip":
		r, err = gzip.NewReader(body)
	case "deflate":
		r, err = zlib.NewReader(body)
	case "br":
		r = brotli.NewReader(body)
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			r = z.IOReadCloser()
		}
	default:
		return nil, &unreadableError{"the answer is encoded in a way that cannot be searched for the credential"}
	}
	if err != nil {
		return nil, &unreadableError{"the answer is not encoded as it says"}
	}
	return r, nil
}

// readFrames redacts what comes back over a WebSocket, frame by frame; the
// length of a frame stays.
func readFrames(res *http.Response, now func() *redactor, up *websocket.Inspector) error {
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return &unreadableError{"the upstream switched protocols without a connection"}
	}
	down := websocket.NewInspector(func(f websocket.Frame) error {
		s := stream{r: now(), keepLength: true}
		copy(f.Payload, s.flush(s.feed(nil, f.Payload)))
		return nil
	})
	res.Body = websocket.Conn(conn, down, up)
	return nil
}

// watchFrames closes a WebSocket in which the agent sends a placeholder.
func (p *pass) watchFrames() *websocket.Inspector {
	if p.live.wires.forms.empty() {
		return nil
	}
	w := &wire{forms: p.live.wires.forms}
	return websocket.NewInspector(func(f websocket.Frame) error {
		name := w.in(f.Payload)
		if name == "" {
			return nil
		}
		err := strayed(name)
		p.s.stopped(p, verdictOf(err))
		return err
	})
}

// text redacts a line for the log.
func (r *redactor) text(s string) string { return string(r.all([]byte(s))) }

func directTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
}
