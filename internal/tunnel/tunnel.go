// Package tunnel serves the inside of a CONNECT tunnel: it terminates the
// agent's TLS with a leaf for the authority that the tunnel was opened for,
// and hands each request to a handler, once it is sure that the request
// speaks of that very authority. Egress and pipelock (as a first hop) use it.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"airlock/internal/http1"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// httpsPort is what a Host header without a port means inside TLS.
const httpsPort = 443

// Server intercepts any number of tunnels.
type Server struct {
	// H2 tells whether HTTP/2 is offered to the agent; nil: always.
	H2 func(policy.Authority) bool

	by    string
	log   *slog.Logger
	tls   *tls.Config
	plain *http1.Server // of tunnels that speak HTTP/1
	h2    *http.Server  // of those that speak HTTP/2
	queue *queue        // by which they come to it

	shaking sync.WaitGroup // hands: tunnels that no server has yet

	mu      sync.Mutex
	open    map[*conn]struct{}
	allGone *sync.Cond
}

// New makes a server whose refusals name the daemon by. The handler finds the
// tunnel's authority with Authority(r.Context()). A tunnel without a request
// closes after idle.
func New(by string, leaf func(policy.Host) (*tls.Certificate, error), h http.Handler, log *slog.Logger, idle time.Duration) *Server {
	s := &Server{by: by, log: log, queue: &queue{accepts: make(chan net.Conn), done: make(chan struct{})}, open: map[*conn]struct{}{}}
	s.allGone = sync.NewCond(&s.mu)
	s.plain = httpd.NewHTTP1(by, s.guard(h), log)
	s.plain.IdleTimeout = idle
	s.plain.Context = func(c net.Conn) context.Context { return remember(context.Background(), c) }
	s.h2 = httpd.NewServer(s.guard(h), log)
	s.h2.IdleTimeout = idle
	s.h2.ConnContext = remember
	s.h2.HTTP2 = &http.HTTP2Config{MaxReadFrameSize: 16 << 10} // as RFC 9113 §6.5.2 begins with: a frame is kept in memory
	var older *tls.Config                                      // the same without HTTP/2
	s.tls = &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1", "http/1.0"},
		// Asked on resumption too, when GetCertificate is not.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			a := hello.Conn.(*conn).authority
			if err := checkSNI(hello.ServerName, a.Host); err != nil || s.H2 == nil || s.H2(a) {
				return nil, err
			}
			return older, nil
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return leaf(hello.Conn.(*conn).authority.Host)
		},
	}
	older = s.tls.Clone()
	older.NextProtos, older.GetConfigForClient = s.tls.NextProtos[1:], nil
	return s
}

// remember puts the tunnel where Authority finds it.
func remember(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, key{}, c.(*tls.Conn).NetConn().(*conn))
}

type key struct{}

// Authority is what the tunnel of this request was opened for.
func Authority(ctx context.Context) policy.Authority {
	c, ok := ctx.Value(key{}).(*conn)
	if !ok {
		return policy.Authority{}
	}
	return c.authority
}

// checkSNI wants the name of the tunnel; an address has no SNI (RFC 6066 §3).
func checkSNI(sni string, host policy.Host) error {
	if sni == "" && host.Addr().IsValid() {
		return nil
	}
	if name, err := policy.ParseHost(sni); err != nil || name != host {
		return fmt.Errorf("SNI %q in a tunnel to %s", sni, host)
	}
	return nil
}

// guard lets only requests for the tunnel's own authority through.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 {
			defer r.Context().Value(key{}).(*conn).settle(r.Context())
			defer httpd.ReadAfterRefusal(w, r)()
		}
		if status, v := checkRequest(r, Authority(r.Context())); !v.Allow {
			s.log.Info("refused inside a tunnel", "authority", Authority(r.Context()).Shown(), "why", v.Why)
			if r.ProtoMajor == 1 {
				w.Header().Set("Connection", "close")
			}
			httpd.Refuse(w, status, httpd.Refusal{By: s.by, Rule: v.Rule, Why: v.Why, URL: "https://" + Authority(r.Context()).HostFor(httpsPort) + "/", Ask: httpd.AskOperator, Text: httpd.PrefersText(r)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// checkRequest compares a request with its tunnel's authority.
func checkRequest(r *http.Request, a policy.Authority) (status int, v policy.Verdict) {
	if r.Method == http.MethodConnect {
		return http.StatusMethodNotAllowed, policy.Denied("authority", "CONNECT inside a tunnel")
	}
	if r.ProtoMajor == 2 {
		var bad *http1.Violation
		if err := http1.CheckHTTP2(r); errors.As(err, &bad) {
			return bad.Status, policy.Denied("http", bad.Why)
		}
	}
	if r.URL.Scheme != "" && r.URL.Scheme != "https" {
		return http.StatusBadRequest, policy.Denied("authority", "a target that is not https inside a tunnel")
	}
	if r.URL.User != nil {
		return http.StatusBadRequest, policy.Denied("authority", "a target with user information")
	}
	named, err := policy.ParseAuthority(r.Host, httpsPort)
	if err != nil {
		return http.StatusBadRequest, policy.Denied("authority", "the Host header is not a host: "+err.Error())
	}
	if named != a {
		return http.StatusMisdirectedRequest, policy.Denied("authority", "this tunnel leads to "+a.String()+", the request speaks of "+named.String())
	}
	return 0, policy.Allowed("authority")
}

// Behind serves the port that CONNECT comes to, and the tunnels behind it,
// until ctx ends. Then no connection is accepted any more, what is in
// progress may end, upgraded connections among it, and the rest is cut.
func (s *Server) Behind(ctx context.Context, outer *http1.Server, l net.Listener, opts httpd.DrainOptions) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		// The tunnels outlive the port: a CONNECT that was accepted is served.
		defer stop()
		defer s.handedOver()
		return outer.Serve(ctx, l, opts)
	})
	group.Go(func() error {
		defer context.AfterFunc(inner, func() { s.cutAfter(opts.Timeout) })()
		defer s.waitForTunnels()
		return httpd.Serve(inner, s.h2, s.queue, opts)
	})
	group.Go(func() error {
		<-inner.Done()
		s.plain.Shutdown(inner, opts)
		return nil
	})
	return group.Wait()
}

