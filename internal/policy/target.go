package policy

import (
	"errors"
	"strings"
)

// Target is what a URL asks for, taken apart as a request would be: the
// authority in canonical form, path and query as they were written.
type Target struct {
	TLS       bool
	Authority Authority
	Path      string // escaped; never empty
	Query     string // raw
}

// ParseTarget reads an absolute URL. A fragment is left out, as every client
// leaves it out. Its errors do not repeat the URL, in which a password may
// stand.
func ParseTarget(rawURL string) (Target, error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	t := Target{TLS: strings.EqualFold(scheme, "https")}
	if !found || (!t.TLS && !strings.EqualFold(scheme, "http")) {
		return Target{}, errors.New("an absolute URL like https://api.example.com/v1/items is needed")
	}
	rest, _, _ = strings.Cut(rest, "#")
	if strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Target{}, errors.New("a URL with a space or a control character: percent-encode it")
	}
	rest, t.Query, _ = strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if strings.Contains(authority, "@") {
		return Target{}, errors.New("a URL with user information: leave out what stands before the @")
	}
	port := uint16(80)
	if t.TLS {
		port = 443
	}
	var err error
	t.Path = "/" + path
	t.Authority, err = ParseAuthority(authority, port)
	return t, err
}
