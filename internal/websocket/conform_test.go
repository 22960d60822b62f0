package websocket

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// part is a frame that is not the last of its message.
func part(opcode byte, mask []byte, payload string) []byte {
	f := frame(opcode, mask, payload)
	f[0] &^= 0x80
	return f
}

func joined(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// TestWhatRFC6455Forbids has a flow for each rule, of a client and of a server.
func TestWhatRFC6455Forbids(t *testing.T) {
	for _, from := range []Side{Client, Server} {
		mask, unmasked := []byte{1, 2, 3, 4}, ErrProtocol
		if from == Server {
			mask, unmasked = nil, nil
		}
		masked := byte(0)
		if from == Client {
			masked = 0x80
		}
		long := func(head ...byte) []byte {
			head[1] |= masked
			if from == Client {
				head = append(head, mask...)
			}
			return append(head, make([]byte, 200)...)
		}
		for _, c := range []struct {
			name string
			flow []byte
			want error // nil: it passes
			read bool  // seen only where payloads are read
		}{
			{"messages", joined(frame(Text, mask, "a"), frame(Binary, mask, "\xff"), frame(Ping, mask, "p"), frame(Pong, mask, ""), frame(Close, mask, "\x03\xe8bye")), nil, false},
			{"parts, and a ping between them", joined(part(Text, mask, "a"), frame(Ping, mask, ""), part(Continuation, mask, ""), frame(Continuation, mask, "b"), frame(Text, mask, "c")), nil, false},
			{"a character over three parts", joined(part(Text, mask, "\xf0\x9f"), part(Continuation, mask, "\x98"), frame(Continuation, mask, "\x80")), nil, false},
			{"an empty close", frame(Close, mask, ""), nil, false},
			{"a close with a status of its own", frame(Close, mask, "\x0f\xa0"), nil, false},
			{"no mask", frame(Text, nil, "a"), unmasked, false},
			{"an extension", append([]byte{0xc1}, frame(Text, mask, "a")[1:]...), ErrProtocol, false},
			{"opcode 3", frame(3, mask, "a"), ErrProtocol, false},
			{"opcode 7", frame(7, mask, "a"), ErrProtocol, false},
			{"opcode 11", frame(11, mask, "a"), ErrProtocol, false},
			{"opcode 15", frame(15, mask, "a"), ErrProtocol, false},
			{"a ping in parts", part(Ping, mask, "a"), ErrProtocol, false},
			{"a long ping", long(0x80|Ping, 126, 0, 200), ErrProtocol, false},
			{"a length of two bytes for less", long(0x80|Binary, 126, 0, 5), ErrProtocol, false},
			{"a length of eight bytes for less", long(0x80|Binary, 127, 0, 0, 0, 0, 0, 0, 0, 200), ErrProtocol, false},
			{"a length of 64 bits", long(0x80|Binary, 127, 0x80, 0, 0, 0, 0, 0, 0, 0), ErrProtocol, false},
			{"a continuation of nothing", frame(Continuation, mask, "a"), ErrProtocol, false},
			{"a continuation behind the last", joined(frame(Text, mask, "a"), frame(Continuation, mask, "a")), ErrProtocol, false},
			{"a message in another", joined(part(Text, mask, "a"), frame(Text, mask, "b")), ErrProtocol, false},
			{"a frame behind a close", joined(frame(Close, mask, "\x03\xe8"), frame(Text, mask, "b")), ErrProtocol, false},
			{"a ping behind a close", joined(frame(Close, mask, "\x03\xe8"), frame(Ping, mask, "")), ErrProtocol, false},
			{"half a status", frame(Close, mask, "\x03"), ErrProtocol, false},
			{"status 1005", frame(Close, mask, "\x03\xed"), ErrProtocol, true},
			{"status 1006", frame(Close, mask, "\x03\xee"), ErrProtocol, true},
			{"status 0", frame(Close, mask, "\x00\x00"), ErrProtocol, true},
			{"status 5000", frame(Close, mask, "\x13\x88"), ErrProtocol, true},
			{"a reason that is no UTF-8", frame(Close, mask, "\x03\xe8\xff"), ErrEncoding, true},
			{"a text that is no UTF-8", frame(Text, mask, "a\xff"), ErrEncoding, true},
			{"a text that ends in a character", frame(Text, mask, "a\xc3"), ErrEncoding, true},
			{"a character that goes on wrong", joined(part(Text, mask, "\xc3"), frame(Continuation, mask, "x")), ErrEncoding, true},
			{"a surrogate", frame(Text, mask, "\xed\xa0\x80"), ErrEncoding, true},
		} {
			for _, step := range []int{1, 3, len(c.flow)} {
				i := NewInspector(from, func(Frame) error { return nil })
				var out []byte
				var err error
				for rest := c.flow; len(rest) > 0 && err == nil; {
					n := min(step, len(rest))
					var got []byte
					got, err = i.Feed(rest[:n])
					out, rest = append(out, got...), rest[n:]
				}
				if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(out, c.flow) || !bytes.HasPrefix(c.flow, out) {
					t.Errorf("%s, client %v, step %d: %v, want %v; %q went on", c.name, from, step, err, c.want, out)
				}
			}
			want := c.want
			if c.read {
				want = nil
			}
			if err := unread(from, c.flow); !errors.Is(err, want) {
				t.Errorf("%s, client %v, unread: %v, want %v", c.name, from, err, want)
			}
		}
	}
}

// unread has a flow pass a connection without inspectors.
func unread(from Side, flow []byte) error {
	c := Conn(half{bytes.NewReader(flow)}, nil, nil)
	if from == Client {
		_, err := c.Write(flow)
		return err
	}
	_, err := io.ReadAll(c)
	return err
}
