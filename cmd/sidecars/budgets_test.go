package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// TestBudgets has each budget at both doors.
func TestBudgets(t *testing.T) {
	for _, door := range []string{bundle.Egress, bundle.Pipelock} {
		t.Run("by "+door, func(t *testing.T) { budgets(t, door) })
	}
}

func budgets(t *testing.T, door string) {
	b := prepare(t, http.HandlerFunc(everything))
	b.write("pipelock.yaml", b.pipelockYAML(`limits:
  requests_per_minute: 3
  hosts:
    api.ok.test: {requests_per_minute: 0, bytes_per_hour: 200KB, tunnels: 2, tunnel_idle: 1s}
`))
	b.run()
	if door == bundle.Pipelock {
		b.egress = b.lock
	}
	overspent := func(res *http.Response, rule string, most int) {
		t.Helper()
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(t, err)
		var after int
		_, err = fmt.Sscan(res.Header.Get("Retry-After"), &after)
		if by, got, why := refusal(t, string(text)); err != nil || res.StatusCode != 429 || by != bundle.Pipelock || got != rule || why == "" || after < 1 || after > most {
			t.Errorf("%d by %s, rule %s, %s, Retry-After %q; want rule %s", res.StatusCode, by, got, why, res.Header.Get("Retry-After"), rule)
		}
	}
	client := b.client(b.egress)
	post := func(host, path string, body io.Reader) *http.Response {
		t.Helper()
		res, err := client.Post(b.url(host, path), "text/plain", body)
		must(t, err)
		return res
	}

	for range 3 {
		if status, body := b.send(client, http.MethodGet, b.url("a.cdn.test", "/x"), nil); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	seen := len(b.origin.Seen())
	overspent(post("a.cdn.test", "/x", nil), "limits.requests_per_minute", 60)

	// Two at once; when one is over there may be another.
	first, err := b.webSocket(b.egress)
	must(t, err)
	if door == bundle.Egress {
		second, err := b.webSocket(b.egress)
		must(t, err)
		defer second.Close()
	} else { // its tunnel is the second
		c := b.dial()
		head := fmt.Sprintf("CONNECT api.ok.test:%d HTTP/1.1\r\nHost: api.ok.test\r\n\r\n", b.origin.Port())
		if status, body := say(t, c, head); status != 429 || !strings.Contains(body, `"rule":"limits.hosts.api.ok.test.tunnels"`) {
			t.Errorf("a third tunnel: %d %s", status, body)
		}
	}
	raw, err := net.Dial("tcp", b.egress)
	must(t, err)
	defer raw.Close()
	if _, err := b.upgraded(raw); err == nil || !strings.Contains(err.Error(), " 429 ") {
		t.Errorf("a third WebSocket: %v", err)
	}
	began := time.Now()
	_ = first.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := first.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes on a silent WebSocket", n)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a silent WebSocket was closed after %v", took)
	}
	first.Close()
	eventually(t, "there is room for a WebSocket", func() bool {
		c, err := b.webSocket(b.egress)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	// The tunnels of WebSockets that are over may need a moment to go.
	eventually(t, "there is room for a tunnel", func() bool {
		res, err := b.client(b.egress).Get(b.url("api.ok.test", "/v1/x"))
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == 200
	})

	if res := post("api.ok.test", "/v1/x", strings.NewReader(strings.Repeat("a b ", 30_000))); res.StatusCode != 200 {
		t.Errorf("the first 120 kB: %d", res.StatusCode)
	} else {
		res.Body.Close()
	}
	at := len(b.origin.Seen())
	overspent(post("api.ok.test", "/v1/x", strings.NewReader(strings.Repeat("a b ", 30_000))), "limits.hosts.api.ok.test.bytes_per_hour", 3600)
	if len(b.origin.Seen()) != at {
		t.Error("the origin saw what is over the budget")
	}
	overspent(post("api.ok.test", "/v1/x", io.NopCloser(strings.NewReader(strings.Repeat("a b ", 30_000)))), "limits.hosts.api.ok.test.bytes_per_hour", 3600)
	if got := b.origin.Seen()[seen:]; len(got) == 0 {
		t.Error("nothing reached the origin")
	}
	if !strings.Contains(b.audits(), `"rule":"limits.requests_per_minute"`) {
		t.Error("the audit does not have the refusals")
	}
}

// TestBudgetOfAWebSocket: one that has sent too much is closed.
func TestBudgetOfAWebSocket(t *testing.T) {
	b := prepare(t, http.HandlerFunc(everything))
	b.write("pipelock.yaml", b.pipelockYAML("limits: {bytes_per_hour: 100KB}\n"))
	b.run()
	for _, door := range []string{b.egress, b.lock} {
		ws, err := b.webSocket(door)
		must(t, err)
		defer ws.Close()
		frame := append([]byte{0x82, 0xfe, 0x40, 0, 0, 0, 0, 0}, make([]byte, 0x4000)...)
		echo := make([]byte, len(frame)-4) // without its mask
		back := 0
		for back <= 100_000 {
			// What is on its way when the connection is closed may be lost, so each frame waits for the one before.
			if _, err = ws.Write(frame); err == nil {
				_, err = io.ReadFull(ws, echo)
			}
			if err != nil {
				break
			}
			back += len(echo)
		}
		if back == 0 || back > 100_000 {
			t.Errorf("%d bytes came back, %v", back, err)
		}
		if n := strings.Count(b.audits(), `"rule":"limits.bytes_per_hour"`); n == 0 {
			t.Error("the audit does not say why")
		}
		b.renew(b.status(bundle.Pipelock).Generation) // with fresh budgets
	}
}

// TestAllowlistExpires: an entry of the allowlist ends by itself, and with it
// the streams that it alone allowed.
func TestAllowlistExpires(t *testing.T) {
	e := &events{tell: make(chan string), left: make(chan string, 16)}
	b := prepare(t, e)
	entry := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	b.run()
	at := *b
	at.egress = b.lock
	var end time.Time
	var streams []*http.Response
	for life := 3 * time.Second; len(streams) < 2; life *= 2 { // on a slow machine, with an entry that ends later
		if life > time.Minute {
			t.Fatal("no entry lasted until both streams had begun")
		}
		streams = nil
		end = time.Now().Add(life).UTC().Truncate(time.Second)
		b.write("pipelock.yaml", strings.Replace(b.pipelockYAML(""), "- "+entry, "- {host: '"+entry+"', expires: "+end.Format(time.RFC3339)+"}", 1))
		b.renew(b.status(bundle.Pipelock).Generation)
		for _, door := range []*running{b, &at} {
			if res := door.stream(t.Context(), b.url("api.ok.test", "/v1/sse")); res.StatusCode == http.StatusOK {
				streams = append(streams, res)
			}
		}
	}
	for _, res := range streams {
		if _, err := lab.ReadAll(t, res.Body, "the stream ends with the entry of the allowlist"); err == nil {
			t.Error("the stream came to a good end")
		}
	}
	lab.Receive(t, e.left, "the origin sees a client leave")
	if early := time.Until(end); early > 0 {
		t.Errorf("the streams ended %v too early", early)
	}
	for _, door := range []string{b.egress, b.lock} {
		status, body := b.send(b.client(door), http.MethodGet, b.url("api.ok.test", "/v1/x"), nil)
		if by, rule, why := refusal(t, body); status != 403 || by != bundle.Pipelock || rule != "allow" || !strings.Contains(why, "of the allowlist expired at "+end.Format(time.RFC3339)) {
			t.Errorf("%d by %s, rule %s: %s", status, by, rule, why)
		}
	}
}
