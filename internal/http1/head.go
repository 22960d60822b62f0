package http1

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// Bounds of a head, besides its size.
const (
	maxTarget = 64 << 10 // bytes of a request's target
	maxFields = 1000
)

// Violation is the reason for which a message is refused before a handler sees it.
type Violation struct {
	Status int // 400, 408, 417, 431 or 505
	Why    string
}

func (v *Violation) Error() string { return v.Why }

func badRequest(why string) error { return &Violation{http.StatusBadRequest, why} }

var (
	errTooLarge    error = &Violation{http.StatusRequestHeaderFieldsTooLarge, "the header is too large"}
	errTooMany     error = &Violation{http.StatusRequestHeaderFieldsTooLarge, "the header has more than " + strconv.Itoa(maxFields) + " fields"}
	errLongTarget  error = &Violation{http.StatusRequestURITooLong, "the target is too long"}
	errVersion     error = &Violation{http.StatusHTTPVersionNotSupported, "a version that is not HTTP/1.0 or HTTP/1.1"}
	errExpectation error = &Violation{http.StatusExpectationFailed, "an expectation that is not 100-continue"}
	errTimeout     error = &Violation{http.StatusRequestTimeout, "the header did not arrive in time"}

	errLineEnd      = badRequest("a line that does not end with CR LF")
	errLine         = badRequest("the request line is not method, target and version with one space between")
	errTarget       = badRequest("the target is not a URL")
	errTargetBytes  = badRequest("the target has a byte that is not visible ASCII; it has to be percent-encoded")
	errStatusLine   = badRequest("the status line is not version, code and reason")
	errFolding      = badRequest("a field that is folded over lines, or a line that begins with a space")
	errName         = badRequest("a field whose name is not a token with a colon right behind it")
	errValue        = badRequest("a control byte in a field")
	errUnderscore   = badRequest("a name that some servers read as that of another field, one that frames, routes or authenticates the request")
	errHosts        = badRequest("two Host fields")
	errHostDiffers  = badRequest("a Host field that is not the :authority")
	errAbsolutePath = badRequest("a :path that does not begin with a slash")
	errNoHost       = badRequest("no Host field")
	errLengths      = badRequest("two Content-Length fields")
	errLength       = badRequest("a Content-Length that is not a plain number")
	errCoding       = badRequest("a Transfer-Encoding that is not chunked, once")
	errOldCoding    = badRequest("a Transfer-Encoding in HTTP/1.0")
	errBoth         = badRequest("Content-Length together with Transfer-Encoding")
	errConnectBody  = badRequest("a CONNECT with a body")
	errTrailerName  = badRequest("a trailer that would change the framing, the routing or the credentials")
	errChunk        = badRequest("a chunk whose length is not a plain hexadecimal number")
	errChunkEnd     = badRequest("a chunk that does not end where its length says")
)

// parseRequest parses a head that every parser reads as the same message. It refuses other heads with
// a Violation.
func parseRequest(text string) (*http.Request, error) {
	line, fields, _ := strings.Cut(text, "\n")
	line = strings.TrimSuffix(line, "\r")
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	switch {
	case !ok || !all(method, token) || target == "":
		return nil, errLine
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		if !strings.HasPrefix(version, "HTTP/") || !all(version, visible) {
			return nil, errLine
		}
		return nil, errVersion
	}
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	h, err := parseFields(fields, true)
	if err != nil {
		return nil, err
	}
	r := &http.Request{Method: method, RequestURI: target, Proto: version, ProtoMajor: 1, ProtoMinor: int(version[7] - '0'), Header: h}
	if err := setHost(r); err != nil {
		return nil, err
	}
	return r, frameRequest(r)
}

// setHost sets the URL and the host of the request (RFC 9112 §3.2). A target in absolute form takes
// precedence over the Host field.
func setHost(r *http.Request) (err error) {
	hosts := r.Header["Host"]
	switch {
	case len(hosts) > 1:
		return errHosts
	case len(hosts) == 1:
		r.Host = hosts[0]
		delete(r.Header, "Host")
	case r.ProtoMinor > 0:
		return errNoHost
	}
	if r.Method == http.MethodConnect {
		r.URL, r.Host = &url.URL{Host: r.RequestURI}, r.RequestURI
		return nil
	}
	if r.URL, err = url.ParseRequestURI(r.RequestURI); err != nil {
		return errTarget
	}
	if r.URL.Host != "" {
		r.Host = r.URL.Host
	}
	return nil
}

