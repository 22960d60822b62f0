package pipelock

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/tunnel"
	"airlock/internal/websocket"
)

// server is the shell around the policy.
type server struct {
	log     *slog.Logger
	audit   *audit.Log
	rules   rules
	scanner *scanner
	budget  budget
	idle    time.Duration // of a connection between requests, and of a WebSocket
	forward *httputil.ReverseProxy
	tunnels *tunnel.Server // nil: the agent is not served, only egress
}

func newServer(log *slog.Logger, book *audit.Log, r rules, s *scanner, transport http.RoundTripper) *server {
	srv := &server{log: log, audit: book, rules: r, scanner: s}
	srv.forward = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      transport,
		ModifyResponse: srv.upgraded,
		ErrorHandler:   srv.failed,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelInfo),
		FlushInterval:  -1,
	}
	return srv
}

// serveSocket serves egress, whose word about injected fields counts.
func (s *server) serveSocket(ctx context.Context, l net.Listener) error {
	h := func(w http.ResponseWriter, r *http.Request) {
		authority, err := policy.ParseAuthority(r.URL.Host, defaultPort(r.URL.Scheme))
		if err != nil || !r.URL.IsAbs() {
			s.refuse(w, http.StatusBadRequest, policy.Denied("authority", "an absolute URL is wanted"), r.URL.String())
			return
		}
		s.judge(w, r, authority, r.URL.Scheme, injectedFields(r.Header))
	}
	return httpd.Serve(ctx, httpd.NewServer(http.HandlerFunc(h), s.log), l, httpd.Leave{Within: drain})
}

// serveAgent serves an agent that has no egress before it.
func (s *server) serveAgent(ctx context.Context, l net.Listener, t *tunnel.Server) error {
	s.tunnels = t
	return t.Behind(ctx, httpd.NewServer(http.HandlerFunc(s.outside), s.log), l, httpd.Leave{Within: drain})
}

func (s *server) outside(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		s.connect(w, r)
		return
	}
	authority, err := policy.ParseAuthority(r.URL.Host, 80)
	if err != nil || r.URL.Scheme != "http" || r.URL.User != nil {
		s.refuse(w, http.StatusBadRequest, policy.Denied("authority", "this is a proxy: send CONNECT host:port or http://host/path"), r.URL.Redacted())
		return
	}
	s.judge(w, r, authority, "http", nil)
}

func (s *server) connect(w http.ResponseWriter, r *http.Request) {
	authority, err := policy.ParseAuthority(r.Host, 0)
	if err != nil {
		s.refuse(w, http.StatusBadRequest, policy.Denied("authority", "CONNECT: "+err.Error()), r.Host)
		return
	}
	c, _, err := http.NewResponseController(tunnel.KeepEarlyBytes(w)).Hijack()
	if err != nil {
		s.log.Warn("taking over a connection", "error", err)
		return
	}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = c.Close()
		return
	}
	s.tunnels.Intercept(c, authority)
}

// inside serves the requests of a tunnel, whose authority has been checked.
func (s *server) inside(w http.ResponseWriter, r *http.Request) {
	s.judge(w, r, tunnel.Authority(r.Context()), "https", nil)
}

func defaultPort(scheme string) uint16 {
	if scheme == "http" {
		return 80
	}
	return 443
}

// judge decides, writes down, and obeys.
func (s *server) judge(w http.ResponseWriter, r *http.Request, authority policy.Authority, scheme string, injected []string) {
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 has it always and says so with an error
	p := &pass{authority: authority, scheme: scheme, method: r.Method, path: r.URL.EscapedPath()}
	r = r.WithContext(context.WithValue(r.Context(), passKey{}, p))
	v := s.rules.decide(authority)
	if v.Allow && scheme != "http" && scheme != "https" {
		v = policy.Denied("authority", "a scheme that is not http or https")
	}
	if !v.Allow {
		s.deny(w, p, v)
		return
	}
	if ok, retry := s.budget.take(authority.Host, time.Now()); !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
		s.denyWith(w, http.StatusTooManyRequests, p, policy.Denied("limits.requests_per_minute", "the budget of "+authority.Host.String()+" is used up"))
		return
	}
	if scan := s.scan(r, p, injected); !scan.Allow {
		if !s.scanner.warn {
			s.deny(w, p, scan)
			return
		}
		v.Why = "passed with a warning: " + scan.Why
	}
	if err := s.record(p, v); err != nil {
		s.unwritten(w, p, err)
		return
	}
	s.forward.ServeHTTP(w, r)
}

// scan reads the request unless the host is one whose content is not read.
func (s *server) scan(r *http.Request, p *pass, injected []string) policy.Verdict {
	h := p.authority.Host
	if !s.rules.reads(h) {
		return policy.Allowed("secrets.passthrough")
	}
	if v := s.scanner.head(r, h, append(injected, httpd.HeaderInjected)); !v.Allow {
		return v
	}
	v, err := s.scanner.body(r, injected, func(v policy.Verdict) { s.report(p, v) })
	if err != nil {
		return policy.Denied("scan", "the body could not be read")
	}
	return v
}