// handedOver waits until the tunnels that were opened last are with their
// servers, which take none any more when they leave.
func (s *Server) handedOver() {
	done := make(chan struct{})
	go func() { // ends with the handshakes
		s.shaking.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(shakeWithin):
	}
}

// shakeWithin is how long a handshake may hold up the leave of others.
const shakeWithin = time.Second

// waitForTunnels waits for tunnels that an upgrade took from the server.
func (s *Server) waitForTunnels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.open) > 0 {
		s.allGone.Wait()
	}
}

// cutAfter ends the patience with what is left.
func (s *Server) cutAfter(drain time.Duration) { time.AfterFunc(drain, s.cutAll) }

func (s *Server) cutAll() {
	s.mu.Lock()
	left := make([]*conn, 0, len(s.open))
	for c := range s.open {
		left = append(left, c)
	}
	s.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
}

// Open is the number of tunnels that are open.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// Intercept takes a connection on which the CONNECT has been answered. It
// returns at once; the connection is served and closed by Behind.
func (s *Server) Intercept(raw net.Conn, a policy.Authority) {
	c := &conn{Conn: raw, authority: a, gone: s.forget}
	s.mu.Lock()
	s.open[c] = struct{}{}
	s.mu.Unlock()
	s.shaking.Add(1)
	go s.serve(c)
}

// serve shakes hands and hands over to the server of the protocol that was
// agreed on.
func (s *Server) serve(c *conn) {
	t := tls.Server(c, s.tls)
	ctx, cancel := context.WithTimeout(context.Background(), httpd.HeaderTimeout)
	err := t.HandshakeContext(ctx)
	cancel()
	switch {
	case err != nil:
		s.shaking.Done()
		s.unlike(c, err)
		_ = c.Close()
	case t.ConnectionState().NegotiatedProtocol == "h2":
		s.queue.put(t)
		s.shaking.Done()
	default:
		s.shaking.Done()
		s.plain.ServeConn(t)
	}
}

// unlike says what came in place of a handshake that this tunnel is for.
func (s *Server) unlike(c *conn, err error) {
	why := err.Error()
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		start := string(record.RecordHeader[:])
		switch method, _, _ := strings.Cut(start, " "); {
		case strings.HasPrefix(start, "SSH-"):
			why = "an SSH banner in place of TLS"
		case len(method) >= 3 && strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == "":
			why = "plain HTTP in place of TLS"
			httpd.RefuseRaw(c, http.StatusBadRequest, httpd.Refusal{By: s.by, Rule: "tls", Why: why, URL: "https://" + c.authority.HostFor(httpsPort) + "/", Ask: httpd.AskOperator})
			http1.LingeringClose(c)
		default:
			why = "something that is not TLS"
		}
	}
	s.log.Info("a tunnel was closed", "authority", c.authority.Shown(), "why", why)
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if len(s.open) == 0 {
		s.allGone.Broadcast()
	}
}

// conn is the raw connection below TLS, which knows what it was opened for.
type conn struct {
	net.Conn
	authority policy.Authority
	resets    atomic.Int32 // of HTTP/2
	once      sync.Once
	gone      func(*conn)
}

// maxResets is how many more streams a client may have reset than let come to
// their end.
const maxResets = 200

// settle hangs up on a client that does nothing but open streams and reset
// them (CVE-2023-44487).
func (c *conn) settle(stream context.Context) {
	if stream.Err() == nil {
		if c.resets.Add(-1) < 0 {
			c.resets.Store(0)
		}
	} else if c.resets.Add(1) > maxResets {
		_ = c.Close()
	}
}

// CloseWrite ends our half of the connection.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *conn) Close() error {
	c.once.Do(func() { c.gone(c) })
	return c.Conn.Close()
}

// queue is the listener that Intercept feeds.
type queue struct {
	accepts chan net.Conn
	once    sync.Once
	done    chan struct{}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.accepts:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) put(c net.Conn) {
	select {
	case q.accepts <- c:
	case <-q.done:
		_ = c.Close()
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return &net.UnixAddr{Name: "tunnel", Net: "unix"} }
