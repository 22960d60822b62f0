package websocket

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestEdge(t *testing.T) {
	var flow []byte
	ends := map[int]bool{0: true}
	for _, mask := range [][]byte{nil, {1, 2, 3, 4}} {
		for _, size := range []int{0, 5, 125, 126, 70_000} {
			flow = append(flow, frame(Text, mask, strings.Repeat("x", size))...)
			ends[len(flow)] = true
		}
	}
	for _, step := range []int{1, 7, 1000, len(flow)} {
		var e Edge
		for at := 0; ; {
			if e.Between() != ends[at] {
				t.Fatalf("step %d, at %d: %v", step, at, e.Between())
			}
			if at == len(flow) {
				break
			}
			n := min(step, len(flow)-at)
			e.Feed(flow[at : at+n])
			at += n
		}
	}
}

func TestCloseFrame(t *testing.T) {
	for _, reason := range []string{"", "no", strings.Repeat("ü", 100)} {
		for _, masked := range []bool{false, true} {
			var got Frame
			i := NewInspector(Side(masked), func(f Frame) error { got = f; got.Payload = bytes.Clone(f.Payload); return nil })
			out, err := i.Feed(CloseFrame(StatusPolicy, reason, masked))
			text := string(got.Payload[2:])
			if err != nil || len(out) == 0 || got.Opcode != Close || !got.Final || len(got.Payload) > maxControl || got.Payload[0] != 0x03 || got.Payload[1] != 0xf0 ||
				!strings.HasPrefix(reason, text) || !utf8.ValidString(text) {
				t.Errorf("%q: %+v, %v", reason, got, err)
			}
		}
	}
}
