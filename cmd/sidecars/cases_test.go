package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
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

// dial is a connection to egress that gives up after a while.
func (b *running) dial() net.Conn {
	b.t.Helper()
	c, err := net.Dial("tcp", b.egress)
	must(b.t, err)
	must(b.t, c.SetDeadline(time.Now().Add(10*time.Second)))
	b.t.Cleanup(func() { c.Close() })
	return c
}

// say sends text and reads one answer.
func say(t *testing.T, c net.Conn, text string) (status int, body string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	must(t, err)
	return hear(t, c)
}

func hear(t *testing.T, c net.Conn) (status int, body string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err.Error()
	}
	return res.StatusCode, string(text)
}

// connect opens a tunnel without TLS.
func (b *running) connect(target string) net.Conn {
	b.t.Helper()
	c := b.dial()
	_, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	must(b.t, err)
	head, err := readHead(c)
	must(b.t, err)
	if !strings.Contains(head, " 200 ") {
		b.t.Fatalf("CONNECT %s: %s", target, head)
	}
	return c
}

// readHead reads an answer's header and not a byte more.
func readHead(c net.Conn) (string, error) {
	var head strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); head.Write(one) {
		if _, err := io.ReadFull(c, one); err != nil {
			return head.String(), err
		}
	}
	return head.String(), nil
}

// tunnel opens one with TLS.
func (b *running) tunnel(target, sni string, protos ...string) (*tls.Conn, error) {
	c := b.overTLS(b.connect(target), sni, protos...)
	return c, c.Handshake()
}

// overTLS trusts the authority of the pair.
func (b *running) overTLS(raw net.Conn, sni string, protos ...string) *tls.Conn {
	return tls.Client(raw, &tls.Config{RootCAs: b.pairCA, ServerName: sni, NextProtos: protos})
}

// TestInsideATunnel has the cases in which a request speaks of something else
// than its tunnel, or is not a request that two parsers read alike.
func TestInsideATunnel(t *testing.T) { start(t, nil).atBothDoors(insideATunnel) }

