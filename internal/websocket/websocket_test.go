package websocket

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func frame(opcode byte, mask []byte, payload string) []byte {
	f := []byte{0x80 | opcode}
	masked := byte(0)
	if mask != nil {
		masked = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		f = append(f, masked|byte(n))
	case n < 1<<16:
		f = append(f, masked|126, byte(n>>8), byte(n))
	default:
		f = append(f, masked|127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	body := []byte(payload)
	if mask != nil {
		f = append(f, mask...)
		xor(body, mask)
	}
	return append(f, body...)
}

func TestFramesPassUnchangedAndAreSeen(t *testing.T) {
	payloads := []string{"", "hello", strings.Repeat("a", 126), strings.Repeat("b", 70_000)}
	for _, mask := range [][]byte{nil, {1, 2, 3, 4}} {
		var flow []byte
		for _, p := range payloads {
			flow = append(flow, frame(Text, mask, p)...)
		}
		for _, step := range []int{1, 3, 1000, len(flow)} {
			var seen []string
			i := NewInspector(Side(mask != nil), func(f Frame) error { seen = append(seen, string(f.Payload)); return nil })
			var out []byte
			for rest := flow; len(rest) > 0; {
				n := min(step, len(rest))
				got, err := i.Feed(rest[:n])
				if err != nil {
					t.Fatal(err)
				}
				out, rest = append(out, got...), rest[n:]
			}
			if !bytes.Equal(out, flow) || strings.Join(seen, "|") != strings.Join(payloads, "|") {
				t.Errorf("mask %v, step %d: %d bytes of %d, %d frames", mask, step, len(out), len(flow), len(seen))
			}
		}
	}
}

func TestInspectionMayChangeThePayload(t *testing.T) {
	i := NewInspector(Client, func(f Frame) error { copy(f.Payload, "HELLO"); return nil })
	out, err := i.Feed(frame(Text, []byte{9, 8, 7, 6}, "hello"))
	if err != nil || !bytes.Equal(out, frame(Text, []byte{9, 8, 7, 6}, "HELLO")) {
		t.Errorf("%q, %v", out, err)
	}
}

func TestRefusals(t *testing.T) {
	no := errors.New("no")
	for name, c := range map[string]struct {
		flow    []byte
		inspect func(Frame) error
		want    error
	}{
		"an extension":      {[]byte{0xc1, 0}, nil, ErrProtocol},
		"a frame too long":  {[]byte{0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0}, nil, ErrProtocol},
		"an objection":      {frame(Text, nil, "x"), func(Frame) error { return no }, no},
		"a panic is caught": {frame(Text, nil, "x"), func(Frame) error { panic("x") }, ErrProtocol},
	} {
		if out, err := NewInspector(Server, c.inspect).Feed(c.flow); !errors.Is(err, c.want) || out != nil {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

func FuzzFeed(f *testing.F) {
	f.Add(frame(Text, []byte{1, 2, 3, 4}, "hello"), uint8(2))
	f.Add([]byte{0x81, 126, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, flow []byte, step uint8) {
		i := NewInspector(Side(len(flow) > 1 && flow[1]&0x80 != 0), func(Frame) error { return nil })
		var out []byte
		for rest := flow; len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			got, err := i.Feed(rest[:n])
			if err != nil {
				return
			}
			out, rest = append(out, got...), rest[n:]
		}
		if !bytes.HasPrefix(flow, out) {
			t.Error("what went on is not what came")
		}
	})
}
