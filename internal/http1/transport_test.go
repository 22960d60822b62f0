package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"airlock/internal/lab"
)

// newTestTransport returns a transport to one address, and the number of connections that it dials.
func newTestTransport(t *testing.T, address string) (*Transport, *atomic.Int32) {
	t.Helper()
	var dials atomic.Int32
	tr := &Transport{
		Dial: func(ctx context.Context, _ *http.Request) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		Key:         func(*http.Request) string { return address },
		IsGoodbye:   func(res *http.Response) bool { return res.Header.Get("X-Replaced") != "" },
		IdleTimeout: time.Minute, MaxIdle: 8, MaxHeaderBytes: 64 << 10,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr, &dials
}

func request(t *testing.T, method string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://a.test/x?y", body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t *testing.T, tr *Transport, r *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// unsized hides the length of a body, so that it is sent as a stream.
type unsized struct{ io.Reader }

func TestTransportReusesConnections(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Early") != "" {
			w.Header().Set("Link", "x")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
		}
		w.Header().Set("Trailer", "X-T")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s %d %v %d %v", r.Method, r.URL, r.Host, r.ContentLength, r.TransferEncoding, len(body), r.Trailer)
		w.Header().Set("X-T", "1")
	}))
	defer srv.Close()
	tr, dials := newTestTransport(t, srv.Listener.Addr().String())
	large := strings.Repeat("x", 200<<10)
	trailing := request(t, "POST", unsized{strings.NewReader("hi")})
	trailing.Trailer = http.Header{"X-R": {"2"}}
	for _, c := range []struct {
		r    *http.Request
		want string
	}{
		{request(t, "GET", nil), "GET /x?y a.test 0 [] 0 map[]"},
		{request(t, "POST", strings.NewReader("hi")), "POST /x?y a.test 2 [] 2 map[]"},
		{request(t, "POST", nil), "POST /x?y a.test 0 [] 0 map[]"},
		{request(t, "PUT", strings.NewReader(large)), "PUT /x?y a.test 204800 [] 204800 map[]"},
		{trailing, "POST /x?y a.test -1 [chunked] 2 map[X-R:[2]]"},
	} {
		res, body := do(t, tr, c.r)
		if body != c.want || res.Trailer.Get("X-T") != "1" {
			t.Errorf("%q with %v, want %q", body, res.Trailer, c.want)
		}
	}
	// A stream is never sent on a reused connection.
	if n := dials.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	var hints []string
	early := request(t, "GET", nil)
	early.Header.Set("Early", "1")
	early = early.WithContext(httptrace.WithClientTrace(early.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}}))
	do(t, tr, early)
	if fmt.Sprint(hints) != "[103x]" {
		t.Error(hints)
	}
	before := dials.Load()
	for range 3 {
		if res, body := do(t, tr, request(t, "HEAD", nil)); body != "" || res.StatusCode != 200 {
			t.Errorf("%q", body)
		}
	}
	if n := dials.Load() - before; n > 0 {
		t.Errorf("expected no new connection for responses without a body, got %d", n)
	}
}

// startScriptedServer answers each connection with the next text, once it has a head, and
// closes it afterwards.
func startScriptedServer(t *testing.T, answers ...string) (address string, heads <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	seen := make(chan string, 100)
	play := func(c net.Conn, text string) {
		defer c.Close()
		in := bufio.NewReader(c)
		for part := range strings.SplitSeq(text, "|") { // one for each request
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				head += line
			}
			seen <- head
			_, _ = io.WriteString(c, part)
		}
	}
	go func() {
		for _, text := range answers {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go play(c, text)
		}
	}()
	return l.Addr().String(), seen
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

