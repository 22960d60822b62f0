package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMCPHasItsOwnNames: requests that name another host or origin than the
// pair's get 403 from the MCP server.
func TestMCPHasItsOwnNames(t *testing.T) {
	b := start(t, nil)
	_, port, _ := strings.Cut(b.mcp, ":")
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"", "", 200},
		{"supervise:9100", "", 200},
		{"localhost:" + port, "http://localhost:" + port, 200},
		{"supervise:9100", "http://supervise:9100", 200},
		{"evil.test", "", 403},
		{"evil.test:" + port, "http://evil.test:" + port, 403},
		{"", "http://evil.test", 403},
		{"", "null", 403},
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			var body io.Reader
			if method == http.MethodPost {
				body = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
			}
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.mcp+"/mcp", body)
			must(t, err)
			req.Host = c.host
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Accept", "application/json, text/event-stream")
			if method == http.MethodGet && c.want == 200 {
				continue // a stream that stays open
			}
			res, err := http.DefaultClient.Do(req)
			must(t, err)
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			must(t, err)
			if refused := res.StatusCode == 403; refused != (c.want == 403) || method == http.MethodPost && res.StatusCode != c.want {
				t.Errorf("%s with Host %q and Origin %q: expected %d, got %d: %s", method, c.host, c.origin, c.want, res.StatusCode, text)
			}
		}
	}
}
