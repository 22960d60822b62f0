package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"airlock/internal/httpd"
	"airlock/internal/lab"
	"airlock/internal/policy"
)

func authority(t *testing.T, s string) policy.Authority {
	t.Helper()
	a, err := policy.ParseAuthority(s, 443)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCheckRequest(t *testing.T) {
	tunnel := authority(t, "api.ok.test")
	for _, c := range []struct {
		method, target, host string
		want                 int // 0: allowed
	}{
		{"GET", "/x", "api.ok.test", 0},
		{"GET", "/x", "API.OK.TEST.", 0},
		{"GET", "/x", "api.ok.test:443", 0},
		{"GET", "https://api.ok.test/x", "api.ok.test", 0},
		{"GET", "/x", "api.ok.test:80", 421},
		{"GET", "/x", "evil.test", 421},
		{"GET", "/x", "127.0.0.1", 421},
		{"GET", "/x", "", 400},
		{"GET", "/x", "api.ok.test@evil.test", 400},
		{"GET", "/x", "api.ok.test/", 400},
		{"GET", "/x", "api.ok.test:", 400},
		{"GET", "http://api.ok.test/x", "api.ok.test", 400},
		{"GET", "ftp://api.ok.test/x", "api.ok.test", 400},
		{"GET", "https://user@api.ok.test/x", "api.ok.test", 400},
		{"CONNECT", "api.ok.test:443", "api.ok.test:443", 405},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.method == "CONNECT" {
			r.Method = c.method
		} else {
			r = httptest.NewRequest(c.method, c.target, nil)
		}
		r.Host = c.host
		status, v := checkRequest(r, tunnel)
		if status != c.want || v.Allow != (c.want == 0) || (!v.Allow && v.Why == "") {
			t.Errorf("%s %s with Host %q: %d %+v, want %d", c.method, c.target, c.host, status, v, c.want)
		}
	}
}

func TestCheckSNI(t *testing.T) {
	name, address := authority(t, "api.ok.test").Host, authority(t, "192.0.2.1").Host
	for _, c := range []struct {
		sni  string
		host policy.Host
		want bool
	}{
		{"api.ok.test", name, true}, {"API.ok.test", name, true}, {"evil.test", name, false}, {"", name, false},
		{"", address, true}, {"api.ok.test", address, false}, {"a b", name, false},
	} {
		if err := checkSNI(c.sni, c.host); (err == nil) != c.want {
			t.Errorf("SNI %q for %s: %v", c.sni, c.host, err)
		}
	}
}

// TestLeaveDuringAHandshake: a tunnel that was opened before the server leaves
// is served, although it shakes hands behind that.
func TestLeaveDuringAHandshake(t *testing.T) {
	authorities, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authorities.Leaf("api.ok.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{"h2", "http/1.1"} {
		t.Run(proto, func(t *testing.T) {
			served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") })
			s := New("test", func(policy.Host) (*tls.Certificate, error) { return &leaf, nil }, served, slog.New(slog.DiscardHandler), time.Minute)
			opened := make(chan struct{})
			outer := httpd.NewHTTP1("test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				s.Intercept(c, authority(t, "api.ok.test:443"))
				close(opened)
			}), slog.New(slog.DiscardHandler))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			closed := &closing{Listener: l, done: make(chan struct{})}
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- s.Behind(ctx, outer, closed, httpd.DrainOptions{Timeout: 8 * time.Second, NoSuccessor: make(chan struct{})})
			}()
			raw, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			answer := make([]byte, len("HTTP/1.1 200 OK\r\n\r\n"))
			if _, err := io.WriteString(raw, "CONNECT api.ok.test:443 HTTP/1.1\r\nHost: api.ok.test:443\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(raw, answer); err != nil {
				t.Fatal(err)
			}
			lab.Receive(t, opened, "the other side opens it")
			leave()
			lab.Receive(t, closed.done, "what runs beside the test ends")
			time.Sleep(50 * time.Millisecond) // the leave is under way
			tr := &http.Transport{
				ForceAttemptHTTP2: proto == "h2",
				DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
					c := tls.Client(raw, &tls.Config{RootCAs: authorities.Pool(), ServerName: "api.ok.test", NextProtos: []string{proto}})
					return c, c.Handshake()
				},
			}
			res, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post("https://api.ok.test/", "text/plain", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if text, err := io.ReadAll(res.Body); err != nil || string(text) != "served" || res.ProtoMajor == 2 != (proto == "h2") {
				t.Errorf("%s: %q, %v", res.Proto, text, err)
			}
			tr.CloseIdleConnections()
			if err := lab.Receive(t, ended, "what was started ends"); err != nil {
				t.Error(err)
			}
		})
	}
}

// closing tells when the listener is closed.
type closing struct {
	net.Listener
	done chan struct{}
}

func (l *closing) Close() error {
	defer close(l.done)
	return l.Listener.Close()
}