func insideATunnel(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	for _, c := range []struct {
		name, request string
		want          int
	}{
		{"its own host", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 200},
		{"mixed case", "GET /v1/x HTTP/1.1\r\nHost: API.ok.TEST" + ok[11:] + "\r\n\r\n", 200},
		{"its own, with a dot and in absolute form", "GET https://API.OK.test." + ok[11:] + "/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 200},
		{"a dot at the end", "GET /v1/x HTTP/1.1\r\nHost: api.ok.test." + ok[11:] + "\r\n\r\n", 200},
		{"its own, in absolute form", "GET https://" + ok + "/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 200},
		{"HTTP/1.0", "GET /v1/x HTTP/1.0\r\nHost: " + ok + "\r\n\r\n", 200},
		{"another host", "GET /v1/x HTTP/1.1\r\nHost: evil.test\r\n\r\n", 421},
		{"a wide dot in the host", "GET /v1/x HTTP/1.1\r\nHost: api\uff0eok.test" + ok[11:] + "\r\n\r\n", 400},
		{"an escape in the host", "GET /v1/x HTTP/1.1\r\nHost: api%2eok.test" + ok[11:] + "\r\n\r\n", 400},
		{"user information in absolute form", "GET https://user@" + ok + "/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 400},
		{"another port", "GET /v1/x HTTP/1.1\r\nHost: api.ok.test:1\r\n\r\n", 421},
		{"another, in absolute form", "GET https://evil.test/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 421},
		{"plain http in absolute form", "GET http://" + ok + "/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", 400},
		{"user information in the host", "GET /v1/x HTTP/1.1\r\nHost: api.ok.test@evil.test\r\n\r\n", 400},
		{"a path in the host", "GET /v1/x HTTP/1.1\r\nHost: api.ok.test/x\r\n\r\n", 400},
		{"a query in the host", "GET /v1/x HTTP/1.1\r\nHost: api.ok.test?\r\n\r\n", 400},
		{"two hosts", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nHost: " + ok + "\r\n\r\n", 400},
		{"no host", "GET /v1/x HTTP/1.1\r\n\r\n", 400},
		{"CONNECT", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 405},
		{"two lengths", "POST /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
		{"a length with a sign", "POST /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nContent-Length: +5\r\n\r\nhello", 400},
		{"a name with a space", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nX Y: z\r\n\r\n", 400},
		{"a zero byte in a value", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nX: a\x00b\r\n\r\n", 400},
		{"an expectation that is not known", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nExpect: magic\r\n\r\n", 417},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.origin.Seen()
			conn, err := b.tunnel(ok, "api.ok.test")
			must(t, err)
			status, body := say(t, conn, c.request)
			if status != c.want {
				t.Errorf("status %d, want %d: %s", status, c.want, body)
			}
			if grew := len(b.origin.Seen()) > len(before); grew != (c.want == 200) {
				t.Errorf("the origin saw the request: %v", grew)
			}
		})
	}
}

func TestTunnelOpening(t *testing.T) { start(t, nil).atBothDoors(tunnelOpening) }

func tunnelOpening(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	for name, target := range map[string]string{
		"no port": "api.ok.test", "port 0": "api.ok.test:0", "an odd address": "2130706433:443", "an empty label": "a..test:443",
		"an escape": "a%2eb.test:443", "a long label": strings.Repeat("a", 64) + ".test:443",
		"a long name": strings.Repeat("a.", 127) + "test:443", "an octal address": "0177.0.0.1:443", "a short address": "127.1:443", "a hexadecimal address": "0x7f.0.0.1:443",
		"user information": "u@api.ok.test:443", "a path": "api.ok.test:443/x", "a wide dot": "api\uff0eok.test:443", "a zone": "[fe80::1%25eth0]:443", "a zero byte": "a\x00b.test:443", "nothing": "",
	} {
		t.Run(name, func(t *testing.T) {
			if status, body := say(t, b.dial(), "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"); status != 400 {
				t.Errorf("status %d: %s", status, body)
			}
		})
	}
	t.Run("another SNI", func(t *testing.T) {
		if _, err := b.tunnel(ok, "evil.test"); err == nil {
			t.Error("the handshake went through")
		}
		b.until(`SNI \"evil.test\" in a tunnel to api.ok.test`)
	})
	t.Run("plain HTTP in the tunnel", func(t *testing.T) {
		before := b.origin.Dials()
		if status, _ := say(t, b.connect(ok), "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\r\n\r\n"); status == 200 {
			t.Error("it was served")
		}
		if b.origin.Dials() != before {
			t.Error("the origin was dialled")
		}
	})
	t.Run("a refused authority is refused inside", func(t *testing.T) {
		c, err := b.tunnel("evil.test:443", "evil.test")
		must(t, err)
		// Whatever the request says, it is judged as evil.test.
		if status, _ := say(t, c, "GET / HTTP/1.1\r\nHost: "+ok+"\r\n\r\n"); status != 421 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("bytes in one breath with CONNECT", func(t *testing.T) {
		c := &prefixed{Conn: b.dial(), prefix: "CONNECT " + ok + " HTTP/1.1\r\nHost: " + ok + "\r\n\r\n"}
		conn := tls.Client(&skipAnswer{Conn: c}, &tls.Config{RootCAs: b.pairCA, ServerName: "api.ok.test"})
		if status, body := say(t, conn, "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\r\n\r\n"); status != 200 {
			t.Errorf("status %d: %s", status, body)
		}
	})
	t.Run("plain http to a route for https", func(t *testing.T) {
		if b.door == bundle.Pipelock {
			t.Skip("pipelock has no routes, and no credential")
		}
		status, body := say(t, b.dial(), "GET http://"+ok+"/v1/x HTTP/1.1\r\nHost: "+ok+"\r\n\r\n")
		if _, _, why := refusal(t, body); status != 403 || !strings.Contains(why, "plain http") && !strings.Contains(why, "https") {
			t.Errorf("status %d: %s", status, body)
		}
	})
	t.Run("no proxy request", func(t *testing.T) {
		if status, _ := say(t, b.dial(), "GET / HTTP/1.1\r\nHost: "+ok+"\r\n\r\n"); status != 400 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("the magic host", func(t *testing.T) {
		if b.door == bundle.Pipelock {
			t.Skip("it is egress's")
		}
		status, body := say(t, b.dial(), "GET http://_egress.local/ HTTP/1.1\r\nHost: _egress.local\r\n\r\n")
		if status != 200 || !strings.Contains(body, "api.ok.test") || strings.Contains(body, b.token) {
			t.Errorf("status %d: %s", status, body)
		}
	})
}

// prefixed sends its prefix in the same write as the first bytes.
type prefixed struct {
	net.Conn
	prefix string
}

func (p *prefixed) Write(b []byte) (int, error) {
	if p.prefix == "" {
		return p.Conn.Write(b)
	}
	_, err := p.Conn.Write(append([]byte(p.prefix), b...))
	p.prefix = ""
	return len(b), err
}

// skipAnswer takes the answer to CONNECT off the front.
type skipAnswer struct {
	net.Conn
	done bool
}

func (s *skipAnswer) Read(p []byte) (int, error) {
	if !s.done {
		s.done = true
		if _, err := readHead(s.Conn); err != nil {
			return 0, err
		}
	}
	return s.Conn.Read(p)
}

func TestHTTP2(t *testing.T) { start(t, nil).atBothDoors(overHTTP2) }

func overHTTP2(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	client := b.client(b.egress)
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	before := len(b.origin.Seen())
	for _, c := range []struct {
		authority string
		want      int
	}{{ok, 200}, {"evil.test", 421}, {"api.ok.test:1", 421}} {
		req, err := http.NewRequest(http.MethodGet, "https://"+ok+"/v1/x", nil)
		must(t, err)
		req.Host = c.authority
		res, err := client.Do(req)
		must(t, err)
		res.Body.Close()
		if res.StatusCode != c.want || res.Proto != "HTTP/2.0" {
			t.Errorf("authority %s: status %d in %s, want %d", c.authority, res.StatusCode, res.Proto, c.want)
		}
	}
	if seen := b.origin.Seen()[before:]; len(seen) != 1 || seen[0].Proto != "HTTP/2.0" {
		t.Errorf("the origin saw %d requests, the first in %s", len(seen), seen[0].Proto)
	}
}

// TestReflection has the ways in which an upstream tells a credential back.
func TestReflection(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		switch r.URL.Path {
		case "/v1/early":
			w.Header().Set("Link", "</x?"+auth+">")
			w.WriteHeader(http.StatusEarlyHints)
		case "/v1/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprintf(z, "in gzip: %s", auth)
			z.Close()
			return
		case "/v1/stream":
			for _, c := range []byte("data: " + auth + "\n\n") {
				_, _ = w.Write([]byte{c})
				_ = http.NewResponseController(w).Flush()
			}
			return
		case "/v1/trailer":
			w.Header().Set("Trailer", "X-T")
			fmt.Fprint(w, "body")
			w.Header().Set("X-T", auth)
			return
		case "/v1/redirect":
			http.Redirect(w, r, "https://evil.test/?t="+auth, http.StatusFound)
			return
		case "/v1/unknown":
			w.Header().Set("Content-Encoding", "magic")
		case "/v1/big":
			w.Header().Set("Content-Length", fmt.Sprint(200_000+len(auth)))
			_, _ = w.Write(bytes.Repeat([]byte("x"), 200_000))
		}
		fmt.Fprint(w, auth)
	})
	b := start(t, echo)
	client := b.client(b.egress)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{
		"/v1/plain": "Bearer [redacted:EGRESS_TOKEN_0]", "/v1/early": "Bearer [redacted:EGRESS_TOKEN_0]",
		"/v1/gzip": "in gzip: Bearer [redacted:EGRESS_TOKEN_0]", "/v1/stream": "data: Bearer [redacted:EGRESS_TOKEN_0]\n\n",
		"/v1/trailer": "body", "/v1/redirect": "[redacted:EGRESS_TOKEN_0]", "/v1/unknown": "cannot be searched", "/v1/big": "Bearer [redacted:EGRESS_TOKEN_0]***",
	} {
		t.Run(path, func(t *testing.T) {
			res, err := client.Get(b.url("api.ok.test", path))
			must(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			must(t, err)
			all := fmt.Sprint(string(body), res.Header, res.Trailer)
			if strings.Contains(all, b.token) {
				t.Error("the credential came back")
			}
			if !strings.Contains(all, want) {
				t.Errorf("%.300q, want %q", all, want)
			}
		})
	}
}

// TestWebSocket has frames in both directions.
func TestWebSocket(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		auth := "your credential: " + r.Header.Get("Authorization")
		_, _ = c.Write(append([]byte{0x81, byte(len(auth))}, auth...))
		_, _ = io.Copy(c, rw) // frames come back masked, which the test undoes
	})
	b := start(t, h)
	open := func() net.Conn {
		conn, err := b.tunnel(fmt.Sprintf("api.ok.test:%d", b.origin.Port()), "api.ok.test")
		must(t, err)
		_, err = fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: api.ok.test:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", b.origin.Port(), base64.StdEncoding.EncodeToString([]byte(lab.Token()[4:20])))
		must(t, err)
		head, err := readHead(conn)
		must(t, err)
		if !strings.Contains(head, " 101 ") {
			t.Fatal(head)
		}
		return conn
	}
	frame := func(text string) []byte { return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...) }
	conn := open()
	head := make([]byte, 2)
	_, err := io.ReadFull(conn, head)
	must(t, err)
	first := make([]byte, head[1])
	_, err = io.ReadFull(conn, first)
	must(t, err)
	if strings.Contains(string(first), b.token) || !strings.Contains(string(first), "[redacted:") {
		t.Errorf("the first frame: %q", first)
	}
	_, err = conn.Write(frame("hello"))
	must(t, err)
	back := make([]byte, 11)
	if _, err = io.ReadFull(conn, back); err != nil || string(back[6:]) != "hello" {
		t.Errorf("%q, %v", back, err)
	}
	_, err = conn.Write(frame("my token " + reverse(b.token)))
	must(t, err)
	if rest, _ := io.ReadAll(conn); len(rest) < 4 || rest[0] != 0x88 || string(rest[2:4]) != "\x03\xf0" || !bytes.Contains(rest, []byte("websocket frame")) || bytes.Contains(rest, []byte(reverse(b.token))) {
		t.Errorf("after a leak: %q", rest)
	}
	b.until("websocket frame")
}

// TestReflectionThroughTheSideDoor has upstreams that tell a credential back
// later: on a route that gets none, compressed, or in parts.
func TestReflectionThroughTheSideDoor(t *testing.T) {
	var kept string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header.Get("Authorization"); auth != "" {
			kept = auth
		}
		if r.URL.Path == "/v2/gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			fmt.Fprint(z, kept)
			z.Close()
			return
		}
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader(kept))
	})
	b := prepare(t, h)
	b.write("egress.yaml", b.egressYAML(fmt.Sprintf("  - {host: 'api.ok.test:%d', paths: ['/v2/*']}\n", b.origin.Port())))
	b.run()
	for _, path := range []string{"/v1/x", "/v2/gzip"} {
		if status, body := b.get(b.url("api.ok.test", path)); status != 200 || strings.Contains(body, b.token) || !strings.Contains(body, "[redacted:") {
			t.Errorf("%s: status %d, %d bytes, the token among them: %v", path, status, len(body), strings.Contains(body, b.token))
		}
	}
	var parts strings.Builder
	for at := 0; at < 80; at += 8 {
		_, body := b.get(b.url("api.ok.test", "/v1/x"), func(r *http.Request) { r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+7)) })
		parts.WriteString(body)
	}
	if strings.Contains(parts.String(), b.token) {
		t.Error("the token came back in parts")
	}
}

// TestReplace has a route on which the agent writes a placeholder: what
// stands beside it is the agent's own, and is scanned.
func TestReplace(t *testing.T) {
	b := prepare(t, nil)
	b.write("egress.yaml", strings.Replace(b.egressYAML(""), "{type: bearer, slot: EGRESS_TOKEN_0}", "{type: replace, placeholder: PLACEHOLDER1, slot: EGRESS_TOKEN_0, in: [headers, query]}", 1))
	b.run()
	leak := lab.Token()
	for _, c := range []struct {
		name, path, header string
		want               int
	}{
		{"in the query", "/v1/x?a=PLACEHOLDER1", "", 200},
		{"in a header", "/v1/x", "key PLACEHOLDER1", 200},
		{"a leak in another parameter", "/v1/x?a=PLACEHOLDER1&b=" + leak, "", 403},
		{"a leak in the same parameter", "/v1/x?a=PLACEHOLDER1" + leak, "", 403},
		{"a leak in the same header", "/v1/x", "PLACEHOLDER1 " + leak, 403},
	} {
		before := len(b.origin.Seen())
		status, _ := b.get(b.url("api.ok.test", c.path), func(r *http.Request) {
			if c.header != "" {
				r.Header.Set("X-Key", c.header)
			}
		})
		seen := b.origin.Seen()[before:]
		if status != c.want || (len(seen) > 0) != (c.want == 200) {
			t.Errorf("%s: status %d, want %d", c.name, status, c.want)
		}
		if len(seen) > 0 && !strings.Contains(seen[0].URI+seen[0].Header.Get("X-Key"), b.token) {
			t.Errorf("%s: the value is not where the placeholder was", c.name)
		}
	}
	if status, body := b.get(b.url("a.cdn.test", "/?x=PLACEHOLDER1")); status != 403 || !strings.Contains(body, "tripwire") {
		t.Errorf("a placeholder that goes astray: %d %s", status, body)
	}
}

// TestOddCarriers has places in which a request can hold a secret without
// anybody looking there.
func TestOddCarriers(t *testing.T) {
	b := prepare(t, nil)
	b.token = fmt.Sprintf("%x", lab.Token()) // a name of a field loses its case
	b.run()
	for name, change := range map[string]func(*http.Request){
		"the method":            func(r *http.Request) { r.Method = lab.Token() },
		"a header's name":       func(r *http.Request) { r.Header.Set(b.token, "1") },
		"a part of such a name": func(r *http.Request) { r.Header.Set("x-"+b.token, "1") },
	} {
		before := len(b.origin.Seen())
		status, body := b.get(b.url("api.ok.test", "/v1/x"), change)
		if status != 403 || len(b.origin.Seen()) != before {
			t.Errorf("%s: status %d %s", name, status, body)
		}
	}
}
