package egress

import (
	"bytes"
	"testing"

	"airlock/internal/websocket"
)

// wsFrame is a frame as a server sends it.
func wsFrame(opcode byte, payload string) []byte {
	return append([]byte{0x80 | opcode, byte(len(payload))}, payload...)
}

func TestWebSocketFramesAreRedacted(t *testing.T) {
	r := testRedactor()
	marker := "[redacted:EGRESS_TOKEN_0]"[:len(value)]
	var bytewise, half [][]byte
	for _, c := range value {
		bytewise = append(bytewise, wsFrame(websocket.Text, string(c)))
	}
	half = [][]byte{wsFrame(websocket.Text, "a "+value[:10]), wsFrame(websocket.Ping, "p"), wsFrame(websocket.Text, value[10:]+" b")}
	for name, c := range map[string]struct {
		frames [][]byte
		want   []string // payloads; "…": nothing yet
	}{
		"in one":            {[][]byte{wsFrame(websocket.Text, "a "+value+" b")}, []string{"a " + marker + " b"}},
		"in halves":         {half, []string{"…", "…", "a " + marker[:10] + "|p|" + marker[10:] + " b"}},
		"no more than that": {[][]byte{wsFrame(websocket.Text, value[:3]), wsFrame(websocket.Text, "x")}, []string{value[:3], "x"}},
		"a beginning":       {[][]byte{wsFrame(websocket.Text, value[:6]), wsFrame(websocket.Text, "x")}, []string{"…", value[:6] + "|x"}},
		"the end":           {[][]byte{wsFrame(websocket.Text, value[:6]), wsFrame(websocket.Close, "")}, []string{"…", value[:6] + "|"}},
	} {
		f := &frames{now: func() *redactor { return r }}
		in := websocket.NewInspector(websocket.Server, f.inspect)
		for i, frame := range c.frames {
			out, err := in.Feed(frame)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := payloads(out); got != c.want[i] {
				t.Errorf("%s, frame %d: %q, want %q", name, i, got, c.want[i])
			}
		}
	}
	f := &frames{now: func() *redactor { return r }}
	in := websocket.NewInspector(websocket.Server, f.inspect)
	var all []byte
	for _, frame := range append(bytewise, wsFrame(websocket.Text, "!")) {
		out, err := in.Feed(frame)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, out...)
	}
	if text := bytes.ReplaceAll([]byte(payloads(all)), []byte("|"), nil); len(text) != len(value)+1 || bytes.Contains(text, []byte(value[:4])) || bytes.Contains(text, []byte(value[4:8])) {
		t.Errorf("byte by byte: %q", text)
	}
	if _, err := in.Feed(wsFrame(websocket.Close, "")); err != nil {
		t.Error(err)
	}
	if _, err := in.Feed(wsFrame(websocket.Text, "more")); err == nil {
		t.Error("expected a frame after a Close to be refused")
	}
}

func payloads(raw []byte) string {
	if len(raw) == 0 {
		return "…"
	}
	var all [][]byte
	for len(raw) > 0 {
		n := int(raw[1])
		all = append(all, raw[2:2+n])
		raw = raw[2+n:]
	}
	return string(bytes.Join(all, []byte("|")))
}
