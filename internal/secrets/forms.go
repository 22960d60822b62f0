package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MinLength is the shortest value, in bytes, that can be looked for: anything shorter would be found everywhere.
const MinLength = 8

// Forms returns the ways in which value may appear in data: as it is, base64 (both alphabets, at each of the three
// offsets inside a longer text), hex, percent-encoded, escaped for JSON or HTML, reversed. Doubles and forms shorter than MinLength are left
// out; longer forms come first, so that a redaction replaces the most. A value shorter than MinLength has no forms.
func Forms(value string) [][]byte {
	if len(value) < MinLength {
		return nil
	}
	forms := []string{value, reversed(value), url.QueryEscape(value), url.PathEscape(value), jsonEscaped(value)}
	forms = append(forms, strings.ReplaceAll(value, "/", `\/`), unicodeEscaped(value))
	forms = append(forms, percent(value, "0123456789ABCDEF"), percent(value, "0123456789abcdef"))
	forms = append(forms, hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))))
	for offset := range 3 {
		forms = append(forms, inBase64(base64.RawStdEncoding, value, offset), inBase64(base64.RawURLEncoding, value, offset))
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	var out [][]byte
	seen := map[string]bool{}
	for _, f := range forms {
		if len(f) < MinLength || seen[f] {
			continue
		}
		seen[f] = true
		out = append(out, []byte(f))
	}
	return out
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// jsonEscaped is value as encoding/json and HTML-safe encoders write it, without the quotes.
func jsonEscaped(value string) string {
	quoted := strconv.Quote(value)
	return strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(quoted[1 : len(quoted)-1])
}

// unicodeEscaped is value with every byte as JSON's \u00xx.
func unicodeEscaped(value string) string {
	var b strings.Builder
	for i := range len(value) {
		fmt.Fprintf(&b, `\u%04x`, value[i])
	}
	return b.String()
}

func percent(value, digits string) string {
	var b strings.Builder
	for i := range len(value) {
		b.WriteByte('%')
		b.WriteByte(digits[value[i]>>4])
		b.WriteByte(digits[value[i]&15])
	}
	return b.String()
}

// inBase64 is the part of value's base64 that does not depend on what surrounds it, when offset bytes (mod 3) come before.
func inBase64(enc *base64.Encoding, value string, offset int) string {
	padded := append(bytes.Repeat([]byte{0}, offset), value...)
	first := (8*offset + 5) / 6
	last := 8 * len(padded) / 6
	return enc.EncodeToString(padded)[first:last]
}
