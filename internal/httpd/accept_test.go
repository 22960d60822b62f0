package httpd

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPrefersText(t *testing.T) {
	for _, c := range []struct {
		accept, agent string // accept "-": no such field
		path          string
		want          bool
	}{
		{"-", "", "/x", false},
		{"*/*", "curl/8.0", "/x", false},
		{"*/*", "python-requests/2", "/x", false},
		{"application/json", "Go-http-client/1.1", "/x", false},
		{"application/json, text/plain, */*", "axios/1", "/x", false},
		{"application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01", "pip/25", "/x", false},
		{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "Mozilla/5.0", "/x", false},
		{"text/plain", "curl/8.0", "/x", true},
		{"text/plain;q=0.5, application/json;q=0.4", "", "/x", true},
		{"text/plain;q=0.4, application/json;q=0.5", "", "/x", false},
		{"application/json;q=0", "", "/x", false},
		{"application/json;q=0, */*", "", "/x", false},
		{"text/event-stream", "", "/x", true},
		{"image/png", "", "/x", true},
		{"application/x-git-upload-pack-result", "git/2.39.5", "/x", true},
		{"*/*", "git/2.39.5", "/x", true},
		{"*/*", "git/dulwich/0.21", "/x", true},
		{"-", "Go-http-client/1.1", "/x", false},
		{"-", "Go-http-client/2.0", "/example.com/m/@v/list", true},
		{"-", "Go-http-client/1.1", "/example.com/m/@latest", true},
		{"-", "Go-http-client/1.1", "/lookup/example.com/m@v1.0.0", true},
		{"-", "Go-http-client/1.1", "/m?go-get=1", true},
		{"application/json", "Go-http-client/1.1", "/m?go-get=1", false},
	} {
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.accept != "-" {
			r.Header.Set("Accept", c.accept)
		}
		r.Header.Set("User-Agent", c.agent)
		if got := PrefersText(r); got != c.want {
			t.Errorf("Accept %q of %q for %s: text %v, want %v", c.accept, c.agent, c.path, got, c.want)
		}
	}
}

// TestRefusalForms: both forms of a refusal say the same.
func TestRefusalForms(t *testing.T) {
	refused := Refusal{By: "egress", Rule: "no route", Why: "no route names \x1b[1mevil.test", URL: "https://evil.test/", Ask: AskAccess}
	for _, text := range []bool{false, true} {
		refused.Text = text
		w := httptest.NewRecorder()
		Refuse(w, http.StatusForbidden, refused)
		body, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		kind := w.Header().Get("Content-Type")
		if text != strings.HasPrefix(kind, "text/plain") || w.Header().Get(HeaderRule) != "no route" {
			t.Errorf("text %v: %q, %v", text, kind, w.Header())
		}
		if text && (json.Valid(body) || strings.ContainsRune(string(body), 0x1b)) || !text && !json.Valid(body) {
			t.Errorf("text %v: %q", text, body)
		}
		for _, part := range []string{"egress", "no route", "evil.test", "https://evil.test/", "request_access"} {
			if !strings.Contains(string(body), part) {
				t.Errorf("text %v: %q does not say %q", text, body, part)
			}
		}
	}
}
