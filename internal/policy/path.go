package policy

import (
	"errors"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// DecodePath decodes the escaped path of a URL until nothing changes, because
// an origin may decode more often than we do. Backslashes count as slashes. A
// percent sign that escapes nothing is one only after the first decoding.
func DecodePath(escaped string) (string, error) {
	if _, err := url.PathUnescape(escaped); err != nil {
		return "", errors.New("the path has a percent sign without two hexadecimal digits")
	}
	p, again := escaped, true
	for range 8 {
		if p, again = Unescape(p); !again {
			break
		}
	}
	if _, again = Unescape(p); again {
		return "", errors.New("the path is percent-encoded more than eight times")
	}
	return strings.ReplaceAll(p, `\`, "/"), nil
}

// Unescape decodes once what is percent-encoded, and leaves what is not: one
// bad escape must not hide the others. It tells whether there was anything.
func Unescape(s string) (decoded string, changed bool) {
	if !strings.Contains(s, "%") {
		return s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				changed = true
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), changed
}

// CleanPath decodes and cleans the escaped path of a URL into the form that
// rules are compared with: see DecodePath. Dot segments are resolved (RFC 3986
// §5.2.4) and empty segments dropped; a slash at the end is kept.
func CleanPath(escaped string) (string, error) {
	p, err := DecodePath(escaped)
	if err != nil {
		return "", err
	}
	return clean(p)
}

func clean(p string) (string, error) {
	for _, c := range []byte(p) {
		if c < 0x20 || c == 0x7f {
			return "", errors.New("the path holds a control character")
		}
	}
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

// lookalikes are what a lenient server takes for a dot or a slash: fullwidth
// and leader dots (Unicode NFKC), and UTF-8 that is longer than it may be
// (RFC 3629 §3).
var lookalikes = strings.NewReplacer("．", ".", "․", ".", "‥", "..", "／", "/", "＼", "/",
	"\xc0\xae", ".", "\xc0\xaf", "/", "\xc1\x9c", "/", "\xe0\x80\xae", ".", "\xe0\x80\xaf", "/", "\xe0\x81\x9c", "/",
	"\xf0\x80\x80\xae", ".", "\xf0\x80\x80\xaf", "/", "\xf0\x80\x81\x9c", "/")

// Readings are a decoded path (see DecodePath) in each way that servers read
// it: as it is, and with what they take for dots and slashes.
func Readings(decoded string) []string {
	if !isASCII(decoded) {
		return []string{decoded, lookalikes.Replace(decoded)}
	}
	return []string{decoded}
}

// Names tells whether one of the patterns names an escaped path in every way
// that servers read it.
func Names(patterns []PathPattern, escaped string) bool {
	decoded, err := DecodePath(escaped)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(patterns, func(p PathPattern) bool {
		return !slices.ContainsFunc(Readings(decoded), func(reading string) bool {
			cleaned, err := clean(reading)
			return err != nil || !p.Matches(cleaned) || !p.Holds(reading)
		})
	})
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

// Holds tells whether a decoded path (see DecodePath) stays within the pattern
// whichever of its dot segments a server resolves: none may lead out of what
// the pattern begins with, not even to lead back in.
func (p PathPattern) Holds(decoded string) bool {
	if !strings.Contains(decoded, "..") {
		return true
	}
	prefix, wild := strings.CutSuffix(string(p), "*")
	roomy := wild && strings.HasSuffix(prefix, "/") // names a folder
	want := segments(prefix[:strings.LastIndexByte(prefix, '/')+1])
	at := 0 // how deep below the root
	for _, s := range segments(decoded) {
		switch {
		case s != "..":
			if at < len(want) && want[at] != s {
				return false
			}
			at++
		case !roomy || at <= len(want):
			return false
		default:
			at--
		}
	}
	return at >= len(want)
}

// segments are those that are neither empty nor a dot.
func segments(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
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
