package pipelock

import (
	"encoding/base64"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
	"airlock/internal/policy"
)

func TestProxyAuthorization(t *testing.T) {
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	for value, want := range map[string]string{
		"user:pass:word": basic("user:pass:word"), ":word": basic(":word"),
		"http://user:w%40rd@proxy.test:3128": basic("user:w@rd"), "https://user@proxy.test": basic("user:"),
		"": "", "user": "", "user:pass\nword": "", "http://proxy.test": "", "http://user:w%0ard@proxy.test": "",
	} {
		got, err := proxyAuthorization(value)
		if got != want || (err == nil) != (want != "") || err != nil && len(value) > 4 && strings.Contains(err.Error(), value) {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
}

// TestProxyTarget: addresses that are known are judged although the proxy dials.
func TestProxyTarget(t *testing.T) {
	g := newGuard(newRules(parse(t, "version: 1\nallow: ['*.ok.test', localhost, 127.0.0.1, 10.0.0.1, 10.1.0.1, 192.0.2.1]\nhosts: {a.ok.test: 10.1.0.1, b.ok.test: 10.0.0.1}\naddresses: {allow: [10.1.0.0/16]}\n")))
	for in, want := range map[string]string{
		"c.ok.test:443": "c.ok.test:443", "a.ok.test:443": "10.1.0.1:443", "10.1.0.1:80": "10.1.0.1:80",
		"b.ok.test:443": "", "localhost:443": "", "x.localhost:443": "", "127.0.0.1:443": "", "10.0.0.1:443": "", "169.254.169.254:80": "",
	} {
		a, err := policy.ParseAuthority(in, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.proxyTarget(a); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestProxyTakes(t *testing.T) {
	var direct []policy.Pattern
	for _, s := range []string{"*.internal.example", "git.example:8443"} {
		p, err := policy.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		direct = append(direct, p)
	}
	p := &upstreamProxy{direct: direct}
	for in, want := range map[string]bool{"api.example:443": true, "a.internal.example:443": false, "a.internal.example:1": false, "internal.example:443": true, "git.example:8443": false, "git.example:443": true} {
		a, err := policy.ParseAuthority(in, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.takes(a); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	if (*upstreamProxy)(nil).takes(policy.Authority{}) {
		t.Error("a proxy that is not there takes connections")
	}
}

// TestProxyAnswers has proxies that answer badly: each is an error that tells neither the
// credential nor what the proxy wrote.
func TestProxyAnswers(t *testing.T) {
	word := lab.Token()[4:]
	for name, c := range map[string]struct{ answer, want string }{
		"nothing":      {"", "does not answer"},
		"no HTTP":      {"SSH-2.0-x\r\n", "does not answer"},
		"endless":      {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxProxyAnswer), "does not answer"},
		"a refusal":    {"HTTP/1.1 403 Forbidden\r\nContent-Length: 44\r\n\r\nyou sent " + word, "refuses the connection (403)"},
		"another wish": {"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "does not take the credential"},
		"a redirect":   {"HTTP/1.1 302 Found\r\nLocation: http://" + word + ".test/\r\n\r\n", "refuses the connection (302)"},
		"a switch":     {"HTTP/1.1 101 Switching Protocols\r\n\r\n", "refuses the connection (101)"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = conn.Write([]byte(c.answer))
		}()
		at := netip.MustParseAddrPort(l.Addr().String())
		g := newGuard(newRules(parse(t, "version: 1\nallow: [api.ok.test]\n")))
		if g.proxy, err = newUpstreamProxy(&bundle.UpstreamProxy{URL: "http://" + at.String(), Auth: "PROXY_AUTH_0"}, bundle.Dirs{}, func(string) string { return "user:" + word }); err != nil {
			t.Fatal(err)
		}
		conn, err := g.DialContext(t.Context(), "tcp", "api.ok.test:443")
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, %v; want %q", name, conn, err, c.want)
		}
		l.Close()
	}
}
