package egress

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/handoff"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/tunnel"
)

// localHost is answered by egress itself: the live routes, without a secret.
const localHost = "_egress.local"

// server is the shell around the policy: it listens, asks, writes down, obeys.
type server struct {
	log     *slog.Logger
	audit   *audit.Log
	live    atomic.Pointer[live]
	tunnels *tunnel.Server
	outer   *goproxy.ProxyHttpServer
	forward *httputil.ReverseProxy
}

func newServer(log *slog.Logger, book *audit.Log, hop *hop, minter *ca.Minter) *server {
	s := &server{log: log, audit: book}
	s.tunnels = tunnel.New(bundle.Egress, minter.Leaf, http.HandlerFunc(s.inside), log, httpd.IdleTimeout)
	s.forward = &httputil.ReverseProxy{
		Rewrite:        hop.rewrite,
		Transport:      hop.transport,
		ModifyResponse: answer,
		ErrorHandler:   s.failed,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelInfo),
		FlushInterval:  -1,
	}
	// goproxy takes the CONNECT apart and answers what is no proxy request;
	// the tunnel and every request are ours (docs/decisions/0001-goproxy.md).
	s.outer = goproxy.NewProxyHttpServer()
	s.outer.Logger = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	s.outer.NonproxyHandler = http.HandlerFunc(notAProxyRequest)
	return s
}

// serve accepts from l until ctx ends, then drains.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	s.outer.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: func(r *http.Request, c net.Conn, _ *goproxy.ProxyCtx) {
			s.open(r, c)
		}}, host
	})
	outer := httpd.NewServer(http.HandlerFunc(s.outside), s.log)
	outer.ConnContext = remember
	return s.tunnels.Behind(ctx, outer, front{l, s}, httpd.Leave{Within: drain, Ending: handoff.Ending()})
}

// outside serves the port itself: CONNECT, and plain-HTTP proxy requests.
func (s *server) outside(w http.ResponseWriter, r *http.Request) {
	if a, ok := viaSocks(r.Context()); ok {
		s.plain(w, r, a)
		return
	}
	if r.Method == http.MethodConnect {
		if _, err := policy.ParseAuthority(r.Host, 0); err != nil {
			refuse(w, http.StatusBadRequest, "authority", "CONNECT: "+err.Error(), r.Host, httpd.AskOperator)
			return
		}
		s.outer.ServeHTTP(tunnel.KeepEarlyBytes(w), r)
		return
	}
	if !r.URL.IsAbs() {
		s.outer.ServeHTTP(w, r)
		return
	}
	authority, err := policy.ParseAuthority(r.URL.Host, 80)
	if err != nil || r.URL.Scheme != "http" || r.URL.User != nil {
		refuse(w, http.StatusBadRequest, "authority", "a proxy request is written http://host/path; https goes through CONNECT", r.URL.Redacted(), httpd.AskOperator)
		return
	}
	s.judge(w, r, authority, false)
}

func notAProxyRequest(w http.ResponseWriter, r *http.Request) {
	refuse(w, http.StatusBadRequest, "authority", "this is a proxy: send CONNECT host:port or an absolute URL", r.URL.Path, httpd.AskOperator)
}

// open answers a CONNECT, always with yes: an authority that is refused is
// refused inside TLS, where ordinary clients show the reason. Nothing is
// resolved or dialled for it.
func (s *server) open(r *http.Request, c net.Conn) {
	authority, err := policy.ParseAuthority(r.Host, 0)
	if err == nil {
		_, err = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
	if err != nil {
		_ = c.Close()
		return
	}
	s.tunnels.Intercept(c, authority)
}

// inside serves the requests of a tunnel, whose authority has been checked.
func (s *server) inside(w http.ResponseWriter, r *http.Request) {
	s.judge(w, r, tunnel.Authority(r.Context()), true)
}

// judge decides, writes down, and obeys.
func (s *server) judge(w http.ResponseWriter, r *http.Request, authority policy.Authority, tls bool) {
	l := s.live.Load()
	if authority.Host.String() == localHost {
		l.describe(w)
		return
	}
	v, route := l.decide(r, authority, tls, time.Now())
	target := targetURL(r, authority, tls)
	var injected []string
	if v.Allow {
		var err error
		if injected, err = l.inject(r.Context(), outgoing(r, authority, tls), route.Auth); err != nil {
			v = verdictOf(err)
		}
	}
	if err := s.record(r, authority, v); err != nil {
		s.log.Error("refusing: the audit cannot be written", "error", err)
		refuse(w, http.StatusServiceUnavailable, "audit", "the verdict could not be written down", target, httpd.AskOperator)
		return
	}
	if !v.Allow {
		s.log.Info("refused", "host", authority.String(), "method", safeMethod(r.Method), "rule", v.Rule, "why", v.Why)
		requests.Inc(v.Word(), class(http.StatusForbidden))
		httpd.Forbid(w, bundle.Egress, v, target, askFor(v))
		return
	}
	if v.Rule == learnRule {
		learned.Inc()
	}
	// Answers may come before the request has ended (RFC 9113 §8.1; gRPC).
	_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/2 has it always and says so with an error
	pass := &pass{live: l, route: route, authority: authority, tls: tls, injected: injected}
	answer := &redactingWriter{ResponseWriter: w, redactor: l.redactor()}
	defer answer.count(0) // of one that came to no answer
	s.forward.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), passKey{}, pass)))
}

