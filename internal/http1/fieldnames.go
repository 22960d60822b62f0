package http1

import (
	"net/http"
	"strings"
)

// PlainName returns the name of a field as the most lenient server reads it: in lower case, with one
// hyphen for each run of other characters, as gateways do for names of variables (RFC 3875 §4.1.18),
// and none at the ends.
func PlainName(name string) string {
	if !hasOddMarks(name) {
		return strings.ToLower(name)
	}
	return strings.Join(strings.FieldsFunc(strings.ToLower(name), func(c rune) bool { return !alphanumeric(byte(c)) || c > 0x7f }), "-")
}

// SameField reports whether some server may read two names as the same field.
func SameField(a, b string) bool {
	return strings.EqualFold(a, b) || (hasOddMarks(a) || hasOddMarks(b)) && PlainName(a) == PlainName(b)
}

// hasOddMarks reports whether a name is not just alphanumeric words with single hyphens between them.
func hasOddMarks(name string) bool {
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

// IsReserved reports whether some server reads the name as that of a field that frames, routes or
// authenticates a message, or whether it is one that Airlock's daemons use among themselves.
func IsReserved(name string) bool {
	plain := PlainName(name)
	return reserved[plain] || strings.HasPrefix(plain, "airlock-")
}

// isClone reports whether a name is another spelling of a reserved field that a server may read as
// that field.
func isClone(name string) bool { return hasOddMarks(name) && IsReserved(name) }

// CheckHTTP2 refuses a request of HTTP/2, as parsed by net/http, that this package would refuse in
// HTTP/1.1, or whose pseudo-fields and fields disagree (RFC 9113 §8.1.1, §8.3.1). A Host field that
// agrees is removed.
func CheckHTTP2(r *http.Request) error {
	switch lengths := r.Header["Content-Length"]; {
	case len(lengths) > 1:
		return errLengths
	case len(lengths) == 1:
		if _, ok := parseLength(lengths[0]); !ok {
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
	for name := range r.Trailer { // net/http drops names that were not announced
		if IsReserved(name) {
			return errTrailerName
		}
	}
	return nil
}

// checkTarget refuses a target with bytes that no client may send. net/http and other servers forward
// some of these bytes and not others.
func checkTarget(target string) error {
	switch {
	case len(target) > maxTarget:
		return errLongTarget
	case !all(target, visible):
		return errTargetBytes
	}
	return nil
}
