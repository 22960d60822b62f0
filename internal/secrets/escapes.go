package secrets

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// unescape decodes escapes of single characters: percent and %u (URLs), backslashes (JSON, C,
// shells), entities (HTML), U+0041, =41 (quoted-printable), +AEE- (UTF-7).
func unescape(s input) []view {
	var found editor
	text, soft := s.text, false
	for at := s.index.next(ofEscape, 0); at < len(text); at = s.index.next(ofEscape, at) {
		if at+1 < len(text) && plain[text[at+1]] && (text[at] != '&' || text[at+1] <= ' ') { // as after most equals signs, and in most escapes of JSON
			soft = soft || text[at] == '=' && endsInSoftBreak(text[at:])
			at++
			continue
		}
		value, n := "", 0
		switch rest := text[at:]; rest[0] {
		case '%':
			value, n = percentEscape(rest)
		case '\\':
			value, n = backslash(rest)
		case '&':
			value, n = entity(rest)
		case 'U':
			value, n = codePoint(rest)
		case '+':
			value, n = utf7(rest)
		case '=':
			value, n = quotedPrintable(rest)
			soft = soft || endsInSoftBreak(rest)
		}
		if n > 0 {
			found.add(at, n, value)
		}
		at += max(n, 1)
	}
	edits := found.all()
	more := unquoted(s)
	if soft {
		more = append(more, softBreaks(s)...)
	}
	if len(more) > 0 {
		edits = append(edits, more...)
		slices.SortFunc(edits, func(a, b edit) int { return a.from - b.from })
	}
	return s.applyEdits(edits, false)
}

// plain are the bytes after which no sign but the one of entities means anything but itself.
var plain = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c <= ' ' || strings.IndexByte("ghijklmnopqrstvwyz", byte(c)) >= 0
	}
	return t
}()

// unquoted are the strings of JSON without a space in which a backslash precedes a quote or another
// one, as base85 has them: prose is full of these, and is left as it is.
func unquoted(s input) (edits []edit) {
	text := s.text
	if !s.index.any(ofSlash) {
		return nil
	}
	for _, p := range s.quoted(double) {
		part := text[p.from:p.to]
		if len(part) < min85 || len(part) > maxQuoted || strings.IndexByte(part, '\\') < 0 || strings.IndexByte(part, ' ') >= 0 {
			continue
		}
		var plain string
		if json.Unmarshal([]byte(text[p.from-1:p.to+1]), &plain) == nil {
			edits = append(edits, edit{from: p.from, to: p.to, value: plain})
		}
	}
	return edits
}

// maxQuoted is the longest string without a space that is taken for something encoded, in bytes.
const maxQuoted = 1 << 20

// hexRune reads digits of a number.
func hexRune(s string, digits int) (r rune, ok bool) {
	if len(s) < digits {
		return 0, false
	}
	for i := range digits {
		n := unhex(s[i])
		if n > 15 {
			return 0, false
		}
		r = r<<4 | rune(n)
	}
	return r, true
}

func percentEscape(s string) (string, int) {
	if len(s) > 1 && (s[1] == 'u' || s[1] == 'U') { // JavaScript's escape
		if r, ok := hexRune(s[2:], 4); ok {
			return string(r), 6
		}
	}
	if r, ok := hexRune(s[1:], 2); ok {
		return oneByte(byte(r)), 3
	}
	return "", 0
}

// bytesOf are all bytes in order.
var bytesOf = func() string {
	var b [256]byte
	for c := range b {
		b[c] = byte(c)
	}
	return string(b[:])
}()

// oneByte is a byte as a string, without an allocation.
func oneByte(c byte) string { return bytesOf[c : int(c)+1] }

// backslash reads \x41, \u0041, \u{41}, \U00000041, \101, and the end of a key in JSON inside JSON.
// An escaped line end, quote or slash alone is left to those who read lines: text is full of them.
func backslash(s string) (string, int) {
	if len(s) < 2 {
		return "", 0
	}
	switch s[1] {
	case 'x':
		if r, ok := hexRune(s[2:], 2); ok {
			return oneByte(byte(r)), 4
		}
	case 'u':
		return unicodeEscape(s)
	case 'U':
		if r, ok := hexRune(s[2:], 8); ok && r <= utf8.MaxRune {
			return string(r), 10
		}
	case '\\':
		if len(s) > 2 && strings.IndexByte("ux0123\\", s[2]) >= 0 {
			return `\`, 2
		}
	case '"':
		if len(s) > 2 && s[2] == ':' {
			n := 3
			for n < len(s) && s[n] == ' ' {
				n++
			}
			if strings.HasPrefix(s[n:], `\"`) {
				return `": "`, n + 2
			}
			return `"`, 2
		}
	case '/':
		if len(s) > 2 && class[s[2]]&isB64 != 0 {
			return "/", 2
		}
	}
	return octal(s)
}

