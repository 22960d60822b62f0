package policy

import (
	"errors"
	"net/url"
	"path"
	"strings"
)

// CleanPath decodes and cleans the escaped path of a URL into the form that
// rules are compared with. Decoding goes on until nothing changes, because an
// origin may decode more often than we do; backslashes count as slashes.
// Dot segments are resolved (RFC 3986 §5.2.4) and empty segments dropped; a
// slash at the end is kept.
func CleanPath(escaped string) (string, error) {
	p := escaped
	for range 8 {
		decoded, err := url.PathUnescape(p)
		if err != nil {
			if p == escaped {
				return "", errors.New("the path has a percent sign without two hexadecimal digits")
			}
			break
		}
		if decoded == p {
			return clean(p)
		}
		p = decoded
	}
	if strings.Contains(p, "%25") {
		return "", errors.New("the path is percent-encoded more than eight times")
	}
	return clean(p)
}

func clean(p string) (string, error) {
	for _, c := range []byte(p) {
		if c < 0x20 || c == 0x7f {
			return "", errors.New("the path holds a control character")
		}
	}
	p = strings.ReplaceAll(p, `\`, "/")
	// A path parameter (";x") hides a dot segment from this comparison while
	// some servers drop it before theirs.
	for _, segment := range strings.Split(p, "/") {
		if name, _, found := strings.Cut(segment, ";"); found && (name == "." || name == "..") {
			return "", errors.New("a dot segment with a parameter")
		}
	}
	cleaned := path.Clean("/" + p)
	if strings.HasSuffix(p, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return cleaned, nil
}

// PathPattern is a rule's path: exact, or with "*" at the end for a prefix
// that ends where it is written ("/v1/*" names "/v1/x" and "/v1/", not "/v1"
// and not "/v10").
type PathPattern string

// Matches compares with a path that has been through CleanPath.
func (p PathPattern) Matches(cleaned string) bool {
	prefix, wild := strings.CutSuffix(string(p), "*")
	if wild {
		return strings.HasPrefix(cleaned, prefix)
	}
	return cleaned == string(p)
}

// Validate refuses what could never match or does not say what it seems to.
func (p PathPattern) Validate() error {
	text := strings.TrimSuffix(string(p), "*")
	if !strings.HasPrefix(text, "/") {
		return errors.New("a path begins with a slash")
	}
	if strings.Contains(text, "*") {
		return errors.New("a star stands at the end of a path only")
	}
	if cleaned, err := CleanPath(text); err != nil || cleaned != text {
		return errors.New("a path is written in its plain, decoded form")
	}
	return nil
}
