package main

import (
	"net/http"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// TestChain is the way of a request: agent → egress → pipelock → origin.
func TestChain(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		for range 3 {
			_, _ = w.Write([]byte("you said " + r.Header.Get("Authorization") + "\n"))
		}
	})
	b := start(t, echo)

	t.Run("the real credential replaces the agent's and is not told back", func(t *testing.T) {
		status, body := b.get(b.url("api.ok.test", "/v1/x"), func(r *http.Request) { r.Header.Set("Authorization", "Bearer mine") })
		if status != 200 || strings.Contains(body, b.token) || !strings.Contains(body, "[redacted:EGRESS_TOKEN_0]") {
			t.Errorf("status %d, body %q", status, strings.ReplaceAll(body, b.token, "THE TOKEN"))
		}
		seen := b.origin.Seen()
		if got := seen[len(seen)-1].Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+b.token {
			t.Errorf("the origin saw %d credentials, not exactly the real one", len(got))
		}
	})
	t.Run("a wildcard route injects nothing", func(t *testing.T) {
		if status, body := b.get(b.url("a.cdn.test", "/")); status != 200 || strings.Contains(body, "Bearer") {
			t.Errorf("status %d, body %q", status, body)
		}
	})

	refused := []struct {
		name, target, by, rule string
	}{
		{"a host without a route", b.url("evil.test", "/"), "egress", "no route"},
		{"a path outside the route", b.url("api.ok.test", "/admin"), "egress", "routes[0] api.ok.test"},
		{"a path that climbs out", b.url("api.ok.test", "/v1/%2e%2e/admin"), "egress", "routes[0] api.ok.test"},
		{"a push over https", b.url("a.cdn.test", "/x.git/info/refs?service=git-receive-pack"), "egress", "git push"},
	}
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			dials := b.origin.Dials()
			status, body := b.get(c.target)
			by, rule, why := refusal(t, body)
			if status != 403 || by != c.by || !strings.HasPrefix(rule, c.rule) || why == "" {
				t.Errorf("status %d by %q rule %q why %q", status, by, rule, why)
			}
			if b.origin.Dials() != dials {
				t.Error("a refused request dialled the origin")
			}
		})
	}

	leak := lab.Token()
	leaks := []struct {
		name   string
		target string
		body   string
		header string
	}{
		{name: "a token in the body", target: "/v1/x", body: `{"note":"` + leak + `"}`},
		{name: "a token in the query", target: "/v1/x?q=" + leak},
		{name: "a token in a header", target: "/v1/x", header: leak},
		{name: "the injected value itself, in the body", target: "/v1/x", body: b.token},
		{name: "the injected value reversed", target: "/v1/x", body: reverse(b.token)},
	}
	for _, c := range leaks {
		t.Run(c.name, func(t *testing.T) {
			before := len(b.origin.Seen())
			status, body := b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", c.target), strings.NewReader(c.body), func(r *http.Request) {
				if c.header != "" {
					r.Header.Set("X-Note", c.header)
				}
			})
			by, rule, _ := refusal(t, body)
			if status != 403 || by != "pipelock" || !strings.HasPrefix(rule, "secret: ") {
				t.Errorf("status %d by %q rule %q", status, by, rule)
			}
			if len(b.origin.Seen()) != before {
				t.Error("the origin saw the request")
			}
			if strings.Contains(body, leak) {
				t.Error("the refusal repeats the secret")
			}
		})
	}
}

func reverse(s string) string {
	b := []byte(s)
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
	return string(b)
}