func unicodeEscape(s string) (string, int) {
	if r, ok := hexRune(s[2:], 4); ok {
		return string(r), 6
	}
	if end := strings.IndexByte(s[:min(len(s), 12)], '}'); len(s) > 2 && s[2] == '{' && end > 3 {
		if r, ok := hexRune(s[3:end], end-3); ok && r <= utf8.MaxRune {
			return string(r), end + 1
		}
	}
	return "", 0
}

func octal(s string) (string, int) {
	n, i := 0, 1
	for ; i < len(s) && i < 4 && s[i] >= '0' && s[i] <= '7'; i++ {
		n = n<<3 | int(s[i]-'0')
	}
	if i < 3 || n >= 0x80 {
		return "", 0
	}
	return oneByte(byte(n)), i
}

// maxEntity is the longest name of a character that HTML has, in bytes.
const maxEntity = 33

func entity(s string) (string, int) {
	if len(s) > 1 && s[1] != '#' && kindOf(s[1]) == 0 {
		return "", 0
	}
	if value, n := numericEntity(s); n > 0 {
		return value, n
	}
	end := strings.IndexByte(s[:min(len(s), maxEntity)], ';')
	if end < 3 {
		if len(s) < 4 || s[1] != '#' { // a number need not end in a semicolon
			return "", 0
		}
		end = 2
		for end < min(len(s), 10) && unhex(s[end]) < 16 || end == 2 && (s[2] == 'x' || s[2] == 'X') {
			end++
		}
		end--
	}
	if plain := html.UnescapeString(s[:end+1]); plain != s[:end+1] {
		return plain, end + 1
	}
	return "", 0
}

// numericEntity reads the usual form of an ASCII entity: a decimal or hexadecimal number of at most
// four digits and a semicolon.
func numericEntity(s string) (string, int) {
	if len(s) < 4 || s[1] != '#' {
		return "", 0
	}
	at, base := 2, 10
	if s[2]|0x20 == 'x' {
		at, base = 3, 16
	}
	value := 0
	for first := at; at < len(s) && at-first < 4; at++ {
		digit := int(unhex(s[at]))
		if digit >= base {
			break
		}
		value = value*base + digit
	}
	if at >= len(s) || s[at] != ';' || unhex(s[at-1]) > 15 || value == 0 || value >= utf8.RuneSelf {
		return "", 0
	}
	return oneByte(byte(value)), at + 1
}

func codePoint(s string) (string, int) {
	if len(s) < 2 || s[1] != '+' {
		return "", 0
	}
	r, ok := hexRune(s[2:], 4)
	if !ok {
		return "", 0
	}
	n := 6
	if len(s) > n && s[n] == ' ' {
		n++ // "U+0041 U+0042" is one word
	}
	return string(r), n
}

// quotedPrintable reads a row of at least three (RFC 2045 §6.7): in a query, one equals sign before
// two digits is just that.
func quotedPrintable(s string) (string, int) {
	var value []byte
	n := 0
	for {
		r, ok := rune(0), n < len(s) && s[n] == '='
		if ok {
			r, ok = hexRune(s[n+1:], 2)
		}
		if !ok {
			break
		}
		value = append(value, byte(r))
		n += 3
	}
	if n < 9 {
		return "", 0
	}
	return string(value), n
}

// endsInSoftBreak reports whether a line is broken at an equals sign.
func endsInSoftBreak(s string) bool {
	return strings.HasPrefix(s, "=\n") || strings.HasPrefix(s, "=\r\n")
}

// softBreaks are what else there is of quoted-printable in a text that has its line breaks (RFC
// 2045 §6.7, rule 5).
func softBreaks(s input) (edits []edit) {
	for at := s.index.next(ofEscape, 0); at < len(s.text); at = s.index.next(ofEscape, at) {
		value, n := "", 0
		if s.text[at] == '=' {
			value, n = softBreak(s.text[at:])
		}
		if n > 0 {
			edits = append(edits, edit{from: at, to: at + n, value: value})
		}
		at += max(n, 1)
	}
	return edits
}

func softBreak(s string) (string, int) {
	if _, n := quotedPrintable(s); n > 0 {
		return "", 0 // that has been read
	}
	if endsInSoftBreak(s) {
		return "", strings.IndexByte(s, '\n') + 1
	}
	if r, ok := hexRune(s[1:], 2); ok {
		return oneByte(byte(r)), 3
	}
	return "", 0
}

// utf7 reads a row of UTF-16 in base64 (RFC 2152), as far as it is ASCII.
func utf7(s string) (string, int) {
	if len(s) < 2 || s[1] != 'A' {
		return "", 0
	}
	end := 1
	for end < len(s) && class[s[end]]&isB64 != 0 && s[end] != '-' && s[end] != '_' && s[end] != '+' {
		end++
	}
	raw, err := base64.RawStdEncoding.DecodeString(s[1:end])
	if err != nil || len(raw) < 2 {
		return "", 0
	}
	var units []uint16
	for i := 0; i+1 < len(raw); i += 2 {
		if raw[i] != 0 || raw[i+1] >= 0x80 {
			return "", 0
		}
		units = append(units, uint16(raw[i+1]))
	}
	if end < len(s) && s[end] == '-' {
		end++
	}
	return string(utf16.Decode(units)), end
}
