package pipelock

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// TestCloseFramesReachBothSides: both sides are told that it is over, and the agent why; what is
// half said by the origin is not mixed with it.
func TestCloseFramesReachBothSides(t *testing.T) {
	s := testScanner(t, "")
	frame := func(first byte, payload string) []byte { return append([]byte{first, byte(len(payload))}, payload...) }
	masked := func(first byte, payload string) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	for _, c := range []struct {
		name   string
		sends  []byte
		status string // two bytes
		why    string
		rule   string
	}{
		{"a token", masked(0x81, lab.Token()), "\x03\xf0", "websocket frame", "secret: github-pat"},
		{"no mask", frame(0x81, "hello"), "\x03\xea", "not masked", "websocket"},
		{"no UTF-8", masked(0x81, "\xff"), "\x03\xef", "UTF-8", "websocket"},
		{"an extension", []byte{0xc1, 0x80, 0, 0, 0, 0}, "\x03\xea", "extension", "websocket"},
	} {
		for _, half := range []bool{false, true} {
			conn, origin := net.Pipe()
			var reports []policy.Verdict
			told := func(v policy.Verdict) { reports = append(reports, v) }
			to := scanContext{host: host(t, "a.ok.test"), report: func(_ string, v policy.Verdict) error { told(v); return nil }}
			cc := websocket.Closing(websocket.Conn(conn, nil, s.frames(t.Context(), to)), conn, whyClosed(told))
			heard := make(chan string, 1)
			go func() {
				first := frame(0x81, "hello")
				if half {
					first = first[:3]
				}
				_, _ = origin.Write(first)
				all, _ := io.ReadAll(origin)
				heard <- string(all)
			}()
			buf := make([]byte, 200)
			n, err := cc.Read(buf)
			if err != nil || n == 0 {
				t.Fatal(n, err)
			}
			if n, err := cc.Write(c.sends); err != nil || n != len(c.sends) {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
			if n, err := cc.Write([]byte("more")); err != nil || n != 4 {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
			if got := lab.Receive(t, heard, "the other side sends something"); got != "\x88\x82\x00\x00\x00\x00"+c.status {
				t.Errorf("%s: the origin heard %q", c.name, got)
			}
			if !half {
				n, err := cc.Read(buf)
				if got := string(buf[:n]); err != nil || !strings.HasPrefix(got[2:], c.status) || got[0] != '\x88' || !strings.Contains(got, c.why) {
					t.Errorf("%s: the agent heard %q, %v", c.name, got, err)
				}
			}
			time.AfterFunc(10*time.Millisecond, func() { _ = cc.Close() })
			if n, err := cc.Read(buf); n != 0 || err == nil || errors.Is(err, io.ErrNoProgress) {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
			if len(reports) != 1 || reports[0].Rule != c.rule {
				t.Errorf("%s: %+v", c.name, reports)
			}
		}
	}
}
