package supervisor

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	minSecret = 8 // bytes; anything shorter would be found everywhere
	minPart   = 4 // bytes of a secret's beginning at the place where a line was cut
)

// masker holds the secrets that no line of output may show. It keeps no copy
// of them: each is a part of where the supervisor keeps it.
type masker [][]byte

var masked = []byte("[masked]")

// newMasker takes the secrets. One of several lines is looked for line by
// line, because so it would be printed.
func newMasker(secrets [][]byte) masker {
	var m masker
	for _, secret := range secrets {
		m = m.with(secret)
		if lines := bytes.Split(secret, []byte("\n")); len(lines) > 1 {
			for _, line := range lines {
				m = m.with(bytes.TrimSpace(line))
			}
		}
	}
	return m
}

func (m masker) with(secret []byte) masker {
	if len(secret) < minSecret {
		return m
	}
	return append(m, secret)
}

// mask takes the secrets out of a line, in plain form and as JSON and Go
// escape them. Where a line was cut, what a secret may have begun with goes
// too.
func (m masker) mask(line []byte, cut bool) []byte {
	for _, secret := range m {
		line = maskSecret(line, secret, cut)
	}
	return line
}

// maskString is the same for a text that is whole.
func (m masker) maskString(s string) string {
	if s == "" {
		return s
	}
	return string(m.mask([]byte(s), false))
}

func maskSecret(line, secret []byte, cut bool) []byte {
	var out []byte
	from := 0
	for i := 0; i < len(line); {
		skip := nextCandidate(line[i:], secret[0])
		if skip < 0 {
			break
		}
		i += skip
		n := plainLen(line[i:], secret, cut)
		if n == 0 {
			n = escapedLen(line[i:], secret, cut)
		}
		if n == 0 {
			i++
			continue
		}
		out = append(append(out, line[from:i]...), masked...)
		i += n
		from = i
	}
	if from == 0 {
		return line
	}
	return append(out, line[from:]...)
}

// nextCandidate is where a secret with this first byte may begin next, or -1.
func nextCandidate(text []byte, first byte) int {
	a, b := bytes.IndexByte(text, first), bytes.IndexByte(text, '\\')
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// plainLen is the length of the secret at the beginning of the text, or 0. Where
// the text is cut, its beginning is enough.
func plainLen(text, secret []byte, cut bool) int {
	if bytes.HasPrefix(text, secret) {
		return len(secret)
	}
	if cut && len(text) >= minPart && bytes.HasPrefix(secret, text) {
		return len(text)
	}
	return 0
}

// escapedLen is the same for a secret of which bytes are escaped in the text.
func escapedLen(text, secret []byte, cut bool) int {
	at, left := 0, secret
	for len(left) > 0 {
		char, n := unescape(text[at:])
		if n == 0 {
			break // the end, or the middle of an escape at the end
		}
		if !bytes.HasPrefix(left, char) {
			return 0
		}
		at, left = at+n, left[len(char):]
	}
	switch {
	case len(left) == 0:
		return at
	case cut && len(secret)-len(left) >= minPart:
		return len(text)
	}
	return 0
}

var shortEscapes = map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f', 'a': '\a', 'v': '\v', '"': '"', '\'': '\'', '\\': '\\', '/': '/'}

// unescape is the character at the beginning of the text, and how many bytes
// of the text stand for it: 0 when there are not enough.
func unescape(text []byte) (char []byte, n int) {
	switch {
	case len(text) == 0:
		return nil, 0
	case text[0] != '\\':
		return text[:1], 1
	case len(text) == 1:
		return nil, 0
	}
	if c, ok := shortEscapes[text[1]]; ok {
		return []byte{c}, 2
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[text[1]]
	if digits == 0 {
		return text[:1], 1 // a backslash that escapes nothing
	}
	if len(text) < 2+digits {
		return nil, 0
	}
	v, err := strconv.ParseUint(string(text[2:2+digits]), 16, 32)
	if err != nil {
		return text[:1], 1
	}
	if digits == 2 {
		return []byte{byte(v)}, 4
	}
	if low := text[2+digits:]; utf16.IsSurrogate(rune(v)) && len(low) >= 6 && low[0] == '\\' && low[1] == 'u' {
		if w, err := strconv.ParseUint(string(low[2:6]), 16, 32); err == nil {
			return utf8.AppendRune(nil, utf16.DecodeRune(rune(v), rune(w))), 12
		}
	}
	return utf8.AppendRune(nil, rune(v)), 2 + digits
}
