package egress

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"airlock/internal/bundle"
)

// methodParameter is the parameter of a query or a form with which frameworks override the method of a
// request.
const methodParameter = "_method"

// maxFormName bounds the names of parameters that are compared with methodParameter, and maxFormValue
// their values, in bytes. Longer ones do not match.
const (
	maxFormName  = 64
	maxFormValue = 64
)

// watchMethod refuses a form that overrides the method with one that its route does not allow, before the
// end of the form is sent.
func watchMethod(out *http.Request, route *bundle.Route) {
	if len(route.Methods) == 0 || !hasBody(out) {
		return
	}
	kind, _, _ := mime.ParseMediaType(out.Header.Get("Content-Type")) // an invalid type is no form
	var look func(p []byte) bool
	allowed := func(method string) bool { return allowsMethod(route, method) }
	switch kind {
	case "application/x-www-form-urlencoded":
		look = (&urlencodedMethod{allowed: allowed}).look
	case "multipart/form-data":
		look = (&multipartMethod{allowed: allowed}).look
	default:
		return
	}
	out.Body = &formBody{out.Body, look}
}

// formBody is the body of a form. It ends with a refusal if check reports one.
type formBody struct {
	io.ReadCloser
	check func(p []byte) (refuse bool) // nil p: the body has ended
}

// Read implements io.Reader.
func (f *formBody) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && f.check(p[:n]) || err == io.EOF && f.check(nil) {
		return 0, refused("route", "the parameter "+methodParameter+" of the form names a method that the route is not for")
	}
	return n, err
}

// Buffered reports whether a Read would return at once.
func (f *formBody) Buffered() bool { return buffered(f.ReadCloser) }

// urlencodedMethod parses the parameters of a urlencoded form.
type urlencodedMethod struct {
	allowed     func(method string) bool
	name, value []byte
	inValue     bool
}

func (u *urlencodedMethod) look(p []byte) (refuse bool) {
	if p == nil {
		return u.end()
	}
	for _, c := range p {
		switch {
		case c == '&' || c == ';':
			if u.end() {
				return true
			}
		case u.inValue:
			u.value = appendBounded(u.value, c, maxFormValue)
		case c == '=':
			u.inValue = true
		default:
			u.name = appendBounded(u.name, c, maxFormName)
		}
	}
	return false
}

// end checks the parameter that ends here.
func (u *urlencodedMethod) end() (refuse bool) {
	if len(u.name) > 0 {
		name, err := url.QueryUnescape(string(u.name))
		if err == nil && foldName(name) == methodParameter {
			method, err := url.QueryUnescape(string(u.value))
			refuse = err != nil || !u.allowed(method)
		}
	}
	u.name, u.value, u.inValue = u.name[:0], u.value[:0], false
	return refuse
}

// appendBounded appends a byte unless the text is longer than most. One byte more than most is kept, so
// that a longer text does not match.
func appendBounded(text []byte, c byte, most int) []byte {
	if len(text) > most {
		return text
	}
	return append(text, c)
}

// multipartMethod searches the short parts of a multipart form.
type multipartMethod struct {
	allowed func(method string) bool
	last    []byte // the end of the previous input
}

// namedPart matches a part with its name and a value of one line.
var namedPart = regexp.MustCompile(`(?i)\bname\*?\s*=\s*([^\r\n;]*)[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]*)\r?\n`)

// maxPart is the greatest length of the header and the value of such a part, in bytes.
const maxPart = 2 << 10

func (m *multipartMethod) look(p []byte) (refuse bool) {
	if p == nil {
		return false
	}
	m.last = append(m.last, p...)
	if bytes.Contains(bytes.ToLower(m.last), []byte("method")) {
		for _, found := range namedPart.FindAllSubmatch(m.last, -1) {
			name := strings.Trim(string(found[1]), "\"' \t")
			if _, encoded, ok := strings.Cut(name, "''"); ok { // RFC 8187 §3.2
				name = encoded
			}
			if plain, err := url.PathUnescape(name); err == nil {
				name = plain
			}
			if foldName(name) == methodParameter && !m.allowed(string(found[2])) {
				return true
			}
		}
	}
	m.last = append(m.last[:0], m.last[max(0, len(m.last)-maxPart):]...)
	return false
}
