package supervisor

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	minSecret = 8 // bytes; shorter values would match ordinary text
	minPart   = 4 // bytes of the beginning of a secret at the end of a cut line
)

// masker holds the secrets that no line of output may show. The slices alias the memory of the
// secretmem.Store; there is no copy.
type masker [][]byte

var masked = []byte("[masked]")

// newMasker returns a masker of the secrets. Those of several lines are also masked line by line,
// because output is handled by lines.
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

// mask replaces the secrets in a line, in plain form and as JSON and Go escape them. At the end of a
// cut line it also replaces the beginning of a secret.
func (m masker) mask(line []byte, cut bool) []byte {
	for _, secret := range m {
		line = maskSecret(line, secret, cut)
	}
	return line
}

// maskString is mask for a complete text.
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

// nextCandidate returns the offset at which a secret with this first byte may begin next, or -1.
func nextCandidate(text []byte, first byte) int {
	a, b := bytes.IndexByte(text, first), bytes.IndexByte(text, '\\')
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// plainLen returns the length of the secret at the beginning of the text, or 0. If the text is cut,
// the beginning of the secret suffices.
func plainLen(text, secret []byte, cut bool) int {
	if bytes.HasPrefix(text, secret) {
		return len(secret)
	}
	if cut && len(text) >= minPart && bytes.HasPrefix(secret, text) {
		return len(text)
	}
	return 0
}

// escapedLen is plainLen for a secret with escaped bytes in the text.
func escapedLen(text, secret []byte, cut bool) int {
	at, left := 0, secret
	for len(left) > 0 {
		char, n := unescape(text[at:])
		if n == 0 {
			break // the end of the text, or an incomplete escape there
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

// unescape decodes the character at the beginning of the text and returns how many bytes of the text
// encode it; 0: the text is too short.
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
