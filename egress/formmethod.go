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

// methodParameter is the parameter of a query or a form by which frameworks take
// another method for the request's own.
const methodParameter = "_method"

// maxFormName bounds the name of a parameter that is compared with it, and
// maxFormValue its value, in bytes. Longer ones are neither.
const (
	maxFormName  = 64
	maxFormValue = 64
)

// watchMethod refuses a form that names a method that its route is not for, before
// the end of that form goes on.
func watchMethod(out *http.Request, route *bundle.Route) {
	if len(route.Methods) == 0 || !hasBody(out) {
		return
	}
	kind, _, _ := mime.ParseMediaType(out.Header.Get("Content-Type")) // what is no type is no form
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

// formBody is the body of a form that ends in a refusal where look finds one.
type formBody struct {
	io.ReadCloser
	look func(p []byte) (refuse bool) // nil p: the body has ended
}

// Read implements io.Reader.
func (f *formBody) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && f.look(p[:n]) || err == io.EOF && f.look(nil) {
		return 0, refused("route", "the parameter "+methodParameter+" of the form names a method that the route is not for")
	}
	return n, err
}

// Buffered reports whether a Read would return at once.
func (f *formBody) Buffered() bool { return buffered(f.ReadCloser) }

// urlencodedMethod reads the parameters of an urlencoded form.
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
			u.value = appendUpTo(u.value, c, maxFormValue)
		case c == '=':
			u.inValue = true
		default:
			u.name = appendUpTo(u.name, c, maxFormName)
		}
	}
	return false
}

// end judges the parameter that ends here.
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

// appendUpTo appends a byte to what has no more than most; one more stays, so that
// what is longer is nothing else.
func appendUpTo(text []byte, c byte, most int) []byte {
	if len(text) > most {
		return text
	}
	return append(text, c)
}

// multipartMethod reads the parts of a form, as far as they are short.
type multipartMethod struct {
	allowed func(method string) bool
	last    []byte // the end of what came
}

// namedPart is a part with its name and a value that ends with its line.
var namedPart = regexp.MustCompile(`(?i)\bname\*?\s*=\s*([^\r\n;]*)[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]*)\r?\n`)

// maxPart is up to which length the header and the value of such a part are read.
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