func (s *server) record(p *pass, v policy.Verdict) error {
	tally(v)
	return s.audit.Record(audit.Entry{
		Verdict: v.Word(), Rule: v.Rule, Why: v.Why,
		Host: p.authority.String(), Method: p.method, Path: audit.SafePath(p.path),
	})
}

func (s *server) deny(w http.ResponseWriter, p *pass, v policy.Verdict) {
	s.denyWith(w, http.StatusForbidden, p, v)
}

func (s *server) denyWith(w http.ResponseWriter, status int, p *pass, v policy.Verdict) {
	if err := s.record(p, v); err != nil {
		s.unwritten(w, p, err)
		return
	}
	s.log.Info("refused", "host", p.authority.String(), "method", p.method, "rule", v.Rule, "why", v.Why)
	s.refuse(w, status, v, p.url())
}

func (s *server) unwritten(w http.ResponseWriter, p *pass, err error) {
	s.log.Error("refusing: the audit cannot be written", "error", err)
	s.refuse(w, http.StatusServiceUnavailable, policy.Denied("audit", "the verdict could not be written down"), p.url())
}

func (s *server) refuse(w http.ResponseWriter, status int, v policy.Verdict, url string) {
	ask := httpd.AskOperator
	if v.Rule == "allow" {
		ask = httpd.AskAccess
	}
	httpd.Refuse(w, status, httpd.Refusal{By: bundle.Pipelock, Rule: v.Rule, Why: v.Why, URL: url, Ask: ask})
}

// pass is a request on its way to the origin.
type pass struct {
	authority    policy.Authority
	scheme       string
	method, path string
}

func (p *pass) url() string {
	return p.scheme + "://" + p.authority.HostFor(defaultPort(p.scheme)) + p.path
}

type passKey struct{}

func passOf(ctx context.Context) *pass { return ctx.Value(passKey{}).(*pass) }

// rewrite aims the request at the origin that was judged.
func rewrite(pr *httputil.ProxyRequest) {
	p := passOf(pr.In.Context())
	out, in := pr.Out, pr.In.URL
	out.URL = &url.URL{Scheme: p.scheme, Host: p.authority.String(), Path: in.Path, RawPath: in.RawPath, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
	out.Host = p.authority.HostFor(defaultPort(p.scheme))
	out.Header.Del(httpd.HeaderInjected)
	out.Header.Del("Sec-Websocket-Extensions") // a compressed frame cannot be read in passing
}

// upgraded puts the scan on a connection that switched to WebSocket.
func (s *server) upgraded(res *http.Response) error {
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil
	}
	p := passOf(res.Request.Context())
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the origin switched protocols without a connection")
	}
	if !s.rules.reads(p.authority.Host) {
		res.Body = newIdleConn(conn, s.idle)
		return nil
	}
	up := s.scanner.frames(res.Request.Context(), func(v policy.Verdict) { s.report(p, v) })
	res.Body = websocket.Conn(newIdleConn(conn, s.idle), nil, up)
	return nil
}

// report writes down what was stopped in the middle of a stream.
func (s *server) report(p *pass, v policy.Verdict) {
	s.log.Info("refused", "host", p.authority.String(), "rule", v.Rule, "why", v.Why)
	if err := s.record(p, v); err != nil {
		s.log.Error("the audit cannot be written", "error", err)
	}
}

// idleConn closes a connection on which nothing has moved for a while.
type idleConn struct {
	io.ReadWriteCloser
	after time.Duration
	timer *time.Timer
}

func newIdleConn(c io.ReadWriteCloser, after time.Duration) *idleConn {
	return &idleConn{c, after, time.AfterFunc(after, func() { _ = c.Close() })}
}

func (c *idleConn) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	c.timer.Reset(c.after)
	return n, err
}

func (c *idleConn) Write(p []byte) (int, error) {
	c.timer.Reset(c.after)
	return c.ReadWriteCloser.Write(p)
}

func (c *idleConn) Close() error {
	c.timer.Stop()
	return c.ReadWriteCloser.Close()
}

// failed answers for an origin that could not, or must not.
func (s *server) failed(w http.ResponseWriter, r *http.Request, err error) {
	p := passOf(r.Context())
	var refused *refusedError
	switch {
	case errors.As(err, &refused) && refused.reported:
		s.refuse(w, http.StatusForbidden, refused.v, p.url())
	case errors.As(err, &refused):
		s.deny(w, p, refused.v)
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // the agent left: there is nobody to answer
	default:
		s.log.Warn("origin failed", "host", p.authority.String(), "error", err)
		s.refuse(w, http.StatusBadGateway, policy.Denied("origin", "the origin did not answer: "+plain(err)), p.url())
	}
}

// plain is the reason without the target, which may hold what must not be
// repeated, and without the host's resolver, which is none of the agent's
// business.
func plain(err error) string {
	var de *net.DNSError
	if errors.As(err, &de) {
		return "its name cannot be resolved: " + de.Err
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return err.Error()
}
