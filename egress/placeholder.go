package egress

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"airlock/internal/bundle"
	"airlock/internal/http1"
	"airlock/internal/httpd"
	"airlock/internal/secrets"
)

const (
	// maxWholeReplace is the length in bytes up to which a body is replaced as a whole, so that its new
	// length is known; longer ones are sent in chunks.
	maxWholeReplace = 1 << 20
	// maxBuffered bounds the bytes of all buffered bodies.
	maxBuffered = 64 << 20
	// bufferWait is how long a request waits for others to release their buffers.
	bufferWait = 10 * time.Second
)

// bufferedBytes counts the bytes of all buffered bodies.
var bufferedBytes = semaphore.NewWeighted(maxBuffered)

// replace replaces the placeholder with the value in the parts of the request that the route names. The
// text around it is the agent's and is scanned by pipelock: httpd.Replaced marks such parts with their
// slot. Credential fields without the placeholder are the agent's own and are removed.
func (l *activeConfig) replace(ctx context.Context, out *http.Request, a *bundle.Auth) (injected []string, err error) {
	value, mark := l.credentials[a.Slot], httpd.Replaced+a.Slot
	filled := map[string]bool{}
	if a.Places("headers") {
		for name, values := range out.Header {
			for i, v := range values {
				if v, ok := replaceField(v, a.Placeholder, value); ok {
					values[i], filled[name] = v, true
				}
			}
		}
	}
	for name := range filled {
		injected = append(injected, name+mark)
	}
	for _, field := range credentialFields {
		for name := range out.Header {
			if http1.SameField(name, field) && !filled[name] {
				delete(out.Header, name)
			}
		}
	}
	if a.Places("query") {
		for _, name := range replaceQuery(out.URL, a.Placeholder, value) {
			injected = append(injected, injectedParameter(name)+mark)
		}
	}
	if !a.Places("body") || !hasBody(out) || encoded(out.Header) {
		return injected, nil
	}
	if err := replaceBody(ctx, out, bodyForms(out.Header.Get("Content-Type"), a.Placeholder, value)); err != nil {
		return nil, err
	}
	return append(injected, httpd.InjectedBody+mark), nil
}

// replaceField replaces the placeholder in a field, also within the base64 of Basic credentials, as git,
// curl and pip send them.
func replaceField(field, placeholder, value string) (string, bool) {
	if strings.Contains(field, placeholder) {
		return strings.ReplaceAll(field, placeholder, value), true
	}
	scheme, text, _ := strings.Cut(field, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return field, false
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || !bytes.Contains(pair, []byte(placeholder)) {
		return field, false
	}
	pair = bytes.ReplaceAll(pair, []byte(placeholder), []byte(value))
	return scheme + " " + base64.StdEncoding.EncodeToString(pair), true
}

// replaceQuery replaces the placeholder in the values of a query and returns their names.
func replaceQuery(u *url.URL, placeholder, value string) (names []string) {
	parts := strings.Split(u.RawQuery, "&")
	for i, part := range parts {
		key, text, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(key)
		plain, err2 := url.QueryUnescape(text)
		if err != nil || err2 != nil || !strings.Contains(plain, placeholder) {
			continue
		}
		parts[i] = key + "=" + url.QueryEscape(strings.ReplaceAll(plain, placeholder, value))
		names = append(names, name)
	}
	u.RawQuery = strings.Join(parts, "&")
	return names
}

// bodyForms returns the encodings of a placeholder in a body of that type, each with the value in the
// same encoding.
func bodyForms(contentType, placeholder, value string) []form {
	kind, _, _ := mime.ParseMediaType(contentType) // an invalid type is treated as plain text
	switch {
	case kind == "application/json" || strings.HasSuffix(kind, "+json"):
		all := []form{{[]byte(placeholder), []byte(inJSON(value))}}
		if escaped := inJSON(placeholder); escaped != placeholder {
			all = append(all, form{[]byte(escaped), []byte(inJSON(value))})
		}
		return all
	case kind == "application/x-www-form-urlencoded":
		all := []form{{[]byte(placeholder), []byte(url.QueryEscape(value))}}
		if escaped := url.QueryEscape(placeholder); escaped != placeholder {
			all = append(all, form{[]byte(escaped), []byte(url.QueryEscape(value))})
		}
		return all
	}
	return []form{{[]byte(placeholder), []byte(value)}}
}

func inJSON(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil { // impossible for a string
		return ""
	}
	return string(quoted[1 : len(quoted)-1])
}

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

func encoded(h http.Header) bool {
	e := strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ","))
	return e != "" && !strings.EqualFold(e, "identity")
}

