package egress

import (
	"net/http"
	"slices"
	"strings"
)

// charsets are the beginnings of the names of those that write ASCII as it is,
// as the registry of IANA has them. It is a list of what is let through, not
// of what is refused: the others have too many names.
var charsets = []string{
	"utf-8", "utf8", "us-ascii", "ascii", "ansi_x3.4", "iso-8859-", "iso8859-", "iso_8859-", "latin", "l1", "windows-125", "cp125", "koi8-", "macintosh",
	"x-mac-", "tis-620", "windows-874", "gb2312", "gbk", "gb18030", "big5", "euc-", "shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j",
	"ks_c_5601", "windows-949", "binary",
}

// readable refuses an answer in a charset in which the credential has bytes
// that are not looked for. One that does not say its charset is searched:
// UTF-16 is among the forms.
func readable(h http.Header) error {
	for _, field := range h["Content-Type"] {
		for part := range parameters(field) {
			name, ok := charsetOf(part)
			if !ok || name == "" {
				continue
			}
			if !slices.ContainsFunc(charsets, func(c string) bool { return strings.HasPrefix(name, c) }) {
				return &unreadableError{"the answer is in a charset that cannot be searched for the credential"}
			}
		}
	}
	return nil
}

// withoutCharsets leaves the choice to the origin: some write an answer in
// whatever charset is asked for.
func withoutCharsets(h http.Header) {
	h.Del("Accept-Charset")
	for i, field := range h["Accept"] {
		if !strings.Contains(strings.ToLower(field), "charset") {
			continue
		}
		var rest strings.Builder
		for part := range parameters(field) {
			if _, ok := charsetOf(part); !ok {
				rest.WriteString(part)
			}
		}
		h["Accept"][i] = rest.String()
	}
}

// parameters are the parts of a field that begin at its start, at a comma and
// at a semicolon, each with that sign. Quotes do not count: more parts are
// seen than there are, and none less.
func parameters(field string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for field != "" {
			n := strings.IndexAny(field[1:], ",;") + 1
			if n == 0 {
				n = len(field)
			}
			if !yield(field[:n]) {
				return
			}
			field = field[n:]
		}
	}
}

// charsetOf is the charset that a part names, in lower case.
func charsetOf(part string) (charset string, ok bool) {
	name, text, _ := strings.Cut(strings.ToLower(part), "=")
	if !strings.HasPrefix(strings.Trim(name, ",; \t"), "charset") {
		return "", false
	}
	return strings.Trim(text, "\"' \t"), true
}
