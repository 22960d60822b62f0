package main

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"airlock/internal/lab"
)

// TestStalledUploads: many clients stop before the end of their uploads.
// pipelock stays, requests that need little are answered, the others are
// refused for a while, and when they have gone a long one passes again.
func TestStalledUploads(t *testing.T) {
	lab.Long(t)
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	pid := b.status("pipelock").PID
	body := strings.Repeat("x y z ", (1<<20)/6)
	var opening sync.WaitGroup
	conns := make([]net.Conn, 450)
	at := make(chan int)
	for range 8 {
		opening.Go(func() {
			for i := range at {
				c, err := b.tunnel(ok, "api.ok.test", "http/1.1")
				for range 3 { // a slow machine that is this busy may be late for a handshake
					if err == nil {
						break
					}
					c, err = b.tunnel(ok, "api.ok.test", "http/1.1")
				}
				if err != nil {
					t.Error(err)
					continue
				}
				conns[i] = c
				_ = c.SetDeadline(time.Now().Add(60 * time.Second))
				length := "Content-Length: 1048577"
				if i%10 == 9 {
					length = "Content-Encoding: gzip\r\nContent-Length: 1048570"
				}
				// What is refused meanwhile is cut off.
				_, _ = fmt.Fprintf(c, "POST /v1/x HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", ok, length, body[:1<<20-100])
			}
		})
	}
	for i := range conns {
		at <- i
	}
	close(at)
	opening.Wait()
	if status, text := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("an ordinary request: %d %s", status, text)
	}
	client := b.client(b.egress)
	if status, text := b.send(client, "POST", b.url("api.ok.test", "/v1/x"), strings.NewReader("hello")); status != 200 || text != "5" {
		t.Errorf("a short upload: %d %s", status, text)
	}
	if status, text := b.send(client, "POST", b.url("api.ok.test", "/v1/x"), io.NopCloser(strings.NewReader(body))); status != 200 || text != fmt.Sprint(len(body)) {
		t.Errorf("a stream: %d %s", status, text)
	}
	res, err := client.Post(b.url("api.ok.test", "/v1/x"), "text/plain", strings.NewReader(body))
	must(t, err)
	text, err := io.ReadAll(res.Body)
	must(t, err)
	res.Body.Close()
	if _, rule, _ := refusal(t, string(text)); res.StatusCode != http.StatusServiceUnavailable || rule != "memory" || res.Header.Get("Retry-After") == "" {
		t.Errorf("a long upload: %d %s %v", res.StatusCode, text, res.Header)
	}
	if !strings.Contains(b.audits(), `"rule":"memory"`) {
		t.Error("the audit does not say that there was no memory")
	}
	if d := b.status("pipelock"); d.PID != pid {
		t.Errorf("pipelock was %d and is %d", pid, d.PID)
	}
	t.Logf("pipelock has %d MiB", resident(t, pid)>>20)
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
	eventually(t, "a long upload passes", func() bool {
		status, _ := b.send(client, "POST", b.url("api.ok.test", "/v1/x"), strings.NewReader(body))
		return status == 200
	})
}

// TestEchoes has what web frameworks make of a credential, and charsets that
// the agent would like to have it in.
func TestEchoes(t *testing.T) {
	page := template.Must(template.New("").Parse("<p>{{.}}</p>"))
	b := prepare(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/v1/html":
			_ = page.Execute(w, auth)
		case "/v1/gson":
			fmt.Fprint(w, strings.NewReplacer("=", `\u003d`, "<", `\u003c`, "&", `\u0026`).Replace(auth))
		case "/v1/wide":
			for _, u := range utf16.Encode([]rune(auth)) {
				_, _ = w.Write([]byte{byte(u >> 8), byte(u)})
			}
		case "/v1/charset":
			w.Header().Set("Content-Type", "text/plain; charset=IBM037")
			fmt.Fprint(w, "in EBCDIC")
		case "/v1/asked":
			fmt.Fprint(w, r.Header["Accept"], r.Header["Accept-Charset"])
		}
	}))
	b.token = base64.StdEncoding.EncodeToString([]byte(b.token)) + "+/<&="
	b.run()
	for path, want := range map[string]string{
		"/v1/html": "<p>Bearer [redacted:EGRESS_TOKEN_0]</p>", "/v1/gson": "Bearer [redacted:EGRESS_TOKEN_0]", "/v1/wide": "[redacted:EGRESS_TOKEN_0]",
		"/v1/charset": "cannot be searched", "/v1/asked": "[text/plain, */*] []",
	} {
		_, text := b.get(b.url("api.ok.test", path), func(r *http.Request) {
			r.Header.Set("Accept", "text/plain;charset=UTF-16, */*")
			r.Header.Set("Accept-Charset", "utf-16")
		})
		if !strings.Contains(text, want) || strings.Contains(text, "EBCDIC") || strings.Contains(text, b.token[:12]) {
			t.Errorf("%s: %q", path, text)
		}
	}
}