// frameRequest sets the framing of the body (RFC 9112 §6).
func frameRequest(r *http.Request) error {
	coding, chunked := r.Header["Transfer-Encoding"]
	lengths := r.Header["Content-Length"]
	switch {
	case chunked && (len(coding) != 1 || !strings.EqualFold(coding[0], "chunked")):
		return errCoding
	case chunked && r.ProtoMinor == 0:
		return errOldCoding
	case chunked && len(lengths) > 0:
		return errBoth
	case len(lengths) > 1:
		return errLengths
	case chunked:
		delete(r.Header, "Transfer-Encoding")
		r.TransferEncoding, r.ContentLength = []string{"chunked"}, -1
	case len(lengths) == 1:
		n, ok := parseLength(lengths[0])
		if !ok {
			return errLength
		}
		r.ContentLength = n
	}
	if r.Method == http.MethodConnect && r.ContentLength != 0 {
		return errConnectBody
	}
	if expect := r.Header["Expect"]; len(expect) > 0 && !(len(expect) == 1 && strings.EqualFold(expect[0], "100-continue")) {
		return errExpectation
	}
	r.Close = r.ProtoMinor == 0 || Lists(r.Header, "Connection", "close")
	return checkTrailerNames(r.Header)
}

// parseLength parses plain decimal digits. Signs, spaces and leading zeros, which some parsers read
// differently, are refused.
func parseLength(s string) (n int64, ok bool) {
	if len(s) == 0 || len(s) > 18 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// parseFields parses field lines. Without strict, for responses of origins, it joins folded fields
// (RFC 9112 §5.2).
func parseFields(text string, strict bool) (http.Header, error) {
	count := strings.Count(text, "\n")
	if count > maxFields {
		return nil, errTooMany
	}
	h := make(http.Header, count)
	values := make([]string, count) // of all fields, in one allocation
	last := ""
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.TrimSuffix(line, "\r")
		if line[0] == ' ' || line[0] == '\t' {
			if strict || last == "" || !all(line, content) {
				return nil, errFolding
			}
			had := h[last]
			had[len(had)-1] = strings.TrimSpace(had[len(had)-1] + " " + strings.Trim(line, " \t"))
			continue
		}
		name, value, err := parseField(line, strict)
		if err != nil {
			return nil, err
		}
		last = name
		if had := h[name]; had != nil {
			h[name] = append(had, value)
			continue
		}
		values[0] = value
		h[name], values = values[:1:1], values[1:]
	}
	return h, nil
}

// parseField splits a line into the canonical name and the value of the field.
func parseField(line string, strict bool) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !strict {
		name = strings.TrimRight(name, " \t") // as RFC 9112 §5.1 requires of a proxy
	}
	if !ok || !all(name, token) {
		return "", "", errName
	}
	value = strings.Trim(value, " \t")
	if value != "" && !all(value, content) {
		return "", "", errValue
	}
	if strict && isClone(name) {
		return "", "", errUnderscore
	}
	return textproto.CanonicalMIMEHeaderKey(name), value, nil
}

// reserved are the fields that frame, route or authenticate a message. None of them may come in a
// trailer (RFC 9110 §6.5.1), or in another spelling that a gateway reads as the same field.
var reserved = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true, "upgrade": true, "trailer": true, "te": true,
	"expect": true, "content-encoding": true, "content-type": true, "content-range": true, "authorization": true, "proxy-authorization": true,
	"cookie": true, "set-cookie": true, "proxy-connection": true, "keep-alive": true,
}

// checkTrailerNames refuses reserved or invalid names in a Trailer field.
func checkTrailerNames(h http.Header) error {
	for _, list := range h["Trailer"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.Trim(name, " \t"); name != "" && (!all(name, token) || IsReserved(name)) {
				return errTrailerName
			}
		}
	}
	return nil
}