// replaceBody replaces the forms: in a short body at once, in a long one while it is read.
func replaceBody(ctx context.Context, out *http.Request, forms []form) error {
	r := newAutomaton(forms, func() {})
	if out.ContentLength < 0 || out.ContentLength > maxWholeReplace {
		out.Body = newReader(out.Body, r, false)
		setLength(out, -1)
		return nil
	}
	text, err := bufferBody(ctx, out, maxWholeReplace)
	if err != nil {
		return err
	}
	putBody(out, r.all(text))
	return nil
}

// bufferBody reads the whole body, up to a limit. A long one counts in bufferedBytes until it is closed
// or the request ends.
func bufferBody(ctx context.Context, out *http.Request, limit int64) ([]byte, error) {
	if b, ok := out.Body.(*bufferedBody); ok {
		return b.text, nil
	}
	if out.ContentLength > limit {
		return nil, tooLong(limit)
	}
	done := func() {}
	text, err := io.ReadAll(io.LimitReader(out.Body, smallBody))
	if err == nil && len(text) == smallBody {
		size := out.ContentLength
		if size < 0 {
			size = limit
		}
		if done, err = reserve(ctx, size); err == nil {
			text, err = readOn(text, out.Body, limit)
		}
	}
	if err != nil {
		done()
		return nil, asRefused(err)
	}
	out.Body = &bufferedBody{Closer: out.Body, done: done}
	putBody(out, text)
	return text, nil
}

// reserve waits until a body of that size may be buffered. done releases it.
func reserve(ctx context.Context, size int64) (done func(), err error) {
	wait, cancel := context.WithTimeout(ctx, bufferWait)
	defer cancel()
	if err := bufferedBytes.Acquire(wait, size); err != nil {
		return func() {}, refused("credential", "too many long bodies at once; the request may be tried again")
	}
	done = sync.OnceFunc(func() { bufferedBytes.Release(size) })
	context.AfterFunc(ctx, done) // even if the body is not closed
	return done, nil
}

func readOn(text []byte, body io.Reader, limit int64) ([]byte, error) {
	rest, err := io.ReadAll(io.LimitReader(body, limit-int64(len(text))+1))
	if text = append(text, rest...); err == nil && int64(len(text)) > limit {
		err = tooLong(limit)
	}
	return text, err
}

func tooLong(limit int64) error {
	return refused("credential", fmt.Sprintf("a body of more than %d bytes is too long for this credential", limit))
}

// asRefused returns err as a refusedError.
func asRefused(err error) error {
	var known *refusedError
	if errors.As(err, &known) {
		return known
	}
	return refused("credential", "the body of the request could not be read")
}

// putBody replaces the text of a buffered body.
func putBody(out *http.Request, text []byte) {
	b := out.Body.(*bufferedBody)
	b.text, b.Reader = text, bytes.NewReader(text)
	setLength(out, int64(len(text)))
}

// setLength sets the length of the body; -1: unknown.
func setLength(out *http.Request, n int64) {
	out.ContentLength = n
	out.TransferEncoding = nil
	out.Header.Del("Content-Length")
}

// bufferedBody is a body that has been read into memory.
type bufferedBody struct {
	io.Reader
	io.Closer
	text []byte
	done func()
}

// Close implements io.Closer.
func (b *bufferedBody) Close() error {
	b.done()
	return b.Closer.Close()
}

// canaries finds placeholders of any route in requests in which none is allowed. It is read-only.
type canaries struct{ forms *redactor }

