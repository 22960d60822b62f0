package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"airlock/internal/lab"
)

// echo answers with everything that it was sent.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "%s %s\n", r.Method, r.RequestURI)
	_ = r.Header.Write(w)
	_, _ = io.Copy(w, r.Body)
})

// withRoutes is a bundle with routes of its own, and with what pipelock has to
// know of them.
func withRoutes(t *testing.T, h http.Handler, routes, allow string) *running {
	t.Helper()
	b := prepare(t, h)
	port := fmt.Sprint(b.origin.Port())
	egress, _, _ := strings.Cut(b.egressYAML(""), "routes:\n")
	b.write("egress.yaml", egress+"routes:\n"+strings.ReplaceAll(routes, "PORT", port))
	lock := strings.Replace(b.pipelockYAML(allow), "[EGRESS_DIGEST_0]", "[EGRESS_DIGEST_0, EGRESS_DIGEST_1, EGRESS_DIGEST_2]", 1)
	b.write("pipelock.yaml", strings.ReplaceAll(lock, "PORT", port))
	return b
}

// audits is the text of every audit chain.
func (b *running) audits() string {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.dirs.State, "audit", "*.jsonl"))
	must(b.t, err)
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(b.t, err)
		all.Write(text)
	}
	return all.String()
}

// keptSecret ends the bundle and looks for the values in what it has left.
func (b *running) keptSecret(values ...string) {
	b.t.Helper()
	b.stop(syscall.SIGTERM)
	for l := range b.output.wait {
		b.output.all = append(b.output.all, l)
	}
	left := strings.Join(b.output.all, "\n") + b.audits()
	for i, v := range values {
		if strings.Contains(left, v) {
			b.t.Errorf("secret %d stands in the output or the audit", i)
		}
	}
}

// last is what the origin saw last.
func (b *running) last() lab.Seen {
	b.t.Helper()
	seen := b.origin.Seen()
	if len(seen) == 0 {
		b.t.Fatal("the origin saw nothing")
	}
	return seen[len(seen)-1]
}

func TestPlainCredentials(t *testing.T) {
	b := withRoutes(t, echo, `
  - {host: 'api.ok.test:PORT', paths: ['/basic'], auth: {type: basic, user: me, slot: EGRESS_TOKEN_0}}
  - {host: 'api.ok.test:PORT', paths: ['/header'], auth: {type: header, name: X-My-Key, slot: EGRESS_TOKEN_0}}
  - {host: 'api.ok.test:PORT', paths: ['/query'], auth: {type: query, name: key, slot: EGRESS_TOKEN_0}}
`, "")
	b.run()
	own := func(r *http.Request) {
		r.Header["authorization"] = []string{"Bearer mine"}
		r.Header["X_api_key"] = []string{"mine"}
		r.Header["x-api-key"] = []string{"mine"}
	}
	for _, path := range []string{"/basic", "/header", "/query?k%65y=mine&API_KEY=mine&page=2"} {
		status, body := b.get(b.url("api.ok.test", path), own)
		if status != 200 || strings.Contains(body, b.token) || !strings.Contains(body, "[redacted:EGRESS_TOKEN_0]") {
			t.Errorf("%s: status %d, %s", path, status, strings.ReplaceAll(body, b.token, "THE TOKEN"))
		}
		seen := b.last()
		if all := fmt.Sprint(seen.URI, seen.Header); strings.Contains(all, "mine") {
			t.Errorf("%s: the agent's own credential arrived", path)
		}
	}
	if got := b.last().URI; got != "/query?page=2&key="+b.token {
		t.Error("the query is not the agent's with the credential behind it")
	}
	b.keptSecret(b.token)
}

// TestPlainHTTP has a route that says that its credential may be read on the
// way, and the same without a word.
func TestPlainHTTP(t *testing.T) {
	plain := httptest.NewServer(echo)
	defer plain.Close()
	address := strings.Replace(plain.Listener.Addr().String(), "127.0.0.1", "new.ok.test", 1)
	for said, want := range map[string]int{"": 403, "plain_http: true, ": 200} {
		b := withRoutes(t, nil, "  - {host: '"+address+"', "+said+"auth: {type: bearer, slot: EGRESS_TOKEN_0}}\n", "  - "+address+"\n")
		b.run()
		status, body := b.get("http://" + address + "/x")
		if status != want || strings.Contains(body, "redacted:EGRESS_TOKEN_0") != (want == 200) {
			t.Errorf("%q: status %d, %s", said, status, body)
		}
	}
}

