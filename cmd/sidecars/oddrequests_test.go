package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// framesOfHTTP2 sends one request with just these fields, and reads the status of
// its answer; 0: the stream or the connection was ended.
func framesOfHTTP2(t *testing.T, c net.Conn, fields [][2]string, body string, trailer [][2]string) (status string, text string) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := io.WriteString(c, http2.ClientPreface)
	must(t, err)
	f := http2.NewFramer(c, c)
	must(t, f.WriteSettings())
	var block bytes.Buffer
	encode := func(fields [][2]string) []byte {
		block.Reset()
		enc := hpack.NewEncoder(&block)
		enc.SetMaxDynamicTableSizeLimit(0)
		for _, p := range fields {
			must(t, enc.WriteField(hpack.HeaderField{Name: p[0], Value: p[1]}))
		}
		return block.Bytes()
	}
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(fields), EndHeaders: true, EndStream: body == "" && trailer == nil}))
	if body != "" {
		must(t, f.WriteData(1, trailer == nil, []byte(body)))
	}
	if trailer != nil {
		must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailer), EndHeaders: true, EndStream: true}))
	}
	dec := hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "cut", err.Error()
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			fields, err := dec.DecodeFull(frame.HeaderBlockFragment())
			must(t, err)
			for _, p := range fields {
				if p.Name == ":status" {
					status = p.Value
				}
			}
			if frame.StreamEnded() {
				return status, text
			}
		case *http2.DataFrame:
			text += string(frame.Data())
			if frame.StreamEnded() {
				return status, text
			}
		case *http2.RSTStreamFrame:
			return "reset", frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return "cut", frame.ErrCode.String()
		}
	}
}

// TestOddHTTP2: what HTTP/1.1 has no way to say, or what is refused there, is refused
// in HTTP/2 as well, and nothing of it reaches the origin.
func TestOddHTTP2(t *testing.T) { start(t, nil).atBothDoors(oddHTTP2) }

