package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// MinLength is the shortest value, in bytes, that can be looked for: anything shorter would be
// found everywhere.
const MinLength = 8

// Encodings returns the ways in which value may appear in data: as it is, base64 (both alphabets,
// at each of the three offsets inside a longer text), hex, percent-encoded, as encoders for HTML,
// JSON and URLs write it (see Escapes), UTF-16, reversed. Duplicates and encodings shorter than
// MinLength are left out; longer ones come first, so that a redaction replaces the most. A value of
// letters and digits has some 15, one of special characters some 60. A value shorter than MinLength
// has none.
func Encodings(value string) [][]byte {
	if len(value) < MinLength {
		return nil
	}
	forms := append(escapeForms(value), reversed(value), unicodeEscaped(value, "%04x"), unicodeEscaped(value, "%04X"))
	forms = append(forms, percent(value, "0123456789ABCDEF"), percent(value, "0123456789abcdef"))
	forms = append(forms, hex.EncodeToString([]byte(value)), strings.ToUpper(hex.EncodeToString([]byte(value))))
	forms = append(forms, wideOf(value, binary.LittleEndian), wideOf(value, binary.BigEndian))
	for offset := range 3 {
		std := inBase64(base64.RawStdEncoding, value, offset)
		forms = append(forms, std, inBase64(base64.RawURLEncoding, value, offset))
		forms = append(forms, url.QueryEscape(std), lowerPercent(url.QueryEscape(std)), strings.ReplaceAll(std, "/", `\/`))
	}
	return distinct(forms)
}

// digestEncodings are those encodings that a scan must know, because no decoder leads back to the
// value. A value of fewer than 16 characters can be guessed from its digests anyway; all its
// encodings are known, so that it is found in surroundings that are too short to be decoded.
func digestEncodings(value string) [][]byte {
	if len(value) < 16 {
		return Encodings(value)
	}
	return distinct(append(escapeForms(value), reversed(value), rot13(value)))
}

// Escapes returns text as it is and as encoders for HTML, JSON and URLs write it, like Encodings:
// for a text that is an encoding itself.
func Escapes(text string) [][]byte { return distinct(escapeForms(text)) }

func distinct(forms []string) (out [][]byte) {
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
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

func escapeForms(text string) []string {
	all := []string{text, jsonEscaped(text)}
	for _, r := range escapers {
		all = append(all, r.Replace(text))
	}
	query, path := url.QueryEscape(text), url.PathEscape(text)
	for _, once := range []string{query, path, strings.ReplaceAll(query, "%2F", "/")} { // the last: Python's quote
		all = append(all, once, lowerPercent(once), strings.ReplaceAll(once, "%", "%25"), strings.ReplaceAll(lowerPercent(once), "%", "%25"))
	}
	return all
}

// escapers write special characters as common encoders do. They differ in which they take for
// special, and in how each is written; a text without any of these stays as it is.
var escapers = func() (all []*strings.Replacer) {
	const named = "& &amp; < &lt; > &gt; "
	for _, list := range []string{
		// HTML and XML
		named + `" &#34; ' &#39;`,                    // Go's html.EscapeString, Jinja
		named + `" &#34; ' &#39; + &#43;`,            // Go's html/template
		named + `" &#34; ' &#39; + &#43; = &#61;`,    // the same, in an attribute without quotes
		named + `" &quot; ' &#39;`,                   // Spring, .NET's WebUtility, Rails, lodash
		named + `" &quot; ' &#39; = &#61;`,           // AngularJS and others
		named + `" &quot; ' &#039;`,                  // PHP
		named + `" &quot; ' &#x27;`,                  // Python, React
		named + `" &quot; ' &#x27; + &#x2B;`,         // .NET's HtmlEncoder
		named + `" &quot; ' &#x27; = &#x3D;`,         // Handlebars
		named + `" &quot; ' &#x27; / &#x2F;`,         // OWASP
		named + `" &quot; ' &#39; / &#x2F; = &#x3D;`, // Mustache
		named + `" &quot;`,                           // Apache Commons
		named + `" &quot; ' &apos;`,                  // XML
		"& &#38; < &#60; > &#62; " + `" &#34; ' &#39; + &#43; = &#61; / &#47;`,
		named + `" &quot; ' &#x27; + &#x2b; = &#x3d; / &#x2f;`, // ESAPI
		named + `" &quot; ' &#x27; + &#x2B; = &#x3D; / &#x2F;`, // Twig
		// JSON and JavaScript
		`\ \\ " \" / \/`, // PHP
		`\ \\ " \" < \u003c > \u003e & \u0026 ' \u0027 = \u003d`,                           // Gson
		`\ \\ " \u0022 < \u003c > \u003e & \u0026 ' \u0027`,                                // Newtonsoft
		`\ \\ " \u0022 < \u003C > \u003E & \u0026 ' \u0027 + \u002B`,                       // .NET's System.Text.Json
		`\ \\ " \u0022 < \u003C > \u003E & \u0026 ' \u0027 / \/`,                           // PHP with JSON_HEX_*
		`\ \\ " \u0022 < \u003c > \u003e & \u0026 ' \u0027 + \u002b / \/`,                  // Go's html/template
		`\ \u005C " \u0022 < \u003C > \u003E & \u0026 ' \u0027 = \u003D - \u002D ; \u003B`, // Django
		`\ \u005c " \u0022 < \u003c > \u003e & \u0026 ' \u0027 = \u003d + \u002b / \u002f`, // everything
		`\ \u005C " \u0022 < \u003C > \u003E & \u0026 ' \u0027 = \u003D + \u002B / \u002F`,
	} {
		all = append(all, strings.NewReplacer(strings.Fields(list)...))
	}
	return all
}()

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
func unicodeEscaped(value, digits string) string {
	var b strings.Builder
	for i := range len(value) {
		fmt.Fprintf(&b, `\u`+digits, value[i])
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

// inBase64 is the part of value's base64 that does not depend on what surrounds it, when offset
// bytes (mod 3) come before.
func inBase64(enc *base64.Encoding, value string, offset int) string {
	padded := append(bytes.Repeat([]byte{0}, offset), value...)
	first := (8*offset + 5) / 6
	last := 8 * len(padded) / 6
	return enc.EncodeToString(padded)[first:last]
}

var percentEncoded = regexp.MustCompile("%[0-9A-F]{2}")

// lowerPercent is a percent-encoded text with the digits of .NET and nginx.
func lowerPercent(text string) string {
	return percentEncoded.ReplaceAllStringFunc(text, strings.ToLower)
}

// wideOf is value in UTF-16, without a mark.
func wideOf(value string, order binary.AppendByteOrder) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(value)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}