// newCanaries returns canaries for each placeholder in every encoding in which secrets are searched.
func newCanaries(routes []bundle.Route) canaries {
	var forms []form
	for _, r := range routes {
		if r.Auth == nil || r.Auth.Placeholder == "" {
			continue
		}
		for _, text := range secrets.Encodings(r.Auth.Placeholder) {
			forms = append(forms, form{text, []byte(r.Host.String())})
		}
	}
	return canaries{newAutomaton(forms, func() {})}
}

func misplacedError(host string) error {
	return refused("tripwire", "the placeholder of "+host+" was sent where it is not bound")
}

// findInHead returns the host of the route whose placeholder is in the target or the header, or "".
func (t canaries) findInHead(r *http.Request) (name string) {
	if t.forms.empty() {
		return ""
	}
	var b bytes.Buffer
	write := func(text string) {
		b.WriteString(text + "\n")
		if plain, err := url.QueryUnescape(text); err == nil && plain != text {
			b.WriteString(plain + "\n")
		}
	}
	write(r.URL.EscapedPath())
	write(r.URL.RawQuery)
	for name, values := range r.Header {
		write(name)
		write(strings.ToLower(name))
		write(strings.ToUpper(name))
		for _, v := range values {
			write(v)
		}
	}
	return (&matcher{forms: t.forms}).match(b.Bytes())
}

// watchBody refuses the request if a placeholder is in its body: a short body is checked before
// anything is sent, a longer one while it is sent.
func (t canaries) watchBody(ctx context.Context, out *http.Request) error {
	if t.forms.empty() || !hasBody(out) {
		return nil
	}
	w := &matcher{forms: t.forms}
	if out.ContentLength < 0 || out.ContentLength > smallBody {
		out.Body = &canaryReader{ReadCloser: out.Body, matcher: w}
		return nil
	}
	text, err := bufferBody(ctx, out, smallBody)
	if err != nil {
		return err
	}
	if name := w.match(text); name != "" {
		return misplacedError(name)
	}
	return nil
}

// watchTrailer checks the trailer of a request like its header, because some servers merge the two.
func (l *activeConfig) watchTrailer(out *http.Request, a *bundle.Auth) {
	if !hasBody(out) || out.ContentLength >= 0 && out.Trailer == nil {
		return
	}
	out.Body = &trailerChecker{out.Body, func() error {
		if a != nil {
			removeCredentials(out.Trailer, a)
		}
		w := &matcher{forms: l.canaries.forms}
		for _, values := range out.Trailer {
			if name := w.match([]byte(strings.Join(values, "\n") + "\n")); name != "" {
				return misplacedError(name)
			}
		}
		return nil
	}}
}

// trailerChecker checks the trailer of a body before it returns io.EOF.
type trailerChecker struct {
	io.ReadCloser
	check func() error
}

func (t *trailerChecker) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err == io.EOF {
		if refused := t.check(); refused != nil {
			return n, refused
		}
	}
	return n, err
}

// Buffered reports whether a Read would return at once.
func (t *trailerChecker) Buffered() bool { return buffered(t.ReadCloser) }

func buffered(r io.Reader) bool {
	b, ok := r.(interface{ Buffered() bool })
	return ok && b.Buffered()
}

// matcher searches one stream of bytes for placeholders.
type matcher struct {
	forms *redactor
	state int32
}

// match returns the host of the route whose placeholder ends in p, or "".
func (w *matcher) match(p []byte) (name string) {
	for _, c := range p {
		w.state = w.forms.step(w.state, c)
		if f := w.forms.nodes[w.state].form; f != nil {
			return string(f.marker)
		}
	}
	return ""
}

// canaryReader fails before it returns the end of a placeholder.
type canaryReader struct {
	io.ReadCloser
	matcher *matcher
}

// Buffered reports whether a Read would return at once.
func (w *canaryReader) Buffered() bool { return buffered(w.ReadCloser) }

func (w *canaryReader) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if name := w.matcher.match(p[:n]); name != "" {
		return 0, misplacedError(name)
	}
	return n, err
}
