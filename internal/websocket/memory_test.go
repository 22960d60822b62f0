package websocket

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
)

// half is a connection that takes everything and gives nothing.
type half struct{ io.Reader }

func (half) Write(p []byte) (int, error) { return len(p), nil }
func (half) Close() error                { return nil }

func idle(t *testing.T) {
	t.Helper()
	if !free.TryAcquire(heldBytes) {
		t.Fatal("memory is held for nobody")
	}
	free.Release(heldBytes)
}

// TestFramesAreBounded: connections that send long frames and never end them
// have their memory, and one too many fails. What is closed gives it back.
func TestFramesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := frame(Binary, []byte{1, 2, 3, 4}, string(make([]byte, 8<<20)))
		see := func(Frame) error { return nil }
		var open []io.ReadWriteCloser
		var err error
		for range 100 {
			c := Conn(half{bytes.NewReader(nil)}, nil, NewInspector(Client, see))
			open = append(open, c)
			if _, err = c.Write(long[:len(long)-1]); err != nil {
				break
			}
		}
		if n := len(open); !errors.Is(err, ErrBusy) || n < 3 || n > 5 {
			t.Fatalf("%d frames of 8 MiB are held: %v", n, err)
		}
		short := Conn(half{}, nil, NewInspector(Client, see))
		if _, err := short.Write(frame(Text, []byte{1, 2, 3, 4}, "hello")); err != nil {
			t.Errorf("a short frame: %v", err)
		}
		for _, c := range open {
			c.Close()
		}
		idle(t)
		again := Conn(half{}, nil, NewInspector(Client, see))
		for range 3 {
			if _, err := again.Write(long); err != nil {
				t.Errorf("after the others have left: %v", err)
			}
			idle(t) // a connection that is idle holds nothing
		}
	})
}

// TestFramesThatAreRead: the same for what comes, which is held until it has
// been read.
func TestFramesThatAreRead(t *testing.T) {
	flow := frame(Binary, nil, string(make([]byte, 8<<20)))
	c := Conn(half{io.MultiReader(bytes.NewReader(flow), bytes.NewReader(flow))}, NewInspector(Server, func(Frame) error { return nil }), nil)
	got, err := io.ReadAll(c)
	if err != nil || len(got) != 2*len(flow) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	idle(t)
}
