package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
)

// startServer runs a server until the test ends or stop is called; then ended is closed.
func startServer(tb testing.TB, h http.HandlerFunc, change ...func(*Server, *DrainOptions)) (address string, stop context.CancelFunc, ended <-chan struct{}) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{
		Handler: h,
		Malformed: func(w http.ResponseWriter, v *Violation) {
			w.WriteHeader(v.Status)
			fmt.Fprint(w, v.Why)
		},
		Log: slog.New(slog.DiscardHandler), HeaderTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, MaxHeaderBytes: 256 << 10,
	}
	opts := DrainOptions{Timeout: 5 * time.Second}
	for _, f := range change {
		f(s, &opts)
	}
	ctx, stop := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if err := s.Serve(ctx, l, opts); err != nil {
			tb.Error(err)
		}
	}()
	tb.Cleanup(func() { stop(); <-over })
	return l.Addr().String(), stop, over
}

func dial(tb testing.TB, address string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	tb.Cleanup(func() { c.Close() })
	return c
}

// exchangeRaw writes text to a new connection and returns all that comes back.
func exchangeRaw(t *testing.T, address, text string) string {
	t.Helper()
	c := dial(t, address)
	go func() { _, _ = io.WriteString(c, text) }() // the response may begin before all is sent
	all, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("reading the response: %v after %q", err, all)
	}
	return string(all)
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "[%s %s %s %v]", r.Method, r.URL, body, r.Trailer)
}

const last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

