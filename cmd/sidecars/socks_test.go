package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/internal/lab"
)

// throughSocks is a client that knows SOCKS5 alone.
func (b *running) throughSocks(userinfo *url.Userinfo, h2 bool) *http.Client {
	b.t.Helper()
	proxy := &url.URL{Scheme: "socks5", User: userinfo, Host: b.egress}
	tr := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: b.pairCA}, ForceAttemptHTTP2: h2}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

func TestSocks(t *testing.T) {
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %v", r.Proto, r.Header.Get("Authorization") != "") // the agent may have gone
	}))
	plain := b.throughSocks(nil, false)
	for name, c := range map[string]*http.Client{"h1": plain, "h2": b.throughSocks(nil, true), "a password": b.throughSocks(url.UserPassword("me", "any-password"), false)} {
		if status, body := b.send(c, "GET", b.url("API.ok.test", "/v1/x"), nil); status != 200 || !strings.HasSuffix(body, " true") {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	for _, c := range []struct {
		target, rule, why string
	}{
		{b.url("api.ok.test", "/admin"), "routes[0]", "the route is for the paths"},
		{b.url("evil.test", "/"), "no route", "no route names evil.test"},
		{fmt.Sprintf("http://api.ok.test:%d/v1/x", b.origin.Port()), "routes[0]", "the route is for https"},
		{"http://127.0.0.1/", "no route", "has to leave that to the proxy (as with socks5h)"},
		{"https://127.0.0.1/", "no route", "has to leave that to the proxy (as with socks5h)"},
	} {
		if status, body := b.send(plain, "GET", c.target, nil); status != 403 {
			t.Errorf("%s: %d %s", c.target, status, body)
		} else if _, rule, why := refusal(t, body); !strings.HasPrefix(rule, c.rule) || !strings.Contains(why, c.why) {
			t.Errorf("%s: %s: %s", c.target, rule, why)
		}
	}
	if status, body := b.send(plain, "GET", "http://_egress.local/", nil); status != 200 || !strings.Contains(body, "api.ok.test") {
		t.Errorf("%d %s", status, body)
	}
	other := func(r *http.Request) { r.Host = "evil.test" }
	for _, target := range []string{"http://api.ok.test/", b.url("api.ok.test", "/v1/x")} {
		if status, body := b.send(b.throughSocks(nil, false), "GET", target, nil, other); status != 421 {
			t.Errorf("%s for evil.test: %d %s", target, status, body)
		}
	}
	if n := len(b.origin.Seen()); n != 3 {
		t.Errorf("%d requests reached the origin", n)
	}
	if text, err := os.ReadFile(b.dirs.Audit("egress")); err != nil || strings.Contains(string(text), "any-password") {
		t.Errorf("%v, %s", err, text)
	}
}

// TestSocksRefusals says something else than what is served, and looks for
// the reason in the log.
func TestSocksRefusals(t *testing.T) {
	b := start(t, nil)
	const asks = "\x05\x01\x00" + "\x05\x01\x00\x03\x0bapi.ok.test\x01\xbb"
	for _, c := range []struct{ name, say, why string }{
		{"SOCKS4", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "SOCKS4 knows no names"},
		{"BIND", "\x05\x01\x00" + "\x05\x02\x00\x03\x0bapi.ok.test\x01\xbb", "only CONNECT"},
		{"SSH", asks + "SSH-2.0-OpenSSH_9.2\r\n", "an SSH banner"},
		{"a binary protocol", asks + "\x00\x01\x02", "neither TLS nor plain HTTP"},
		{"SOCKS inside SOCKS", asks + "\x05\x01\x00", "neither TLS nor plain HTTP"},
		{"CONNECT behind it", asks + "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", "CONNECT behind SOCKS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := b.dial()
			_, err := io.WriteString(conn, c.say)
			must(t, err)
			_, _ = io.Copy(io.Discard, conn) // until it is closed; a reset is an end, too
			b.until(c.why)
		})
	}
	conn := b.dial()
	_, err := io.WriteString(conn, asks)
	must(t, err)
	_, err = io.ReadFull(conn, make([]byte, 12))
	must(t, err)
	if err := tls.Client(conn, &tls.Config{RootCAs: b.pairCA, ServerName: "evil.test"}).Handshake(); err == nil {
		t.Error("a handshake for another name succeeded")
	}
	b.until("SNI")
}

// TestSocksDrains asks for the end while a request that came by SOCKS is
// answered.
func TestSocksDrains(t *testing.T) {
	reached, answer := make(chan struct{}), make(chan struct{})
	b := start(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(reached)
		lab.Receive(t, answer, "an answer comes")
		_, _ = io.WriteString(w, "whole") // checked below
	}))
	got := make(chan string, 1)
	go func() {
		res, err := b.throughSocks(nil, false).Get(b.url("api.ok.test", "/v1/x"))
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body) // the text tells
		got <- string(text)
	}()
	lab.Receive(t, reached, "the request arrives")
	must(t, b.cmd.Process.Signal(syscall.SIGTERM))
	b.until("stopping egress")
	close(answer)
	if text := lab.Receive(t, got, "a message comes"); text != "whole" {
		t.Error(text)
	}
	lab.Receive(t, b.done, "what runs beside the test ends")
}

// TestSocksOfCurl speaks with the client that people have.
func TestSocksOfCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl here")
	}
	b := start(t, nil)
	cert := filepath.Join(b.dirs.Etc, "ca/ca.crt")
	curl := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "curl", append([]string{"-sS", "--cacert", cert, "--noproxy", "", "-w", " %{http_code}"}, args...)...).CombinedOutput()
		return string(out), err
	}
	port := strconv.Itoa(b.origin.Port())
	if out, err := curl("--socks5-hostname", b.egress, b.url("api.ok.test", "/v1/x")); err != nil || !strings.HasSuffix(out, " 200") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := curl("--socks5-hostname", b.egress, "https://evil.test/"); err != nil || !strings.Contains(out, "no route names evil.test:443") || !strings.HasSuffix(out, " 403") {
		t.Errorf("%v: %s", err, out)
	}
	local := []string{"--socks5", b.egress, "--resolve", "api.ok.test:" + port + ":127.0.0.1", "--resolve", "api.ok.test:80:127.0.0.1"}
	if out, err := curl(append(local, "http://api.ok.test/")...); err != nil || !strings.HasSuffix(out, " 421") {
		t.Errorf("a name that curl looked up: %v: %s", err, out)
	}
	if out, err := curl(append(local, b.url("api.ok.test", "/v1/x"))...); err == nil {
		t.Errorf("TLS for a name that curl looked up: %s", out)
	}
	if n := len(b.origin.Seen()); n != 1 {
		t.Errorf("%d requests reached the origin", n)
	}
}

// TestSocksWaitsForNobody leaves a handshake half done: others are served, and
// the end does not wait.
func TestSocksWaitsForNobody(t *testing.T) {
	lab.Long(t)
	b := start(t, nil)
	var idle []net.Conn
	for _, text := range []string{"\x05", "\x05\x01\x00", "\x05\x01\x00\x05\x01\x00\x03"} {
		c := b.dial()
		_, err := io.WriteString(c, text)
		must(t, err)
		idle = append(idle, c)
	}
	if _, err := bufio.NewReader(idle[1]).ReadByte(); err != nil {
		t.Fatal(err) // it has been read
	}
	if status, _ := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("status %d", status)
	}
	b.stop(syscall.SIGTERM)
}