func TestTransportParsesResponses(t *testing.T) {
	for _, c := range []struct{ name, answer, want string }{
		{"until the end", "HTTP/1.1 200 OK\r\n\r\nall of it", "all of it"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"LF alone", "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "hi"},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"coding and length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi"},
		{"a list of equal lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi", "hi"},
		{"identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"a space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi", "hi"},
		{"an underscore", "HTTP/1.1 200 OK\r\nContent_Type: x\r\nContent-Length: 2\r\n\r\nhi", "hi"},
		{"padded chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2  \r\nhi\r\n0\r\n\r\n", "hi"},
		{"an odd trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n", "hi"},
		{"a continue first", "HTTP/1.1 100 Continue\r\n\r\n" + ok, "hi"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", "error"},
		{"another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "error"},
		{"a list of two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nhi", "error"},
		{"half a body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", "error"},
		{"half the chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", "error"},
		{"a bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\n", "error"},
		{"a bad name", "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", "error"},
		{"a control byte", "HTTP/1.1 200 OK\r\nA: \x01\r\n\r\n", "error"},
		{"no HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "error"},
		{"a large header", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", "error"},
		{"nothing", "", "error"},
	} {
		address, _ := startScriptedServer(t, c.answer, c.answer)
		tr, _ := newTestTransport(t, address)
		got := "error"
		if res, err := tr.RoundTrip(request(t, "GET", nil)); err == nil {
			body, err := io.ReadAll(res.Body)
			if got = string(body); err != nil {
				got = "error"
			}
			res.Body.Close()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestWhichRequestsAreRetried has a reused connection that closes or says goodbye.
func TestWhichRequestsAreRetried(t *testing.T) {
	replaced := "HTTP/1.1 503 x\r\nX-Replaced: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
	for _, c := range []struct {
		name, method string
		body         io.Reader
		first        string // on the connection that was used before
		dials        int32
		fails        bool
	}{
		{"GET on a connection that closes", "GET", nil, "", 2, false},
		{"POST on a connection that closes", "POST", strings.NewReader("x"), "", 1, true},
		{"GET, replaced", "GET", nil, replaced, 2, false},
		{"POST, replaced", "POST", strings.NewReader("x"), replaced, 2, false},
		{"a stream begins anew", "POST", unsized{strings.NewReader("x")}, replaced, 2, false},
	} {
		address, heads := startScriptedServer(t, ok+"|"+c.first, ok)
		tr, dials := newTestTransport(t, address)
		do(t, tr, request(t, "GET", nil))
		lab.Receive(t, heads, "a head comes")
		res, err := tr.RoundTrip(request(t, c.method, c.body))
		if (err != nil) != c.fails || dials.Load() != c.dials || err == nil && res.StatusCode != 200 {
			t.Errorf("%s: %v, %v, %d connections", c.name, res, err, dials.Load())
		}
	}
	// On a new connection the message is a response like any other.
	address, _ := startScriptedServer(t, replaced)
	tr, dials := newTestTransport(t, address)
	if res, _ := do(t, tr, request(t, "GET", nil)); res.StatusCode != 503 || dials.Load() != 1 {
		t.Errorf("%v after %d connections", res.Status, dials.Load())
	}
}

// TestBytesAfterAResponseAreNotTheNextOne has an origin that sends a second response after a body, in
// the same TLS record.
func TestBytesAfterAResponseAreNotTheNextOne(t *testing.T) {
	authority, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Leaf("a.test")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{leaf}, DynamicRecordSizingDisabled: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"+strings.Repeat("x", 10000)+"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nPOISONED")
				}
			}()
		}
	}()
	tr, dials := newTestTransport(t, l.Addr().String())
	tr.Dial = func(ctx context.Context, _ *http.Request) (net.Conn, error) {
		dials.Add(1)
		d := tls.Dialer{Config: &tls.Config{RootCAs: authority.Pool(), ServerName: "a.test"}}
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
	for range 3 {
		if _, body := do(t, tr, request(t, "GET", nil)); len(body) != 10000 {
			t.Errorf("%.100q", body)
		}
	}
	if n := dials.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

func TestCanceledRequestClosesItsConnection(t *testing.T) {
	hold := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/x" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		lab.Receive(t, hold, "the test goes on")
	}))
	defer srv.Close()
	defer close(hold)
	tr, _ := newTestTransport(t, srv.Listener.Addr().String())
	why := errors.New("enough")
	for _, path := range []string{"/head", "/x"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := request(t, "GET", nil).WithContext(ctx)
		r.URL.Path = path
		go func() { time.Sleep(20 * time.Millisecond); cancel(why) }()
		res, err := tr.RoundTrip(r)
		if err == nil {
			_, err = io.ReadAll(res.Body)
		}
		if !errors.Is(err, why) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// failingReader is a body that cannot be read to its end.
type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestBodyErrorIsReported(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(echo))
	defer srv.Close()
	tr, _ := newTestTransport(t, srv.Listener.Addr().String())
	why := errors.New("found something")
	for _, length := range []int64{-1, 5, 1 << 20} {
		r := request(t, "POST", failingReader{why})
		r.ContentLength = length
		if _, err := tr.RoundTrip(r); !errors.Is(err, why) || !IsBodyError(err) {
			t.Errorf("length %d: %v", length, err)
		}
	}
}

// closeCounter is a body that counts how often it is closed.
type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error { c.closed++; return nil }

// TestRequestBodyIsClosedOnce checks requests that fail at different stages.
func TestRequestBodyIsClosedOnce(t *testing.T) {
	refused := errors.New("no way there")
	tr, _ := newTestTransport(t, "")
	tr.Dial = func(context.Context, *http.Request) (net.Conn, error) { return nil, refused }
	for _, length := range []int64{-1, 2, 1 << 20} {
		body := &closeCounter{Reader: strings.NewReader("hi")}
		r := request(t, "POST", nil)
		r.Body, r.ContentLength = body, length
		if _, err := tr.RoundTrip(r); !errors.Is(err, refused) || body.closed != 1 {
			t.Errorf("length %d: %v, closed %d times", length, err, body.closed)
		}
	}
	address, _ := startScriptedServer(t, ok)
	tr, _ = newTestTransport(t, address)
	body := &closeCounter{Reader: strings.NewReader("hi")}
	r := request(t, "POST", nil)
	r.Body, r.ContentLength, r.Header = body, -1, http.Header{"X": {"a\nb"}}
	if _, err := tr.RoundTrip(r); err == nil || body.closed != 1 {
		t.Errorf("a header that cannot be written: %v, closed %d times", err, body.closed)
	}
}

func TestUpgradeReturnsTheConnection(t *testing.T) {
	address, _ := startScriptedServer(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nfirst")
	tr, _ := newTestTransport(t, address)
	res, err := tr.RoundTrip(request(t, "GET", nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := res.Body.(io.ReadWriteCloser); !ok {
		t.Errorf("the body is a %T", res.Body)
	}
	if all, err := io.ReadAll(res.Body); err != nil || string(all) != "first" {
		t.Errorf("%q, %v", all, err)
	}
}

// TestIdleConnectionsExpire checks that maxLongIdle connections stay and the others are closed after
// shortIdle.
func TestIdleConnectionsExpire(t *testing.T) {
	gate := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-gate }))
	defer srv.Close()
	tr, _ := newTestTransport(t, srv.Listener.Addr().String())
	tr.sweepTimer = time.AfterFunc(time.Hour, tr.closeExpired) // as for those that were spare before
	done := make(chan struct{})
	for range 6 {
		go func() {
			defer func() { done <- struct{}{} }()
			if res, err := tr.RoundTrip(request(t, "GET", nil)); err != nil {
				t.Error(err)
			} else {
				res.Body.Close()
			}
		}()
	}
	close(gate)
	for range 6 {
		lab.Receive(t, done, "what runs beside the test ends")
	}
	idle := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.idle[srv.Listener.Addr().String()])
	}
	if n := idle(); n != 6 && n < maxLongIdle {
		t.Errorf("%d connections wait", n)
	}
	for until := time.Now().Add(20 * time.Second); idle() > maxLongIdle; {
		if time.Now().After(until) {
			t.Fatalf("%d connections wait still", idle())
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}
