package pipelock

import (
	"encoding/base64"
	"strconv"
	"strings"
)

// maxAffix is the longest that may be before a piece, or after it, with a
// hyphen or an underscore between: both are of base64, too.
const maxAffix = 8

// subRuns calls f for what of a run is between the marks that names and
// paths have, and for what such a run says in base64: a piece of a secret
// need not be alone.
func subRuns(run string, f func(string)) {
	if isUUID(run) {
		return
	}
	segments := strings.FieldsFunc(run, func(c rune) bool { return strings.ContainsRune("/.~+", c) })
	for _, s := range segments {
		if isUUID(s) {
			continue
		}
		if s != run {
			f(s)
		}
		first, last := strings.IndexAny(s, "-_"), strings.LastIndexAny(s, "-_")
		if first < 0 {
			continue
		}
		before, behind := first <= maxAffix, len(s)-last-1 <= maxAffix
		if before {
			f(s[first+1:])
		}
		if behind {
			f(s[:last])
		}
		if before && behind && first < last {
			f(s[first+1 : last])
		}
	}
	for _, s := range append(segments, run) {
		if plain, ok := printable64(s); ok {
			eachRun(plain, f)
		}
	}
}

// printable64 is the text that base64 decodes to.
func printable64(run string) (plain string, ok bool) {
	if len(run) < minFragment || len(run)%4 == 1 {
		return "", false
	}
	code := base64.RawStdEncoding
	if strings.ContainsAny(run, "-_") {
		code = base64.RawURLEncoding
	}
	data, err := code.DecodeString(run)
	if err != nil {
		return "", false
	}
	for _, c := range data {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' || c >= 0x7f {
			return "", false
		}
	}
	return string(data), true
}

// plainer are what a text says once its escapes are undone: those of
// percent-encoding, of JSON, of quoted-printable, and the zeros of UTF-16.
func plainer(text string) (all []string) {
	for _, e := range [...]struct {
		mark string
		n    int // digits after it
	}{{"%", 2}, {`\u`, 4}, {`\x`, 2}, {"=", 2}} {
		if plain, changed := unescaped(text, e.mark, e.n); changed {
			all = append(all, plain)
		}
	}
	if strings.Contains(text, "\x00") {
		all = append(all, strings.ReplaceAll(text, "\x00", ""))
	}
	return all
}

// unescaped undoes an escape with so many hexadecimal digits, where it is
// for a character of ASCII.
func unescaped(text, mark string, digits int) (plain string, changed bool) {
	at := strings.Index(text, mark)
	if at < 0 {
		return text, false
	}
	var b strings.Builder
	for ; at >= 0; at = strings.Index(text, mark) {
		b.WriteString(text[:at])
		rest := text[at+len(mark):]
		if c, err := strconv.ParseUint(rest[:min(digits, len(rest))], 16, 7); err == nil && len(rest) >= digits {
			b.WriteByte(byte(c))
			text, changed = rest[digits:], true
		} else {
			b.WriteString(mark)
			text = rest
		}
	}
	b.WriteString(text)
	return b.String(), changed
}

// hexOf is the longest run of hexadecimal digits in the name of a field, of
// which the case is lost; empty where it is a short one.
func hexOf(name string) (longest string) {
	name = strings.ToLower(name)
	for run := range strings.FieldsFuncSeq(name, func(c rune) bool { return c > 0x7f || !isHexDigit(byte(c)) }) {
		if len(run) > len(longest) && len(run) >= minHex {
			longest = run
		}
	}
	return longest
}
