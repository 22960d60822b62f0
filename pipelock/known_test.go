package pipelock

import (
	"encoding/base64"
	"encoding/hex"
	"net/http/httptest"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// TestKnownTextHidesNothing sends a long encoded text, and then the same with a token in it, whole
// and in windows.
func TestKnownTextHidesNothing(t *testing.T) {
	for name, encode := range map[string]func(string) string{
		"base64":    func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64url": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"hex":       func(s string) string { return hex.EncodeToString([]byte(s)) },
		"in JSON": func(s string) string {
			return asJSON(object{"messages": []object{{"content": base64.StdEncoding.EncodeToString([]byte(s))}}})
		},
	} {
		for _, size := range []int{64 << 10, 1300 << 10} {
			if size > smallBody && testing.Short() {
				continue
			}
			s := testScanner(t, "")
			clean := strings.Repeat("hello world, ", size/13)
			send := func(text string) bool {
				r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(encode(text)))
				v, _ := outcome(t, s, r)
				return v.Allow
			}
			if !send(clean) {
				t.Errorf("%s of %d bytes: clean text is refused", name, size)
			}
			token := lab.Token()
			for _, at := range []int{0, len(clean) / 2, len(clean)} {
				if send(clean[:at] + " " + token + " " + clean[at:]) {
					t.Errorf("%s of %d bytes: a token at %d passes", name, size, at)
				}
			}
		}
	}
}
