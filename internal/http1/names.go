package http1

import (
	"net/http"
	"strings"
)

// PlainName is the name of a field as the most forgiving server reads it: in lower case,
// with a hyphen for every other mark, as gateways make names of variables (RFC 3875
// §4.1.18), one hyphen for several, and none at the ends.
func PlainName(name string) string {
	if !odd(name) {
		return strings.ToLower(name)
	}
	return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(c rune) bool { return !alphanumeric(byte(c)) || c > 0x7f }), "-")
}

// SameField reports whether some server may take two names for the same field.
func SameField(a, b string) bool {
	return strings.EqualFold(a, b) || (odd(a) || odd(b)) && PlainName(a) == PlainName(b)
}

// odd reports whether a name is more than words with one hyphen between.
func odd(name string) bool {
	last := byte('-')
	for i := range len(name) {
		c := name[i]
		if !alphanumeric(c) && (c != '-' || last == '-') {
			return true
		}
		last = c
	}
	return last == '-'
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// IsReserved reports whether a name is of a field that frames, routes or authenticates a
// message, in the spelling of any server, or of one that Airlock's daemons use
// among themselves.
func IsReserved(name string) bool {
	plain := PlainName(name)
	return reserved[plain] || strings.HasPrefix(plain, "airlock-")
}

// isClone reports whether a name is another spelling of a reserved field, which
// a server may take for it.
func isClone(name string) bool { return odd(name) && IsReserved(name) }

// CheckHTTP2 refuses a request of HTTP/2, as net/http has read it, that this
// package would refuse in HTTP/1.1, or whose pseudo-fields and fields
// disagree (RFC 9113 §8.1.1, §8.3.1). A Host field that agrees is removed.
func CheckHTTP2(r *http.Request) error {
	switch lengths := r.Header["Content-Length"]; {
	case len(lengths) > 1:
		return errLengths
	case len(lengths) == 1:
		if _, ok := number(lengths[0]); !ok {
			return errLength
		}
	}
	if err := checkTarget(r.RequestURI); err != nil {
		return err
	}
	if !strings.HasPrefix(r.RequestURI, "/") && !(r.RequestURI == "*" && r.Method == http.MethodOptions) && r.Method != http.MethodConnect {
		return errAbsolutePath
	}
	if hosts, ok := r.Header["Host"]; ok {
		if len(hosts) > 1 || !strings.EqualFold(hosts[0], r.Host) {
			return errHostDiffers
		}
		delete(r.Header, "Host")
	}
	for name := range r.Header {
		if isClone(name) {
			return errUnderscore
		}
	}
	for name := range r.Trailer { // the names that are announced: no others come
		if IsReserved(name) {
			return errTrailerName
		}
	}
	return nil
}

// checkTarget refuses a target that no client may send: net/http and others
// would pass some of these bytes on, and others not.
func checkTarget(target string) error {
	switch {
	case len(target) > maxTarget:
		return errLongTarget
	case !all(target, visible):
		return errTargetBytes
	}
	return nil
}