// parseTrailer parses the trailer fields of a chunked body. Reserved ones are refused if strict, and
// else dropped.
func parseTrailer(text string, strict bool) (http.Header, error) {
	h, err := parseFields(text, strict)
	if err != nil {
		return nil, err
	}
	for name := range h {
		if IsReserved(name) {
			if strict {
				return nil, errTrailerName
			}
			delete(h, name)
		}
	}
	return h, nil
}

// parseResponse parses the head of a response.
func parseResponse(text string) (*http.Response, error) {
	line, fields, _ := strings.Cut(text, "\n")
	line = strings.TrimSuffix(line, "\r")
	version, rest, ok := strings.Cut(line, " ")
	code, reason, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if !ok || version != "HTTP/1.1" && version != "HTTP/1.0" || len(code) != 3 || err != nil || status < 100 || reason != "" && !all(reason, content) {
		return nil, errStatusLine
	}
	h, err := parseFields(fields, false)
	if err != nil {
		return nil, err
	}
	return &http.Response{Status: rest, StatusCode: status, Proto: version, ProtoMajor: 1, ProtoMinor: int(version[7] - '0'), Header: h}, nil
}

// frameResponse sets the framing of the body of a response to method (RFC 9112 §6.3) and removes the
// framing fields that do not apply: the agent gets the body framed anew.
func frameResponse(res *http.Response, method string) error {
	h := res.Header
	coding := h["Transfer-Encoding"]
	if len(coding) == 1 && strings.EqualFold(coding[0], "identity") { // of RFC 2616
		coding = nil
	}
	lengths := h["Content-Length"]
	if len(lengths) == 1 && strings.Contains(lengths[0], ",") {
		lengths = strings.Split(strings.ReplaceAll(lengths[0], " ", ""), ",")
	}
	res.ContentLength = -1
	switch {
	case res.StatusCode < 200 || res.StatusCode == http.StatusNoContent:
		res.ContentLength = 0
		delete(h, "Content-Length")
	case len(coding) > 1 || len(coding) == 1 && !strings.EqualFold(coding[0], "chunked"):
		return errCoding
	case len(coding) == 1:
		res.TransferEncoding = []string{"chunked"}
		delete(h, "Content-Length")
		res.Close = len(lengths) > 0 // RFC 9112 §6.3: the connection must be closed
	case len(lengths) > 0:
		for _, other := range lengths[1:] {
			if other != lengths[0] {
				return errLengths
			}
		}
		n, ok := parseLength(lengths[0])
		if !ok {
			return errLength
		}
		h["Content-Length"], res.ContentLength = lengths[:1], n
	}
	delete(h, "Transfer-Encoding")
	if method == http.MethodHead || res.StatusCode == http.StatusNotModified {
		res.TransferEncoding = nil
	}
	res.Close = res.Close || Lists(h, "Connection", "close") || res.ProtoMinor == 0 && !Lists(h, "Connection", "keep-alive")
	return nil
}

// Lists reports whether one of the comma-separated values of the field contains the word, in any
// case.
func Lists(h http.Header, field, word string) bool {
	for _, list := range h[field] {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.Trim(item, " \t"), word) {
				return true
			}
		}
	}
	return false
}

// Classes of bytes.
const (
	token   = 1 << iota // of a method or a name (RFC 9110 §5.6.2)
	visible             // of a target
	content             // of a value: tab, space, visible ASCII, and bytes above ASCII
)

var class = func() (t [256]uint8) {
	for c := range t {
		if c > 0x20 && c < 0x7f {
			t[c] |= visible | content
		}
		if c == '\t' || c == ' ' || c > 0x7f {
			t[c] |= content
		}
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0 {
			t[c] |= token
		}
	}
	return t
}()

// all reports whether s is not empty and has only bytes of the class.
func all(s string, want uint8) bool {
	for i := range len(s) {
		if class[s[i]]&want == 0 {
			return false
		}
	}
	return len(s) > 0
}
