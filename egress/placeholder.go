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
	// maxWholeReplace is up to which length a body gets its credential as a
	// whole, so that its length can be told; a longer one goes on in chunks.
	maxWholeReplace = 1 << 20
	// maxBuffered bounds the bodies that are held as a whole at any time.
	maxBuffered = 64 << 20
	// bufferWait is how long a request waits for others to let go of theirs.
	bufferWait = 10 * time.Second
)

// bufferedBytes is taken for every body that is held as a whole.
var bufferedBytes = semaphore.NewWeighted(maxBuffered)

// replace puts the value where the agent wrote the placeholder, in the parts
// of the request that the route names. What stands beside it is the agent's
// and is scanned: httpd.Replaced says so, and which slot it was. The agent's
// own credentials are removed: a field without the placeholder is one.
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

// replaceField also looks into a Basic pair, as git, curl and pip write it.
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

// replaceQuery replaces in values, not in names, and returns the names.
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

// bodyForms are the spellings of a placeholder in a body of that type, each
// with the value in the same spelling.
func bodyForms(contentType, placeholder, value string) []form {
	kind, _, _ := mime.ParseMediaType(contentType) // what is no type is no JSON and no form
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
	if err != nil { // cannot happen: a string
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

// replaceBody replaces the forms, in a short body at once, in a long one while
// it passes.
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

// bufferBody reads the body as a whole, up to a limit. A long one counts as held
// until it is closed or the request is over.
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

// reserve waits until a body of that size may be held, too.
func reserve(ctx context.Context, size int64) (done func(), err error) {
	wait, cancel := context.WithTimeout(ctx, bufferWait)
	defer cancel()
	if err := bufferedBytes.Acquire(wait, size); err != nil {
		return func() {}, refused("credential", "too many long bodies at once; the request may be tried again")
	}
	done = sync.OnceFunc(func() { bufferedBytes.Release(size) })
	context.AfterFunc(ctx, done) // whatever becomes of the request
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

// asRefused makes a refusal of whatever went wrong while a body was read.
func asRefused(err error) error {
	var known *refusedError
	if errors.As(err, &known) {
		return known
	}
	return refused("credential", "the body of the request could not be read")
}

// putBody puts another text in the place of a body that is held.
func putBody(out *http.Request, text []byte) {
	b := out.Body.(*bufferedBody)
	b.text, b.Reader = text, bytes.NewReader(text)
	setLength(out, int64(len(text)))
}

// setLength tells the length of the body, -1 when nobody knows it.
func setLength(out *http.Request, n int64) {
	out.ContentLength = n
	out.TransferEncoding = nil
	out.Header.Del("Content-Length")
}

// bufferedBody is a body that is held as a whole.
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

// canaries are the placeholders of all routes, to be found where none may be.
type canaries struct{ forms *redactor }

// newCanaries looks for each placeholder in every form that a secret is
// looked for in.
func newCanaries(routes []bundle.Route) canaries {
	var forms []form
	for _, r := range routes {
		if r.Auth == nil || r.Auth.Placeholder == "" {
			continue
		}
		for _, text := range secrets.Forms(r.Auth.Placeholder) {
			forms = append(forms, form{text, []byte(r.Host.String())})
		}
	}
	return canaries{newAutomaton(forms, func() {})}
}

func errMisplaced(host string) error {
	return refused("tripwire", "the placeholder of "+host+" was sent where it is not bound")
}

// findInHead is the host of the route whose placeholder stands somewhere in the
// target or the header, or nothing.
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

// watchBody refuses the request when a placeholder stands in its body: a short one
// before anything of it goes on, a longer one on the way.
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
		return errMisplaced(name)
	}
	return nil
}

// watchTrailer has what follows a body judged like what came before it: some
// servers make one of the two.
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
				return errMisplaced(name)
			}
		}
		return nil
	}}
}

// trailerChecker looks at the trailer of a body before it lets go of its end.
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

// Buffered tells whether a Read would return at once.
func (t *trailerChecker) Buffered() bool { return buffered(t.ReadCloser) }

func buffered(r io.Reader) bool {
	b, ok := r.(interface{ Buffered() bool })
	return ok && b.Buffered()
}

// matcher looks for placeholders in one flow of bytes.
type matcher struct {
	forms *redactor
	state int32
}

// match is the host of the route whose placeholder ends in p, or nothing.
func (w *matcher) match(p []byte) (name string) {
	for _, c := range p {
		w.state = w.forms.step(w.state, c)
		if f := w.forms.nodes[w.state].form; f != nil {
			return string(f.marker)
		}
	}
	return ""
}

// canaryReader ends with an error before it gives on the end of a placeholder.
type canaryReader struct {
	io.ReadCloser
	matcher *matcher
}

// Buffered tells whether a Read would return at once.
func (w *canaryReader) Buffered() bool { return buffered(w.ReadCloser) }

func (w *canaryReader) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if name := w.matcher.match(p[:n]); name != "" {
		return 0, errMisplaced(name)
	}
	return n, err
}
