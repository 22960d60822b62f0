package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"airlock/internal/bundle"
)

// TestHeads has messages that parsers read differently, through the whole
// chain: on the port itself, and inside a tunnel.
func TestHeads(t *testing.T) { start(t, nil).atBothDoors(heads) }

func heads(t *testing.T, b *running) {
	ok := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	onThePort := map[string]string{bundle.Egress: "http://_egress.local/", bundle.Pipelock: "http://" + ok + "/v1/x"}[b.door]
	chunked := "Transfer-Encoding: chunked\r\n\r\n"
	for _, c := range []struct {
		name, rest string // behind the Host field
		want       string
	}{
		{"nothing odd", "Content-Length: 5\r\n\r\nhello", "200"},
		{"chunks", chunked + "5\r\nhello\r\n0\r\n\r\n", "200"},
		{"chunks with a short extension", chunked + "5;a=b\r\nhello\r\n0\r\n\r\n", "200"},
		{"length and coding", "Content-Length: 5\r\n" + chunked + "0\r\n\r\n", "400"},
		{"coding and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400"},
		{"two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "400"},
		{"two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "400"},
		{"a sign", "Content-Length: +5\r\n\r\nhello", "400"},
		{"two spaces behind the colon", "Content-Length:  5\r\n\r\nhello", "200"},
		{"a list", "Content-Length: 5,5\r\n\r\nhello", "400"},
		{"another coding", "Transfer-Encoding: gzip\r\n\r\n", "400"},
		{"xchunked", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"},
		{"chunked twice", "Transfer-Encoding: chunked\r\n" + chunked + "0\r\n\r\n", "400"},
		{"a folded field", "X: a\r\n b\r\n\r\n", "400"},
		{"a folded coding", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "400"},
		{"LF alone", "X: a\n\r\n", "400"},
		{"LF alone, and another field", "X: a\nContent-Length: 5\r\n\r\nhello", "400"},
		{"CR alone", "X: a\rb\r\n\r\n", "400"},
		{"NUL", "X: a\x00b\r\n\r\n", "400"},
		{"a control byte", "X: a\x01b\r\n\r\n", "400"},
		{"a space before the colon", "Content-Length : 5\r\n\r\nhello", "400"},
		{"a space in a name", "X Y: a\r\n\r\n", "400"},
		{"two hosts", "Host: " + ok + "\r\n\r\n", "400"},
		{"a chunk in 0x", chunked + "0x5\r\nhello\r\n0\r\n\r\n", "400"},
		{"a chunk with a sign", chunked + "+5\r\nhello\r\n0\r\n\r\n", "400"},
		{"an extension without end", chunked + "5;" + strings.Repeat("a", 2<<10) + "\r\nhello\r\n0\r\n\r\n", "400"},
		{"a second chunk that is none", chunked + "5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n", "400"},
		{"a trailer with a length", chunked + "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n", "400"},
		{"many fields", strings.Repeat("X: a\r\n", 10000) + "\r\n", "431"},
		{"a large header", "X: " + strings.Repeat("a", 4<<20) + "\r\n\r\n", "431"},
	} {
		for _, way := range []struct {
			name, line string
			open       func() net.Conn
		}{
			{"in a tunnel", "POST /v1/x HTTP/1.1\r\n", func() net.Conn {
				conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
				must(t, err)
				return conn
			}},
			{"on the port", "POST " + onThePort + " HTTP/1.1\r\n", b.dial},
		} {
			if way.name == "on the port" && b.door == bundle.Pipelock && c.want == "200" {
				continue // it would go on to the origin, which speaks no plain HTTP
			}
			if way.name == "on the port" && strings.HasPrefix(c.rest, chunked) && !strings.HasPrefix(c.rest, chunked+"0\r\n") {
				continue // answered before its body is looked at
			}
			t.Run(c.name+", "+way.name, func(t *testing.T) {
				seen, dials := len(b.origin.Seen()), b.origin.Dials()
				answer := raw(t, way.open(), way.line+"Host: "+ok+"\r\n"+c.rest, c.want != "200")
				if !strings.HasPrefix(answer, "HTTP/1.1 "+c.want+" ") {
					t.Errorf("%.300q, want %s", answer, c.want)
				}
				if c.want == "200" {
					return
				}
				if !strings.Contains(answer, "Connection: close\r\n") || strings.Count(answer, "HTTP/1.1 ") != 1 {
					t.Errorf("the connection goes on: %.300q", answer)
				}
				if len(b.origin.Seen()) != seen || b.origin.Dials() != dials {
					t.Error("the origin was reached")
				}
			})
		}
	}
	for name, text := range map[string]string{
		"two spaces":        "GET  /v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n",
		"a tab":             "GET\t/v1/x HTTP/1.1\r\nHost: " + ok + "\r\n\r\n",
		"no host":           "GET /v1/x HTTP/1.1\r\n\r\n",
		"another version":   "GET /v1/x HTTP/1.2\r\nHost: " + ok + "\r\n\r\n",
		"only LF":           "GET /v1/x HTTP/1.1\nHost: " + ok + "\n\n",
		"a long line":       "GET /v1/" + strings.Repeat("x", 100<<10) + " HTTP/1.1\r\nHost: " + ok + "\r\n\r\n",
		"a coding of old":   "POST /v1/x HTTP/1.0\r\nHost: " + ok + "\r\n" + chunked + "0\r\n\r\n",
		"HTTP/2 in a guise": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]string{"another version": "505", "HTTP/2 in a guise": "505", "a long line": "414"}[name]
			seen := len(b.origin.Seen())
			conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
			must(t, err)
			for _, c := range []net.Conn{conn, b.dial()} {
				if answer := raw(t, c, text, true); !strings.HasPrefix(answer, "HTTP/1.1 "+cmp.Or(want, "400")+" ") || !strings.Contains(answer, "Connection: close\r\n") {
					t.Errorf("%.300q", answer)
				}
			}
			if len(b.origin.Seen()) != seen {
				t.Error("the origin saw it")
			}
		})
	}
	t.Run("the first of two is intact", func(t *testing.T) {
		seen := len(b.origin.Seen())
		conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
		must(t, err)
		good := "GET /v1/first HTTP/1.1\r\nHost: " + ok + "\r\n"
		answer := raw(t, conn, good+"\r\n"+good+"X : a\r\n\r\n"+good+"\r\n", true)
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") || strings.Count(answer, "HTTP/1.1 ") != 2 || !strings.Contains(answer, "HTTP/1.1 400 ") {
			t.Errorf("%q", answer)
		}
		if got := len(b.origin.Seen()) - seen; got != 1 {
			t.Errorf("the origin saw %d requests", got)
		}
	})
	t.Run("a chunk that goes wrong when the head has passed", func(t *testing.T) {
		seen, dials := len(b.origin.Seen()), b.origin.Dials()
		conn, err := b.tunnel(ok, "api.ok.test", "http/1.1")
		must(t, err)
		_, err = io.WriteString(conn, "POST /v1/x HTTP/1.1\r\nHost: "+ok+"\r\nExpect: 100-continue\r\n"+chunked)
		must(t, err)
		if head, err := readHead(conn); err != nil || !strings.Contains(head, " 100 ") {
			t.Fatalf("%q, %v", head, err)
		}
		answer := raw(t, conn, "5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n", true)
		answer = strings.TrimPrefix(answer, "HTTP/1.1 100 Continue\r\n\r\n") // each hop may say so
		if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, "Connection: close\r\n") || strings.Count(answer, "HTTP/1.1 ") != 1 {
			t.Errorf("%q", answer)
		}
		if len(b.origin.Seen()) != seen || b.origin.Dials() != dials {
			t.Error("the origin was reached")
		}
	})
	t.Run("HTTP/1 where HTTP/2 was agreed on", func(t *testing.T) {
		conn, err := b.tunnel(ok, "api.ok.test", "h2")
		must(t, err)
		if answer := raw(t, conn, "GET /v1/x HTTP/1.1\r\nHost: "+ok+"\n\n", true); strings.Contains(answer, " 200 ") {
			t.Errorf("%q", answer)
		}
	})
}

// raw sends text, and reads what comes back: all of it, or the first line.
func raw(t *testing.T, c net.Conn, text string, all bool) string {
	t.Helper()
	defer c.Close()
	go func() { _, _ = io.WriteString(c, text) }() // the answer may come before the end
	if all {
		answer, err := io.ReadAll(c)
		if err != nil {
			t.Errorf("the connection did not end well: %v", err)
		}
		return string(answer)
	}
	line := make([]byte, 64)
	n, err := io.ReadAtLeast(c, line, 13)
	must(t, err)
	return string(line[:n])
}
