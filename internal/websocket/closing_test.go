package websocket

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"airlock/internal/lab"
)

// TestClosingForWhatTheServerSends: the client is told, and so is the server.
func TestClosingForWhatTheServerSends(t *testing.T) {
	conn, server := net.Pipe()
	asked := 0
	c := Closing(Conn(conn, NewInspector(Server, func(Frame) error { return nil }), nil), conn, func(err error) (int, string) {
		asked++
		if errors.Is(err, ErrProtocol) {
			return StatusProtocol, "no"
		}
		return 0, ""
	})
	heard := make(chan string, 1)
	go func() {
		_, _ = server.Write(append(frame(Text, nil, "hello"), 0xc1, 0))
		all, _ := io.ReadAll(server)
		heard <- string(all)
	}()
	time.AfterFunc(50*time.Millisecond, func() { _ = c.Close() })
	got, err := io.ReadAll(c)
	if err == nil || string(got) != string(CloseFrame(StatusProtocol, "no", false)) || asked != 1 {
		t.Errorf("%q, %v, asked %d times", got, err, asked)
	}
	if got := lab.Receive(t, heard, "the other side sends something"); got != string(CloseFrame(StatusProtocol, "", true)) {
		t.Errorf("the server heard %q", got)
	}
}

// TestClosingIsNotInTheWay of what ends by itself, and waits for no server
// that does not listen.
func TestClosingIsNotInTheWay(t *testing.T) {
	conn, server := net.Pipe()
	c := Closing(Conn(conn, nil, nil), conn, func(error) (int, string) { return 0, "" })
	go func() {
		_, _ = server.Write(frame(Text, nil, "hello"))
		_ = server.Close()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != string(frame(Text, nil, "hello")) {
		t.Errorf("%q, %v", got, err)
	}
	conn, server = net.Pipe() // to which nobody listens
	defer server.Close()
	no := errors.New("no")
	c = Closing(Conn(conn, nil, NewInspector(Client, func(Frame) error { return no })), conn, func(err error) (int, string) { return StatusPolicy, err.Error() })
	began := time.Now()
	if n, err := c.Write(frame(Text, []byte{1, 2, 3, 4}, "x")); n != 7 || err != nil || time.Since(began) > 5*closeWithin {
		t.Errorf("%d, %v, after %v", n, err, time.Since(began))
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err != nil || head[0] != 0x80|Close {
		t.Errorf("%x, %v", head, err)
	}
}
