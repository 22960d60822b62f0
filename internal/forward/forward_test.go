package forward

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"airlock/internal/http1"
	"airlock/internal/lab"
)

// plain passes everything on as it is.
type plain struct{}

func (plain) Answer(*http.Response) error { return nil }
func (plain) Cut(error)                   {}
func (plain) Failed(w http.ResponseWriter, err error) {
	if errors.Is(err, context.Canceled) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusBadGateway)
}

func serve(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http1.Server{Handler: h, Log: slog.New(slog.DiscardHandler), HeaderTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second, MaxHeaderBytes: 64 << 10,
		Malformed: func(w http.ResponseWriter, v *http1.Violation) { w.WriteHeader(v.Status) }}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Serve(ctx, l, http1.DrainOptions{Timeout: time.Second}); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	return l.Addr().String()
}

// hop serves a proxy to an address.
func hop(t *testing.T, to string) (address string) {
	t.Helper()
	via := &http1.Transport{
		Dial: func(ctx context.Context, _ *http.Request) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", to)
		},
		Key: func(*http.Request) string { return to }, IdleTimeout: time.Minute, MaxIdle: 64, MaxHeaderBytes: 64 << 10,
	}
	t.Cleanup(via.CloseIdleConnections)
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		out := Outgoing(r)
		out.URL, out.Host = &url.URL{Scheme: "http", Host: "next", Path: r.URL.Path, RawQuery: r.URL.RawQuery}, "next"
		Send(via, w, out, plain{})
	})
}

// odd is an origin that answers in every way, with the request's own id.
func odd(w http.ResponseWriter, r *http.Request) {
	id, q := r.Header.Get("X-Id"), r.URL.Query()
	w.Header().Set("X-Id", id)
	if q.Get("early") != "" {
		w.WriteHeader(http.StatusEarlyHints)
	}
	if q.Get("read") != "" {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Length", strconv.FormatInt(n, 10))
	}
	if status, err := strconv.Atoi(q.Get("status")); err == nil {
		w.WriteHeader(status)
		return
	}
	n, _ := strconv.Atoi(q.Get("n")) // none: nothing
	text := strings.Repeat(id+"|", n)
	if q.Get("sized") != "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	}
	for len(text) > 0 {
		k := min(len(text), 1+rand.IntN(9000))
		if _, err := io.WriteString(w, text[:k]); err != nil {
			return
		}
		text = text[k:]
	}
}

// TestOwnAnswer: over two hops that keep their connections, with clients that
// leave at any moment and bodies that nobody reads, everybody gets the answer
// to his own request, or none.
func TestOwnAnswer(t *testing.T) {
	address := hop(t, hop(t, serve(t, odd)))
	var all sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	for g := range 12 {
		all.Go(func() {
			c := &caller{t: t, address: address, rand: rand.New(rand.NewPCG(uint64(g), 1))}
			defer c.hangUp()
			for i := 0; time.Now().Before(end); i++ {
				c.ask(fmt.Sprintf("g%di%d", g, i))
			}
		})
	}
	all.Wait()
}

type caller struct {
	t       *testing.T
	address string
	rand    *rand.Rand
	c       net.Conn // nil: none
	in      *bufio.Reader
}

func (c *caller) hangUp() {
	if c.c != nil {
		c.c.Close()
		c.c = nil
	}
}

func (c *caller) pick(of ...string) string { return of[c.rand.IntN(len(of))] }

func (c *caller) ask(id string) {
	if c.c == nil {
		var err error
		if c.c, err = net.Dial("tcp", c.address); err != nil {
			c.t.Error(err)
			return
		}
		c.in = bufio.NewReader(c.c)
	}
	_ = c.c.SetDeadline(time.Now().Add(20 * time.Second))
	method, n := c.pick("GET", "HEAD", "POST"), c.rand.IntN(3000)
	query := c.pick("", "read=1&") + c.pick("", "early=1&") + c.pick("", "sized=1&") + c.pick("", "", "status=204&", "status=304&") + "n=" + strconv.Itoa(n)
	size := 0
	if method == "POST" {
		size = c.rand.IntN(100_000)
	}
	request := fmt.Sprintf("%s /?%s HTTP/1.1\r\nHost: x\r\nX-Id: %s\r\n", method, query, id)
	if body := strings.Repeat("b", size); c.rand.IntN(2) == 0 && size > 0 {
		request += fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", size, body)
	} else {
		request += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body)
	}
	to, leaves := c.c, c.rand.IntN(10) == 0
	if leaves {
		_, _ = io.WriteString(to, request[:c.rand.IntN(len(request))])
		c.hangUp()
		return
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		_, _ = io.WriteString(to, request) // an early answer may end it
	}()
	if !c.answer(id, method, query, size, n) {
		c.hangUp()
	}
	lab.Receive(c.t, wrote, "the writer ends")
}

// answer reads one, and tells whether the connection may be used again.
func (c *caller) answer(id, method, query string, size, n int) (keep bool) {
	var res *http.Response
	for res == nil || res.StatusCode < 200 {
		var err error
		if res, err = http.ReadResponse(c.in, &http.Request{Method: method}); err != nil {
			return false // cut: no answer is no wrong answer
		}
	}
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode == http.StatusBadGateway {
		return false
	}
	whole := method != "HEAD" && !strings.Contains(query, "status=")
	switch {
	case res.Header.Get("X-Id") != id:
		c.t.Errorf("%s got the answer to %q", id, res.Header.Get("X-Id"))
	case whole && string(text) != strings.Repeat(id+"|", n):
		c.t.Errorf("%s: %d bytes that are not his own", id, len(text))
	case strings.Contains(query, "read=1") && res.Header.Get("X-Length") != strconv.Itoa(size):
		c.t.Errorf("%s sent %d bytes, %s arrived", id, size, res.Header.Get("X-Length"))
	}
	return !res.Close
}
