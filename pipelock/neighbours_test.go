package pipelock

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestTokensBesideAnything: tokens of providers are found in every surface of a request, whatever
// stands beside them.
func TestTokensBesideAnything(t *testing.T) {
	const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	r := rand.New(rand.NewPCG(3, 9))
	some := func(alphabet string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	s := testScanner(t, "")
	for _, k := range []string{
		"sk-" + "ant-api03-" + some(alnum, 93) + "AA", "npm" + "_" + some(alnum, 36), "hf" + "_" + some(alnum[10:], 34), "AI" + "za" + some(alnum, 35),
		"SG" + "." + some(alnum, 22) + "." + some(alnum, 43), "sk_" + "live_" + some(alnum, 24), "AK" + "IA" + some("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
	} {
		for name, change := range map[string]func(*http.Request){
			"Range":            func(r *http.Request) { r.Header.Set("Range", k+"=0-1") },
			"a cookie":         func(r *http.Request) { r.Header.Set("Cookie", "a=b; x"+k+"; c=d") },
			"a file name":      func(r *http.Request) { r.Header.Set("Content-Disposition", `attachment; filename="`+k+`.txt"`) },
			"a path segment":   func(r *http.Request) { r.URL.Path = "/" + k + "/y" },
			"a longer segment": func(r *http.Request) { r.URL.Path = "/v1/x" + k + ".json" },
			"a query":          func(r *http.Request) { r.URL.RawQuery = "k=" + k + "&b=1" },
			"a query, escaped": func(r *http.Request) { r.URL.RawQuery = "q=" + url.QueryEscape("the key is "+k+".") },
			"user information": func(r *http.Request) { r.Header.Set("Referer", "https://u:"+k+"@host.example/") },
		} {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.ok.test/v1", nil)
			change(req)
			if v := s.head(req, scanContext{host: host(t, "api.ok.test")}); v.Allow {
				t.Errorf("%.4s… in %s passes", k, name)
			}
		}
		for name, body := range map[string]string{
			"a sentence": `{"content":"The key is ` + k + `.  Please"}`, "parentheses": "(" + k + ")", "an element": "<k>" + k + "</k>", "a list": k + ",B=1",
			"protobuf": "\x0a" + string(rune(len(k))) + k + "\x12\x01a", "letters": "x" + k + "z", "CSV in JSON": `"id\n` + k + `,secret\n"`,
		} {
			req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://api.ok.test/v1", strings.NewReader(body))
			if v, _ := outcome(t, s, req); v.Allow {
				t.Errorf("%.4s… in %s passes", k, name)
			}
		}
	}
}
