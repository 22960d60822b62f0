package egress

import (
	"net/http"
	"slices"
	"strings"
)

// charsets are the prefixes of the IANA names of charsets that encode ASCII unchanged. Others are
// refused; they have too many names for a list of them.
var charsets = []string{
	"utf-8", "utf8", "us-ascii", "ascii", "ansi_x3.4", "iso-8859-", "iso8859-", "iso_8859-", "latin", "l1", "windows-125", "cp125", "koi8-", "macintosh",
	"x-mac-", "tis-620", "windows-874", "gb2312", "gbk", "gb18030", "big5", "euc-", "shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j",
	"ks_c_5601", "windows-949", "binary",
}

// checkCharset refuses a response in a charset that may encode the credential in bytes that are not
// searched for. A response without a charset is searched; UTF-16 is among the forms.
func checkCharset(h http.Header) error {
	for _, field := range h["Content-Type"] {
		for part := range fieldParameters(field) {
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

// withoutCharsets removes the charsets from a request, because some origins use any that is requested.
func withoutCharsets(h http.Header) {
	h.Del("Accept-Charset")
	for i, field := range h["Accept"] {
		if !strings.Contains(strings.ToLower(field), "charset") {
			continue
		}
		var rest strings.Builder
		for part := range fieldParameters(field) {
			if _, ok := charsetOf(part); !ok {
				rest.WriteString(part)
			}
		}
		h["Accept"][i] = rest.String()
	}
}

// fieldParameters yields the parts of a field that begin at its start, at a comma or at a semicolon,
// each with that character. It ignores quotes, so it may yield too many parts, but never too few.
func fieldParameters(field string) func(yield func(string) bool) {
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

// charsetOf returns the charset that a part names, in lower case.
func charsetOf(part string) (charset string, ok bool) {
	name, text, _ := strings.Cut(strings.ToLower(part), "=")
	if !strings.HasPrefix(strings.Trim(name, ",; \t"), "charset") {
		return "", false
	}
	return strings.Trim(text, "\"' \t"), true
}