func (s *server) record(r *http.Request, authority policy.Authority, v policy.Verdict) error {
	return s.audit.Record(audit.Entry{
		Verdict: v.Word(), Rule: v.Rule, Why: v.Why,
		Host: authority.String(), Method: safeMethod(r.Method), Path: audit.SafePath(r.URL.EscapedPath()),
	})
}

// outgoing prepares a request for its credential. The agent's word on what
// belongs to the connection counts before that, not afterwards.
func outgoing(r *http.Request, authority policy.Authority, tls bool) *http.Request {
	upgrade := r.Header.Get("Upgrade") != ""
	for _, value := range r.Header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = strings.TrimSpace(name); !strings.EqualFold(name, "Upgrade") {
				r.Header.Del(name)
			}
		}
	}
	r.Header.Del("Connection")
	if upgrade {
		r.Header.Set("Connection", "Upgrade")
	}
	r.URL.Scheme, r.Host = "http", authority.HostFor(80)
	if tls {
		r.URL.Scheme, r.Host = "https", authority.HostFor(httpsPort)
	}
	return r
}

// verdictOf is the verdict in an error that carries one.
func verdictOf(err error) policy.Verdict {
	var known *refusedError
	if errors.As(err, &known) {
		return known.v
	}
	return policy.Denied("credential", "the credential could not be put in")
}

// decide joins the policy's answer with what it cannot know: whether the
// credential is there, and whether a placeholder goes astray.
func (l *live) decide(r *http.Request, authority policy.Authority, tls bool, now time.Time) (policy.Verdict, *bundle.Route) {
	v, route := l.ruling(ask{tls: tls, authority: authority, method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery}, now)
	if replaces := route != nil && route.Auth != nil && route.Auth.Type == "replace"; !replaces {
		if stray := l.wires.inHead(r); stray != "" {
			return verdictOf(strayed(stray)), nil
		}
	}
	if !v.Allow {
		return v, nil
	}
	if up := r.Header.Get("Upgrade"); up != "" && !strings.EqualFold(up, "websocket") {
		return policy.Denied("upgrade", "only an upgrade to websocket can be read, and so passed"), nil
	}
	if route.Auth != nil {
		if missing := l.wallet.missing(route.Auth); !missing.Allow {
			return missing, nil
		}
	}
	return v, route
}

// safeMethod keeps a method that is none out of the audit.
func safeMethod(m string) string {
	if methodForm.MatchString(m) {
		return m
	}
	return "?"
}

func askFor(v policy.Verdict) string {
	switch v.Rule {
	case "git push":
		return "push to the remote that git is set up for (git-gate); it scans and forwards"
	case "tripwire", "credential", "upgrade":
		return httpd.AskOperator
	}
	return httpd.AskAccess
}

func targetURL(r *http.Request, a policy.Authority, tls bool) string {
	if tls {
		return "https://" + a.HostFor(httpsPort) + r.URL.EscapedPath()
	}
	return "http://" + a.HostFor(80) + r.URL.EscapedPath()
}

func refuse(w http.ResponseWriter, status int, rule, why, url, ask string) {
	httpd.Refuse(w, status, httpd.Refusal{By: bundle.Egress, Rule: rule, Why: why, URL: url, Ask: ask})
}

// describe answers the magic host.
func (l *live) describe(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(map[string]any{"digest": l.digest, "routes": l.list()}) // the client may be gone
}

type routeView struct {
	Host    string   `json:"host"`
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
	Auth    string   `json:"auth,omitempty"`
	Git     string   `json:"git,omitempty"`
	Expires string   `json:"expires,omitempty"`
}

func (l *live) list() []routeView {
	all := []routeView{}
	for _, r := range l.rules {
		v := routeView{Host: r.Host.String(), Methods: r.Methods, Git: r.Git}
		for _, p := range r.Paths {
			v.Paths = append(v.Paths, string(p))
		}
		if r.Auth != nil {
			v.Auth = r.Auth.Type
		}
		if !r.Expires.IsZero() {
			v.Expires = r.Expires.UTC().Format(time.RFC3339)
		}
		all = append(all, v)
	}
	return all
}