// TestPlaceholders has a placeholder in each part of a request, where it is
// bound and where it is not.
func TestPlaceholders(t *testing.T) {
	b := withRoutes(t, echo, `
  - {host: 'api.ok.test:PORT', paths: ['/v1/*'], auth: {type: replace, placeholder: PLACEHOLDER1, slot: EGRESS_TOKEN_0, in: [headers, query, body]}}
  - {host: 'api.ok.test:PORT', paths: ['/v2/*'], auth: {type: replace, placeholder: PLACEHOLDER1, slot: EGRESS_TOKEN_0}}
  - {host: '*.cdn.test:PORT'}
`, "")
	other := "another-credential-" + lab.Token()[4:]
	b.run("EGRESS_TOKEN_1=" + other)
	leak := lab.Token()
	filler := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 40_000) // 1.8 MB
	for _, c := range []struct {
		name, target, header, body, rule string
	}{
		{name: "a header", target: b.url("api.ok.test", "/v1/x"), header: "key PLACEHOLDER1"},
		{name: "a Basic pair", target: b.url("api.ok.test", "/v1/x"), header: "Basic bWU6UExBQ0VIT0xERVIx"},
		{name: "the query", target: b.url("api.ok.test", "/v1/x?a=PLACEHOLDER1")},
		{name: "the body", target: b.url("api.ok.test", "/v1/x"), body: `{"password": "PLACEHOLDER1", "api_key": "PLACEHOLDER1"}`},
		{name: "a long body", target: b.url("api.ok.test", "/v1/x"), body: filler + "PLACEHOLDER1" + filler},
		{name: "a leak beside it in the body", target: b.url("api.ok.test", "/v1/x"), body: `{"a": "PLACEHOLDER1", "b": "` + leak + `"}`, rule: "secret: "},
		{name: "a leak around it", target: b.url("api.ok.test", "/v1/x"), body: leak[:20] + "PLACEHOLDER1" + leak[20:], rule: "secret: "},
		{name: "another credential beside it", target: b.url("api.ok.test", "/v1/x"), body: "PLACEHOLDER1 " + other, rule: "secret: "},
		{name: "a part that the route does not name", target: b.url("api.ok.test", "/v2/x"), body: "PLACEHOLDER1", rule: "tripwire"},
		{name: "the path", target: b.url("api.ok.test", "/v1/PLACEHOLDER1"), rule: "tripwire"},
		{name: "another host's header", target: b.url("a.cdn.test", "/"), header: "Basic bWU6UExBQ0VIT0xERVIx", rule: "tripwire"},
		{name: "another host's body", target: b.url("a.cdn.test", "/"), body: "PLACEHOLDER1", rule: "tripwire"},
		{name: "another host's long body", target: b.url("a.cdn.test", "/"), body: filler + "PLACEHOLDER1", rule: "tripwire"},
		{name: "a host without a route", target: b.url("evil.test", "/?x=PLACEHOLDER1"), rule: "tripwire"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(b.origin.Seen())
			status, body := b.send(b.client(b.egress), http.MethodPost, c.target, strings.NewReader(c.body), func(r *http.Request) {
				if c.header != "" {
					r.Header.Set("X-Key", c.header)
				}
			})
			if strings.Contains(body, b.token) {
				t.Error("the credential came back")
			}
			if c.rule != "" {
				if _, rule, _ := refusal(t, body); status != 403 || !strings.HasPrefix(rule, c.rule) || len(b.origin.Seen()) != before {
					t.Errorf("status %d: %s", status, body)
				}
				return
			}
			if status != 200 {
				t.Fatalf("status %d: %s", status, body)
			}
			seen := b.last()
			all := seen.URI + seen.Header.Get("X-Key") + string(seen.Body)
			if strings.Contains(all, "PLACEHOLDER1") || strings.Contains(all, "UExBQ0VIT0xERVIx") {
				t.Error("the placeholder arrived")
			}
			if n := strings.Count(all, b.token); n != strings.Count(c.body+c.header+c.target, "PLACEHOLDER1") && c.name != "a Basic pair" {
				t.Errorf("the value arrived %d times", n)
			}
		})
	}
	if n := strings.Count(b.audits(), `"rule":"tripwire"`); n != 6 {
		t.Errorf("%d tripwires in the audit", n)
	}
	b.keptSecret(b.token, other)
}

// TestPlaceholderInAWebSocket has one on a route that it is not bound to.
func TestPlaceholderInAWebSocket(t *testing.T) {
	heard := make(chan string, 1)
	b := withRoutes(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		text, _ := io.ReadAll(rw) // until the sidecars hang up
		heard <- string(text)
	}), `
  - {host: 'api.ok.test:PORT', auth: {type: replace, placeholder: PLACEHOLDER1, slot: EGRESS_TOKEN_0}}
  - {host: '*.cdn.test:PORT'}
`, "")
	b.run()
	conn, err := b.tunnel(fmt.Sprintf("a.cdn.test:%d", b.origin.Port()), "a.cdn.test")
	must(t, err)
	_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.cdn.test:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", b.origin.Port())
	must(t, err)
	if head, err := readHead(conn); err != nil || !strings.Contains(head, " 101 ") {
		t.Fatal(head, err)
	}
	for _, part := range []string{"\x01\x85\x00\x00\x00\x00hello", "\x00\x86\x00\x00\x00\x00PLACEH", "\x80\x86\x00\x00\x00\x00OLDER1"} {
		_, err = io.WriteString(conn, part)
		must(t, err)
	}
	if text := lab.Receive(t, heard, "the other side sends something"); !strings.Contains(text, "hello") || strings.Contains(text, "OLDER1") {
		t.Errorf("the origin heard %q", text)
	}
	if !strings.Contains(b.audits(), `"rule":"tripwire"`) {
		t.Error("there is no tripwire in the audit")
	}
}
