package egress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"airlock/internal/inflate"
	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// smallBody is the length in bytes up to which a body is redacted as a whole, so that its new length is
// known.
const smallBody = 64 << 10

// unreadableError refuses a response that cannot be searched.
type unreadableError struct{ why string }

func (e *unreadableError) Error() string { return e.why }

// redactResponse redacts a response. Responses of hosts without a credential are searched, too, if they
// are not encoded: the host may have got the token by an earlier request to another.
func (p *exchange) redactResponse(res *http.Response) error {
	p.config.invalidateOn401(p.route.Auth, res.StatusCode)
	r := p.config.redactor()
	r.header(res.Header)
	r.header(res.Trailer) // the names that are announced
	if res.StatusCode == http.StatusSwitchingProtocols {
		return readFrames(res, p.config.redactor, p.watchFrames(), p.closeStatus)
	}
	if r.empty() {
		return nil
	}
	if p.searched() && !onlyHeader(res) {
		if err := checkCharset(res.Header); err != nil {
			return err
		}
	}
	if encoding := encodingOf(res.Header); encoding != "" {
		if !p.searched() {
			return nil
		}
		if err := decode(res, encoding); err != nil {
			return err
		}
	}
	return redactBody(res, p.config.redactor)
}

// redactBody redacts a body. It asks now for the redactor at each read: while the body streams, another
// request may send a new token to the origin.
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
		res.Body = wholeBody{bytes.NewReader(whole)}
		res.ContentLength = int64(len(whole))
		res.Header.Set("Content-Length", strconv.Itoa(len(whole)))
		return nil
	}
	body := newReader(res.Body, now(), res.ContentLength > 0)
	body.now = now
	res.Body = &trailerRedactor{body, res, now}
	return nil
}

// Buffered reports whether a Read would return at once.
func (t *trailerRedactor) Buffered() bool {
	b, ok := t.ReadCloser.(interface{ Buffered() bool })
	return ok && b.Buffered()
}

// wholeBody is a body in memory.
type wholeBody struct{ io.Reader }

// Close implements io.Closer.
func (wholeBody) Close() error { return nil }

// Buffered reports that a Read returns at once.
func (wholeBody) Buffered() bool { return true }

// trailerRedactor redacts the trailer, which is complete once the body has ended.
type trailerRedactor struct {
	io.ReadCloser
	res *http.Response
	now func() *redactor
}

func (t *trailerRedactor) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err == io.EOF {
		t.now().header(t.res.Trailer)
	}
	return n, err
}

// encodingOf returns the content coding of a body, or "" if there is none. Several are joined by
// commas, in one field (RFC 9110 §8.4) or in two (§5.3).
func encodingOf(h http.Header) string {
	var codings []string
	for _, list := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(list, ",") {
			if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != "identity" {
				codings = append(codings, coding)
			}
		}
	}
	return strings.Join(codings, ",")
}

// onlyHeader reports whether a response has no body, whatever its header says.
func onlyHeader(res *http.Response) bool {
	return res.Request.Method == http.MethodHead || res.StatusCode == http.StatusNotModified || res.ContentLength == 0
}

// decode removes the coding: the agent gets the body as identity (RFC 9110 §8.4).
func decode(res *http.Response, encoding string) error {
	switch {
	case onlyHeader(res):
		return nil
	case res.StatusCode == http.StatusPartialContent:
		return &unreadableError{"a part of a compressed answer cannot be searched for the credential"}
	case !inflate.Known([]string{encoding}):
		return &unreadableError{"the answer is encoded in a way that cannot be searched for the credential"}
	}
	res.Body = &decodedBody{ReadCloser: res.Body, encoding: encoding}
	res.Header.Del("Content-Encoding")
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	return nil
}

// decodedBody decodes a body while it is read. It reads nothing before the first Read, so it does not
// delay the header, and an empty body stays empty.
type decodedBody struct {
	io.ReadCloser
	encoding string
	plain    io.Reader // nil before the first Read
}

// Read implements io.Reader.
func (u *decodedBody) Read(p []byte) (int, error) {
	if u.plain == nil {
		first := make([]byte, 1)
		if _, err := io.ReadFull(u.ReadCloser, first); err != nil {
			return 0, err
		}
		plain, err := inflate.New([]string{u.encoding}, io.MultiReader(bytes.NewReader(first), u.ReadCloser))
		if err != nil {
			return 0, &unreadableError{"the answer is not encoded as it says"}
		}
		u.plain = plain
	}
	return u.plain.Read(p)
}

// closeStatus returns the close frame for an error of a WebSocket, and records the refusal.
func (p *exchange) closeStatus(err error) (status int, reason string) {
	var refused *refusedError
	switch {
	case errors.As(err, &refused): // already recorded
		return websocket.StatusPolicy, refused.v.Why
	case errors.Is(err, websocket.ErrBusy):
		p.s.recordRefusal(p, policy.Denied("memory", err.Error()))
	case websocket.StatusOf(err) != 0:
		p.s.recordRefusal(p, policy.Denied("websocket", err.Error()))
	}
	return websocket.StatusOf(err), err.Error()
}

// watchFrames returns an inspector that closes a WebSocket in which the agent sends a placeholder.
func (p *exchange) watchFrames() *websocket.Inspector {
	if p.config.canaries.forms.empty() {
		return nil
	}
	w := &matcher{forms: p.config.canaries.forms}
	return websocket.NewInspector(websocket.Client, func(f websocket.Frame) error {
		name := w.match(f.Payload)
		if name == "" {
			return nil
		}
		err := misplacedError(name)
		p.s.recordRefusal(p, verdictOf(err))
		return err
	})
}

// text returns a redacted line for the log.
func (r *redactor) text(s string) string { return string(r.all([]byte(s))) }