// pass is a request that was let through, on its way to the origin.
type pass struct {
	live      *live
	route     *bundle.Route
	authority policy.Authority
	tls       bool
	injected  []string // names of what holds the credential
}

// searched tells whether the answers of this host are read to their end.
func (p *pass) searched() bool { return p.live.rules.injectsFor(p.authority.Host) }

type passKey struct{}

func passOf(ctx context.Context) *pass { return ctx.Value(passKey{}).(*pass) }

// hop is the way to pipelock.
type hop struct {
	transport http.RoundTripper
	direct    bool
}

// newHop makes the hop to "unix:/path"; "direct" goes to the origin itself.
func newHop(upstream string, dirs bundle.Dirs) (*hop, error) {
	if upstream == "direct" {
		roots, err := ca.Roots()
		if err != nil {
			return nil, err
		}
		return &hop{direct: true, transport: directTransport(roots)}, nil
	}
	path := strings.TrimPrefix(dirs.Address(cmp.Or(upstream, "unix:/run/airlock/pipelock.sock")), "unix:")
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &hop{transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		// One connection a request: it goes to the pipelock of this moment, with
		// the rules of this moment, and is cut by no replacement.
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: httpd.MaxHeaderBytes,
		ExpectContinueTimeout:  time.Second,
	}}, nil
}

// rewrite turns the agent's request into the one that pipelock gets:
// absolute-form, with the credential, and with the names of what holds it.
func (h *hop) rewrite(pr *httputil.ProxyRequest) {
	p := passOf(pr.In.Context())
	out := pr.Out
	out.URL = &url.URL{Path: pr.In.URL.Path, RawPath: pr.In.URL.RawPath, RawQuery: pr.In.URL.RawQuery, ForceQuery: pr.In.URL.ForceQuery}
	out.Header.Del(httpd.HeaderInjected)
	out.Header.Del("Sec-Websocket-Extensions") // a compressed frame cannot be read in passing
	if p.searched() {
		// A credential that comes back in parts is not recognised. An answer
		// as a whole is always allowed (RFC 9110 §14.2).
		out.Header.Del("Range")
		out.Header.Del("If-Range")
	}
	if len(p.injected) > 0 {
		injections.Inc(p.route.Auth.Type)
	}
	scheme, defaultPort := "http", uint16(80)
	if p.tls {
		scheme, defaultPort = "https", httpsPort
	}
	out.Host = p.authority.HostFor(defaultPort)
	if h.direct {
		out.URL.Scheme, out.URL.Host = scheme, p.authority.String()
		return
	}
	if len(p.injected) > 0 {
		out.Header.Set(httpd.HeaderInjected, strings.Join(p.injected, ", "))
	}
	// An opaque URL is written as it is: the https form in clear, on the socket.
	out.URL.Opaque = scheme + "://" + out.Host + out.URL.EscapedPath()
	out.URL.Scheme, out.URL.Host = "http", "pipelock"
}

// failed answers for an upstream that could not.
func (s *server) failed(w http.ResponseWriter, r *http.Request, err error) {
	p := passOf(r.Context())
	target := targetURL(r, p.authority, p.tls)
	var unreadable *unreadableError
	var stopped *refusedError
	switch {
	case errors.As(err, &stopped):
		s.log.Info("refused", "host", p.authority.String(), "rule", stopped.v.Rule, "why", stopped.v.Why)
		if err := s.record(r, p.authority, stopped.v); err != nil {
			s.log.Error("the audit cannot be written", "error", err) // nothing is let through
		}
		httpd.Forbid(w, bundle.Egress, stopped.v, target, askFor(stopped.v))
	case errors.As(err, &unreadable):
		refuse(w, http.StatusBadGateway, "redaction", unreadable.Error(), target, httpd.AskOperator)
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // the agent left: there is nobody to answer
	default:
		s.log.Warn("upstream failed", "host", p.authority.String(), "error", p.live.redactor().text(err.Error()))
		refuse(w, http.StatusBadGateway, "upstream", "pipelock did not answer; the request may be tried again", target, httpd.AskOperator)
	}
}

// redactingWriter redacts the fields of every header that is written,
// informational ones among them, and counts the answer that is the last.
type redactingWriter struct {
	http.ResponseWriter
	redactor *redactor
	counted  bool
}

func (w *redactingWriter) count(status int) {
	if !w.counted {
		w.counted = true
		requests.Inc("allow", class(status))
	}
}

func (w *redactingWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		w.count(status)
	}
	w.redactor.header(w.Header())
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap serves http.ResponseController.
func (w *redactingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack redacts the header of an answer that switches protocols: it is not
// written with WriteHeader.
func (w *redactingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.redactor.header(w.Header())
	w.count(http.StatusSwitchingProtocols)
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
