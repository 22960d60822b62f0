package pipelock

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// TestNothingOfAKeyGoesToAModel: of a private key in a conversation nothing is left, in whatever
// way its lines are joined and its text is written.
func TestNothingOfAKeyGoesToAModel(t *testing.T) {
	s := testScanner(t, "")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE" + " KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	lines := strings.SplitAfter(whole, "\n")
	percent := func(text string) string {
		var b strings.Builder
		for i := range len(text) {
			fmt.Fprintf(&b, "%%%02X", text[i])
		}
		return b.String()
	}
	joined := func(by string) func(string) string {
		return func(text string) string { return strings.ReplaceAll(text, "\n", by) }
	}
	forms := map[string]func(string) string{
		"as it is": joined("\n"), "in one line": joined(""), "spaces": joined(" "), "escapes": joined(`\n`), "escapes twice": joined(`\\n`),
		"references": joined("&#10;"), "hexadecimal references": joined("&#xa;"), "breaks": joined("<br>"), "breaks and lines": joined("<br/>\n"),
		"no-break spaces": joined("\u00a0"), "line separators": joined("\u2028"), "paragraphs": joined("</p>\n<p>"), "divisions": joined("</div>\n<div class=\"line\">"),
		"numbers": joined("\n  12\t"), "a diff": joined("\n+"), "percent": url.QueryEscape, "all in percent": percent,
		"all in JSON's escapes": func(text string) string { return strings.ReplaceAll(percent(text), "%", `\u00`) },
		"base64":                func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) },
		"hex":                   func(text string) string { return hex.EncodeToString([]byte(text)) },
	}
	undo := func(text string) string {
		text = strings.ReplaceAll(text, `\u00`, "%")
		if p, err := url.QueryUnescape(text); err == nil {
			text = p
		}
		for _, word := range regexp.MustCompile(`[A-Za-z0-9+/=]{16,}`).FindAllString(text, -1) {
			if raw, err := base64.StdEncoding.DecodeString(word); err == nil {
				text += string(raw)
			}
			if raw, err := hex.DecodeString(word); err == nil {
				text += string(raw)
			}
		}
		return html.UnescapeString(text)
	}
	for size, text := range map[string]string{"whole": whole, "without its end": strings.Join(lines[:len(lines)-2], ""), "five lines": strings.Join(lines[:5], "")} {
		for form, write := range forms {
			quoted, _ := json.Marshal("read: " + write(text))
			body := []byte(`{"messages": [{"role": "user", "content": ` + string(quoted) + `}], "n": 1}`)
			v := (&redactor{scanner: s, ctx: t.Context(), surface: "body", llm: true}).redact(body)
			if !v.Allow {
				t.Errorf("%s, %s: refused: %s", size, form, v.Why)
				continue
			}
			var got struct {
				Messages []struct{ Content string }
			}
			if err := json.Unmarshal(body, &got); err != nil || len(got.Messages) != 1 {
				t.Errorf("%s, %s: no longer JSON: %v", size, form, err)
				continue
			}
			said := undo(got.Messages[0].Content)
			for n, line := range strings.Split(text, "\n") {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-") && len(line) >= 16 && (strings.Contains(said, line[:16]) || strings.Contains(said, line[len(line)-16:])) {
					t.Errorf("%s, %s: line %d of the key is left", size, form, n+1)
					break
				}
			}
		}
	}
}