func TestServerResponses(t *testing.T) {
	address, _, _ := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/length":
			w.Header().Set("Content-Length", "2")
			fmt.Fprint(w, "hi")
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/same":
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusNotModified)
		case "/early":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "done")
		case "/trailer":
			w.Header().Set("Trailer", "X-A")
			fmt.Fprint(w, "body")
			w.Header().Set("X-A", "1")
			w.Header().Set(http.TrailerPrefix+"X-B", "2")
			w.Header().Set(http.TrailerPrefix+"Content-Length", "9")
		case "/refuse":
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "no")
		case "/panic":
			fmt.Fprint(w, "half")
			panic("a secret")
		case "/odd":
			w.Header()["X"] = []string{"a\r\nY: b"}
			fmt.Fprint(w, "x")
		case "/long":
			w.Header().Set("Content-Length", "1")
			_, err := fmt.Fprint(w, "xx")
			if !errors.Is(err, http.ErrContentLength) {
				t.Errorf("%v", err)
			}
		default:
			echo(w, r)
		}
	})
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	for _, c := range []struct{ name, send, want string }{
		{"a length", get("/length") + last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" + "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n[GET /last  map[]]\r\n0\r\n\r\n"},
		{"no content", get("/none") + get("/length") + last, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
		{"not modified keeps its length", get("/same") + last, "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\nHTTP/1.1 200 OK"},
		{"HEAD", "HEAD /length HTTP/1.1\r\nHost: a\r\n\r\n" + last, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP/1.1 200 OK"},
		{"early hints", get("/early") + last, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nLink: </x>\r\n"},
		{"trailers", get("/trailer") + last, "Trailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\nHTTP/1.1"},
		{"HTTP/1.0 is not chunked", "GET /x HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[GET /x  map[]]"},
		{"a body and its trailer", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n" + last, "[POST /x hi map[X-T:[1]]]"},
		{"100 when the body is wanted", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi" + last, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"},
		{"no 100 when it is not", "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"},
		{"a refusal arrives although a body is unread", "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 200<<10), "2\r\nno\r\n0\r\n\r\n"},
		{"a short body that the handler does not read", "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + last, "\r\n\r\nhiHTTP/1.1 200 OK"},
		{"what is no request", "GET / HTTP/1.1\r\n\r\n" + last, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nd\r\nno Host field\r\n0\r\n\r\n"},
		{"an expectation", "POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", "HTTP/1.1 417 "},
		{"a large header", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 4<<20) + "\r\n\r\n", "HTTP/1.1 431 "},
		{"an empty line between two", get("/length") + "\r\n" + last, "\r\n\r\nhiHTTP/1.1 200 OK"},
	} {
		if got := exchangeRaw(t, address, c.send); !strings.Contains(got, c.want) {
			t.Errorf("%s: %.400q, want %q", c.name, got, c.want)
		}
	}
	for _, path := range []string{"/panic", "/odd", "/long"} {
		if got := exchangeRaw(t, address, get(path)+last); strings.Contains(got, "/last") || strings.HasSuffix(got, "0\r\n\r\n") || strings.Contains(got, "secret") || strings.Contains(got, "Y: b") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// TestBrokenBodyEndsTheConnection: a body that goes wrong in the middle ends the
// connection, and nothing after it is read as a request.
func TestBrokenBodyEndsTheConnection(t *testing.T) {
	served := 0
	address, _, _ := startServer(t, func(w http.ResponseWriter, r *http.Request) { served++; echo(w, r) })
	got := exchangeRaw(t, address, "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0x5\r\n"+last)
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Contains(got, "/last") || served != 1 {
		t.Errorf("%q after %d", got, served)
	}
}

func TestSlowHeaderTimesOut(t *testing.T) {
	address, _, _ := startServer(t, echo, func(s *Server, _ *DrainOptions) { s.HeaderTimeout = 50 * time.Millisecond })
	c := dial(t, address)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n")
	if got, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 408 ")) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestClientDisconnectCancelsTheRequest disconnects while the handler writes nothing.
func TestClientDisconnectCancelsTheRequest(t *testing.T) {
	for name, request := range map[string]string{
		"without a body": "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "after a body": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
		"with a byte after it": "GET / HTTP/1.1\r\nHost: a\r\n\r\nG",
		"in a body":            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhi",
	} {
		began, noticed := make(chan struct{}), make(chan struct{})
		address, _, _ := startServer(t, func(_ http.ResponseWriter, r *http.Request) {
			close(began)
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			close(noticed)
		})
		c := dial(t, address)
		_, _ = io.WriteString(c, request)
		lab.Receive(t, began, "the request begins")
		c.Close()
		select {
		case <-noticed:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: expected the disconnect to cancel the request within 10s", name)
		}
	}
}

// TestDisconnectWatchKeepsPipelinedBytes sends a request while the one before it is being answered.
func TestDisconnectWatchKeepsPipelinedBytes(t *testing.T) {
	second := make(chan struct{})
	address, _, _ := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			lab.Receive(t, second, "the second request begins")
			time.Sleep(3 * watchAfter) // the watch has begun, or has read ahead
		}
		if r.Context().Err() != nil {
			t.Error("expected the context to be open, but the client was taken for disconnected")
		}
		echo(w, r)
	})
	c := dial(t, address)
	_, _ = io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
	close(second)
	time.Sleep(2 * watchAfter)
	_, _ = io.WriteString(c, last)
	if got, err := io.ReadAll(c); err != nil || !strings.Contains(string(got), "/slow") || !strings.Contains(string(got), "/last") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFullDuplex(t *testing.T) {
	address, _, _ := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			fmt.Fprintf(w, "<%s>", in.Text())
			_ = http.NewResponseController(w).Flush()
		}
	})
	body, out := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, "http://"+address, body)
	if err != nil {
		t.Fatal(err)
	}
	go fmt.Fprintln(out, "one")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	piece := make([]byte, 5)
	for _, word := range []string{"one", "two"} {
		if word == "two" {
			go fmt.Fprintln(out, word)
		}
		if _, err := io.ReadFull(res.Body, piece); err != nil || string(piece) != "<"+word+">" {
			t.Fatalf("%q, %v", piece, err)
		}
	}
	out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestHijackedConnectionKeepsEarlyBytes(t *testing.T) {
	address, _, _ := startServer(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	})
	c := dial(t, address)
	_, _ = io.WriteString(c, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nearly ")
	_, _ = io.WriteString(c, "late")
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "early late" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestShutdownOfIdleConnections checks that idle connections are kept while another process may take
// over, are closed once it is known that none does, and get the goodbye message where there is one.
func TestShutdownOfIdleConnections(t *testing.T) {
	get := "GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
	ending := make(chan struct{})
	address, stop, ended := startServer(t, echo, func(_ *Server, l *DrainOptions) { l.NoSuccessor = ending })
	exchange := func(c net.Conn) *http.Response {
		t.Helper()
		_, _ = io.WriteString(c, get)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		return res
	}
	once, quiet := dial(t, address), dial(t, address)
	exchange(once)
	exchange(quiet)
	stop()
	for exchange(once).Close == false { // until the server shuts down
	}
	select {
	case <-ended:
		t.Error("expected the idle connection to be kept until NoSuccessor is closed")
	default:
	}
	close(ending)
	lab.Receive(t, ended, "what was started ends")
	if _, err := quiet.Read(make([]byte, 1)); err == nil {
		t.Error("expected the idle connection to be closed")
	}

	left := make(chan struct{})
	address, stop, ended = startServer(t, echo, func(s *Server, _ *DrainOptions) {
		s.GoodbyeMessage, s.OnDrained = []byte("HTTP/1.1 503 x\r\n\r\n"), func() { close(left) }
	})
	fresh, used := dial(t, address), dial(t, address)
	_, _ = io.WriteString(fresh, "GET ") // accepted, so its first request is answered
	exchange(used)
	stop()
	lab.Receive(t, left, "the client leaves")
	_, _ = io.WriteString(used, get)
	if got, _ := io.ReadAll(used); string(got) != "HTTP/1.1 503 x\r\n\r\n" {
		t.Errorf("expected the goodbye message, got %q", got)
	}
	_, _ = io.WriteString(fresh, get[4:])
	if got, err := io.ReadAll(fresh); err != nil || !strings.Contains(string(got), "[GET /x") {
		t.Errorf("expected a response on the accepted connection, got %q, %v", got, err)
	}
	lab.Receive(t, ended, "what was started ends")
}

// TestShutdownWaitsForHijackedConnections has a handler that still serves a hijacked connection during
// the shutdown.
func TestShutdownWaitsForHijackedConnections(t *testing.T) {
	taken := make(chan struct{})
	address, stop, ended := startServer(t, func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		close(taken)
		_, _ = io.Copy(c, c)
	})
	c := dial(t, address)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	lab.Receive(t, taken, "the connection is taken")
	stop()
	for range 5 {
		back := make([]byte, 5)
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, back); err != nil || string(back) != "hello" {
			t.Fatalf("%q, %v", back, err)
		}
		select {
		case <-ended:
			t.Fatal("expected the server to wait for the hijacked connection")
		case <-time.After(20 * time.Millisecond):
		}
	}
	c.Close()
	lab.Receive(t, ended, "what was started ends")
}