func oddHTTP2(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	base := func(path string, more ...[2]string) [][2]string {
		return append([][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", ok}, {":path", path}}, more...)
	}
	for _, c := range []struct {
		name    string
		fields  [][2]string
		body    string
		trailer [][2]string
		want    string // net/http resets some streams by itself
		why     string
	}{
		{"nothing odd", base("/v1/x", [2]string{"content-length", "5"}), "hello", nil, "200", ""},
		{"the same host", base("/v1/x", [2]string{"host", ok}), "", nil, "200", ""},
		{"a trailer", base("/v1/x", [2]string{"trailer", "x-note"}), "hello", [][2]string{{"x-note", "a"}}, "200", ""},
		{"two lengths", base("/v1/x", [2]string{"content-length", "5"}, [2]string{"content-length", "6"}), "hello", nil, "400", "two Content-Length"},
		{"two equal lengths", base("/v1/x", [2]string{"content-length", "5"}, [2]string{"content-length", "5"}), "hello", nil, "400", "two Content-Length"},
		{"a length with a sign", base("/v1/x", [2]string{"content-length", "+5"}), "hello", nil, "400 or reset", ""},
		{"another host", base("/v1/x", [2]string{"host", "evil.test"}), "", nil, "400", "Host field"},
		{"two hosts", base("/v1/x", [2]string{"host", ok}, [2]string{"host", ok}), "", nil, "400", "Host field"},
		{"an absolute path", base("https://evil.test/v1/x"), "", nil, "400", ":path"},
		{"its own absolute path", base("https://" + ok + "/v1/x"), "", nil, "400", ":path"},
		{"UTF-8 in the query", base("/v1/x?q=\u00e9"), "", nil, "400", "percent-encoded"},
		{"UTF-8 in the path", base("/v1/\u00e9"), "", nil, "400", "percent-encoded"},
		{"a clone of a credential's field", base("/v1/x", [2]string{"authorization_", "x"}), "", nil, "400", "some servers read"},
		{"a clone of a framing field", base("/v1/x", [2]string{"content_length", "5"}), "", nil, "400", "some servers read"},
		{"a credential in the trailer", base("/v1/x", [2]string{"trailer", "authorization"}), "hello", [][2]string{{"authorization", "x"}}, "400 or reset", ""},
		{"a field of ours in the trailer", base("/v1/x", [2]string{"trailer", "airlock-injected"}), "hello", [][2]string{{"airlock-injected", "x"}}, "400", "trailer"},
		{"TRACE", append([][2]string{{":method", "TRACE"}}, base("/v1/x")[1:]...), "", nil, "405", "TRACE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := len(b.origin.Seen())
			conn, err := b.tunnel(ok, "api.ok.test", "h2")
			must(t, err)
			status, text := framesOfHTTP2(t, conn, c.fields, c.body, c.trailer)
			if !strings.Contains(c.want, status) || !strings.Contains(text, c.why) {
				t.Errorf("expected %s and %q, got %s and %s", c.want, c.why, status, text)
			}
			if after := len(b.origin.Seen()); (after > seen) != (c.want == "200") {
				t.Errorf("the origin saw %d requests", after-seen)
			}
		})
	}
}

// TestOddFields: TRACE, the daemons' own fields, and spellings of a credential's.
func TestOddFields(t *testing.T) {
	b := withRoutes(t, nil, `
  - {host: 'api.ok.test:PORT', auth: {type: header, name: X-Api-Key, slot: EGRESS_TOKEN_0}}
`, "")
	b.run()
	b.atBothDoors(func(t *testing.T, b *running) {
		ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
		for _, c := range []struct{ name, request, want, why string }{
			{"TRACE", "TRACE /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nConnection: close\r\n\r\n", "405", "TRACE"},
			{"TRACK", "TRACK /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nConnection: close\r\n\r\n", "405", "TRACE"},
			{"UTF-8 in a query", "GET /v1/x?q=\u00e9 HTTP/1.1\r\nHost: " + ok + "\r\n\r\n", "400", "percent-encoded"},
			{"a credential with an underscore", "GET /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nAuthorization_: x\r\n\r\n", "400", "some servers read"},
			{"a trailer of ours", "POST /v1/x HTTP/1.1\r\nHost: " + ok + "\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAirlock-Injected: X-Note\r\n\r\n", "400", "trailer"},
		} {
			conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
			must(t, err)
			answer := raw(t, conn, c.request, true)
			if !strings.HasPrefix(answer, "HTTP/1.1 "+c.want+" ") || !strings.Contains(answer, c.why) || c.want == "405" && !strings.Contains(answer, "\r\nAllow: GET") {
				t.Errorf("%s: expected %s and %q, got %s", c.name, c.want, c.why, answer)
			}
		}
		conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
		must(t, err)
		before := len(b.origin.Seen())
		status, text := say(t, conn, "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\r\nAirlock-Note: x\r\nairlock-hop: y\r\nX_Api_Key_: z\r\nX-Fine: 1\r\n\r\n")
		if status != 200 {
			t.Fatalf("%d %s", status, text)
		}
		seen := b.origin.Seen()[before]
		for name := range seen.Header {
			if strings.HasPrefix(name, "Airlock-") || b.door == bundle.Egress && strings.Contains(name, "_") {
				t.Errorf("the origin got %s", name)
			}
		}
		if seen.Header.Get("X-Fine") != "1" {
			t.Errorf("expected the other fields, got %v", seen.Header)
		}
	})
	if n := strings.Count(b.audits(), `"method":"TRACE"`); n < 2 {
		t.Errorf("expected the refused TRACE in each audit, found %d", n)
	}
}

// TestMethodInAForm: a form that has a framework take another method for its own is
// judged by that method.
func TestMethodInAForm(t *testing.T) {
	b := withRoutes(t, nil, "\n  - {host: 'api.ok.test:PORT', methods: [GET, POST]}\n  - {host: 'a.cdn.test:PORT'}\n", "")
	b.run()
	form := func(pairs ...string) (string, string) {
		var text bytes.Buffer
		w := multipart.NewWriter(&text)
		for i := 0; i < len(pairs); i += 2 {
			must(t, w.WriteField(pairs[i], pairs[i+1]))
		}
		must(t, w.Close())
		return w.FormDataContentType(), text.String()
	}
	const urlencoded = "application/x-www-form-urlencoded"
	long := "a=" + strings.Repeat("x", 300<<10)
	type body struct{ kind, text string }
	multi := func(pairs ...string) body { kind, text := form(pairs...); return body{kind, text} }
	for _, c := range []struct {
		name string
		host string
		body body
		want int
	}{
		{"no such parameter", "api.ok.test", body{urlencoded, "method=DELETE&a_method=DELETE&x=_method=DELETE"}, 200},
		{"an allowed method", "api.ok.test", body{urlencoded, "_method=post&a=b"}, 200},
		{"a route of any method", "a.cdn.test", body{urlencoded, "_method=DELETE"}, 200},
		{"another type", "api.ok.test", body{"text/plain", "_method=DELETE"}, 200},
		{"first", "api.ok.test", body{urlencoded, "_method=DELETE&a=b"}, 403},
		{"last", "api.ok.test", body{urlencoded, "a=b&_method=put"}, 403},
		{"encoded", "api.ok.test", body{urlencoded + "; charset=utf-8", "a=b&%5Fmetho%64=%44ELETE"}, 403},
		{"as PHP reads it", "api.ok.test", body{urlencoded, "a=b&.method=DELETE"}, 403},
		{"behind much else", "api.ok.test", body{urlencoded, long + "&_method=DELETE"}, 403},
		{"a form in parts without it", "api.ok.test", multi("a", "_method", "b", "DELETE"), 200},
		{"an allowed one in parts", "api.ok.test", multi("a", "b", "_method", "POST"), 200},
		{"in parts", "api.ok.test", multi("a", "b", "_method", "DELETE", "c", "d"), 403},
		{"in parts, behind much else", "api.ok.test", multi("a", strings.Repeat("x", 300<<10), "_method", "DELETE"), 403},
	} {
		before := len(b.origin.Seen())
		status, text := b.send(b.client(b.egress), http.MethodPost, b.url(c.host, "/v1/x"), strings.NewReader(c.body.text), func(r *http.Request) { r.Header.Set("Content-Type", c.body.kind) })
		whole := 0
		for _, s := range b.origin.Seen()[before:] {
			if len(s.Body) == len(c.body.text) {
				whole++
			}
		}
		if status != c.want || whole != map[bool]int{true: 1, false: 0}[c.want == 200] || c.want == 403 && !strings.Contains(text, "_method") {
			t.Errorf("%s: expected %d, got %d %s; the origin has it %d times", c.name, c.want, status, text, whole)
		}
	}
}

// TestLFSOverHTTPS: downloads of Git LFS pass, an upload goes to git-gate.
func TestLFSOverHTTPS(t *testing.T) {
	b := withRoutes(t, nil, "\n  - {host: 'api.ok.test:PORT'}\n", "")
	b.run()
	const lfs = "application/vnd.git-lfs+json"
	upload := `{"operation":"upload","transfers":["basic"],"objects":[]}`
	for _, c := range []struct {
		name, path, kind, body string
		want                   int
	}{
		{"a download", "/o/r.git/info/lfs/objects/batch", lfs, `{"operation":"download","objects":[]}`, 200},
		{"another API", "/v3/objects/batch", "application/json", upload, 200},
		{"an upload", "/o/r.git/info/lfs/objects/batch", lfs, upload, 403},
		{"of another type", "/o/r.git/info/lfs/objects/batch", "application/json", upload, 403},
		{"at an own endpoint", "/api/objects/batch", lfs, upload, 403},
		{"encoded", "/o/r.git/info/lfs/objects/b%61tch/", lfs, upload, 403},
		{"in other letters", "/o/r.git/info/LFS/objects/Batch", lfs, `{"OPERATION":"upload"}`, 403},
		{"twice", "/o/r.git/info/lfs/objects/batch", lfs, `{"operation":"download","operation":"upload"}`, 403},
		{"twice, the other way", "/o/r.git/info/lfs/objects/batch", lfs, `{"operation":"upload","operation":"download"}`, 403},
		{"no JSON", "/o/r.git/info/lfs/objects/batch", lfs, "operation=upload", 403},
		{"of the first API", "/o/r.git/info/lfs/objects", lfs, `{"oid":"a","size":1}`, 403},
	} {
		before := len(b.origin.Seen())
		status, text := b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", c.path), strings.NewReader(c.body), func(r *http.Request) { r.Header.Set("Content-Type", c.kind) })
		if seen := len(b.origin.Seen()) - before; status != c.want || seen != map[bool]int{true: 1, false: 0}[c.want == 200] || c.want == 403 && !strings.Contains(text, "git-gate") {
			t.Errorf("%s: expected %d, got %d %s; the origin saw %d", c.name, c.want, status, text, seen)
		}
	}
}

// TestWebSocketOutOfOrder: frames that RFC 6455 forbids end the connection with a
// reason, at both doors.
func TestWebSocketOutOfOrder(t *testing.T) {
	got := make(chan string, 100)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		if frames, err := url.QueryUnescape(r.URL.RawQuery); err == nil {
			_, _ = io.WriteString(c, frames)
		}
		all, _ := io.ReadAll(rw)
		got <- string(all)
	})
	start(t, h).atBothDoors(func(t *testing.T, b *running) {
		ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
		for _, c := range []struct{ name, client, server, want string }{
			{"not masked", "\x81\x02hi", "", "\x03\xea"},
			{"a reserved opcode", "\x83\x80\x00\x00\x00\x00", "", "\x03\xea"},
			{"a ping in parts", "\x09\x80\x00\x00\x00\x00", "", "\x03\xea"},
			{"a continuation of nothing", "\x80\x80\x00\x00\x00\x00", "", "\x03\xea"},
			{"a text that is no UTF-8", "\x81\x81\x00\x00\x00\x00\xff", "", "\x03\xef"},
			{"from the server", "", "\x83\x00", "\x03\xea"},
		} {
			conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
			must(t, err)
			_, err = fmt.Fprintf(conn, "GET /v1/ws?%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
				url.QueryEscape(c.server), ok, base64.StdEncoding.EncodeToString([]byte(lab.Token()[4:20])))
			must(t, err)
			head, err := readHead(conn)
			must(t, err)
			if !strings.Contains(head, " 101 ") {
				t.Fatal(head)
			}
			_, err = io.WriteString(conn, c.client)
			must(t, err)
			rest := make([]byte, 4)
			if _, err := io.ReadFull(conn, rest); err != nil || rest[0] != 0x88 || string(rest[2:]) != c.want {
				t.Errorf("%s: expected a close frame with %x, got %x, %v", c.name, c.want, rest, err)
			}
			conn.Close()
			select {
			case all := <-got:
				if c.client != "" && strings.Contains(all, c.client) {
					t.Errorf("%s: the origin got %x", c.name, all)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: the origin's connection was not ended", c.name)
			}
		}
	})
}
