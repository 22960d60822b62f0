package secrets

import (
	"bytes"
	"html"
	"html/template"
	"net/url"
	"strings"
	"testing"
	"unicode/utf16"
)

func rewritten(pairs ...string) func(string) string { return strings.NewReplacer(pairs...).Replace }

// TestEncodingsOfReflectedValues has what encoders make of a value that an upstream says
// back, each written here as its documentation has it.
func TestEncodingsOfReflectedValues(t *testing.T) {
	wide := func(text string, first, second int) string {
		var b []byte
		for _, u := range utf16.Encode([]rune(text)) {
			pair := [2]byte{byte(u >> 8), byte(u)}
			b = append(b, pair[first], pair[second])
		}
		return string(b)
	}
	page := func(text string) func(string) string {
		return func(value string) string {
			var b bytes.Buffer
			if err := template.Must(template.New("").Parse(text)).Execute(&b, value); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
	}
	lower := func(text string) string { return percentEncoded.ReplaceAllStringFunc(text, strings.ToLower) }
	for _, value := range []string{
		"Zm9vYmFyZm+vYmFy/3Zq8wQ==", "Zm9vYmFy+Zm/vQ==&x<Tok", "p@ss'word\"with>all&of/them+so=far", "k-9_letters.and~digits", "+/=&<>\"'",
	} {
		for name, echo := range map[string]func(string) string{
			"Go's html.EscapeString":         html.EscapeString,
			"Go's template":                  page("<p>{{.}}</p>"),
			"Go's template, in an attribute": page("<a title=\"{{.}}\">"),
			"Go's template, without quotes":  page("<a title={{.}} >"),
			"Go's template, in a script":     page("<script>x = '{{.}}'</script>"),
			"Python's html.escape":           rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;"),
			"Spring":                         rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;"),
			".NET's HtmlEncoder":             rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;", "+", "&#x2B;"),
			"PHP's htmlspecialchars":         rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#039;"),
			"Mustache":                       rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#39;", "/", "&#x2F;", "=", "&#x3D;"),
			"Handlebars":                     rewritten("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#x27;", "=", "&#x3D;"),
			"Gson":                           rewritten("&", `\u0026`, "<", `\u003c`, ">", `\u003e`, `"`, `\"`, "'", `\u0027`, "=", `\u003d`),
			".NET's System.Text.Json":        rewritten("&", `\u0026`, "<", `\u003C`, ">", `\u003E`, `"`, `\u0022`, "'", `\u0027`, "+", `\u002B`),
			"PHP's json_encode":              rewritten(`"`, `\"`, "/", `\/`),
			"Django's escapejs":              rewritten("&", `\u0026`, "<", `\u003C`, ">", `\u003E`, `"`, `\u0022`, "'", `\u0027`, "=", `\u003D`, "-", `\u002D`),
			"percent":                        url.QueryEscape,
			"percent, lower case":            func(v string) string { return lower(url.QueryEscape(v)) },
			"percent, in a path":             func(v string) string { return lower(url.PathEscape(v)) },
			"percent, twice":                 func(v string) string { return url.QueryEscape(url.QueryEscape(v)) },
			"percent, twice, lower case":     func(v string) string { return url.QueryEscape(lower(url.QueryEscape(v))) },
			"Python's quote":                 func(v string) string { return strings.ReplaceAll(url.QueryEscape(v), "%2F", "/") },
			"UTF-16LE":                       func(v string) string { return wide(v, 1, 0) },
			"UTF-16BE":                       func(v string) string { return wide(v, 0, 1) },
		} {
			said := echo(value)
			found := 0
			for _, form := range Encodings(value) {
				if strings.Contains(said, string(form)) {
					found = max(found, len(form))
				}
			}
			if found < len(value) {
				t.Errorf("%s: %q is not known", name, said)
			}
		}
	}
}

// TestEncodingsAreFew: each is a digest for pipelock and some states in egress.
func TestEncodingsAreFew(t *testing.T) {
	for value, most := range map[string]int{"short": 0, token(8): 24, "Zm9vYmFyZm+vYmFy/3Zq8wQ==": 70, `all+of/them=&<>"'-\;%`: 80} {
		seen, before := map[string]bool{}, 1<<30
		forms := Encodings(value)
		for _, f := range forms {
			if seen[string(f)] || len(f) < MinLength || len(f) > before {
				t.Errorf("%q stands twice, is short, or at a wrong place", f)
			}
			seen[string(f)], before = true, len(f)
		}
		if len(forms) > most || (len(forms) == 0) != (most == 0) {
			t.Errorf("%d forms of %q", len(forms), value)
		}
		if most == 0 {
			continue
		}
		text, err := NewDigest(value, "0123456789abcdef")
		if err != nil || len(text) > 6<<10 {
			t.Errorf("a digest of %d bytes, %v", len(text), err)
		}
		t.Logf("%q: %d forms, digest %d", value, len(forms), len(text))
	}
}
