package httpd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
)

func TestRefusal(t *testing.T) {
	w := httptest.NewRecorder()
	Forbid(w, "egress", policy.Denied("rule\n1", "be\"cause"), "https://a.test/<x>", AskAccess, false)
	if w.Code != 403 || w.Header().Get("Content-Type") != "application/json" || w.Header().Get(HeaderRule) != "rule?1" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if body := w.Body.String(); !strings.HasPrefix(body, `{"error":{"by":"egress","rule":"rule\n1","why":"be\"cause","url":`) || !strings.Contains(body, `"ask":"call the tool request_access`) {
		t.Error(body)
	}
}

// TestServeLosesNoRequest is the reason why Serve is more than Shutdown: a
// connection that is accepted before the end is served, even when its request
// comes after.
func TestServeLosesNoRequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") }), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, srv, &telling{l, accepted}, DrainOptions{Timeout: 10 * time.Second}) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lab.Receive(t, accepted, "the connection is accepted")
	cancel()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "served" {
		t.Errorf("%q, %v", body, err)
	}
	c.Close() // it may have been answered before the end: then it is idle
	if err := lab.Receive(t, ended, "what was started ends"); err != nil {
		t.Error(err)
	}
}

// telling says when a connection has been accepted.
type telling struct {
	net.Listener
	accepted chan struct{}
}

func (l *telling) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

// TestIdleConnectionsGetOneMoreAnswer: a server that is replaced does not hang
// up on a client that is about to send; it answers and asks it to close.
func TestIdleConnectionsGetOneMoreAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	closed := &closing{Listener: l, done: make(chan struct{})}
	srv := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") }), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	ending := make(chan struct{})
	go func() { ended <- Serve(ctx, srv, closed, DrainOptions{Timeout: 10 * time.Second, NoSuccessor: ending}) }()
	var clients [2]net.Conn
	for i := range clients {
		if clients[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer clients[i].Close()
		if exchange(t, clients[i]).Close {
			t.Error("asked to close before the end")
		}
	}
	cancel()
	lab.Receive(t, closed.done, "what runs beside the test ends")
	if !exchange(t, clients[0]).Close {
		t.Error("not asked to close")
	}
	select {
	case err := <-ended:
		t.Errorf("the second client was hung up on: %v", err)
	default:
	}
	close(ending) // nobody takes over: there is nothing to wait for
	if err := lab.Receive(t, ended, "what was started ends"); err != nil {
		t.Error(err)
	}
	if _, err := clients[1].Read(make([]byte, 1)); err == nil {
		t.Error("the idle connection is still open")
	}
}

func exchange(t *testing.T, c net.Conn) *http.Response {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "served" {
		t.Fatalf("%q, %v", body, err)
	}
	return res
}

// closing tells when the listener is closed.
type closing struct {
	net.Listener
	done chan struct{}
	once sync.Once
}

func (l *closing) Close() error {
	defer l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}
