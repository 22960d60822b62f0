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
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/forward"
	"airlock/internal/http1"
	"airlock/internal/httpd"
	"airlock/internal/memtrim"
	"airlock/internal/policy"
	"airlock/internal/tunnel"
)

// localHost is a host that egress answers itself, with the routes in force and without secrets.
const localHost = "_egress.local"

// server serves the port: it applies the policy to requests, records the verdicts, and forwards.
type server struct {
	log     *slog.Logger
	audit   *audit.Log
	active  atomic.Pointer[activeConfig]
	tunnels *tunnel.Server
	// caPermits reports whether the name constraints of the pair's CA permit a host.
	caPermits    func(policy.Host) bool
	outer        *goproxy.ProxyHttpServer
	hop          *hop
	leases       leases
	http1Origins http1Origins
}

func newServer(log *slog.Logger, book *audit.Log, hop *hop, minter *ca.Minter) *server {
	s := &server{log: log, audit: book, hop: hop, caPermits: minter.Permits}
	s.tunnels = tunnel.New(bundle.Egress, minter.Leaf, http.HandlerFunc(s.serveTunnel), log, httpd.IdleTimeout)
	s.tunnels.H2 = func(a policy.Authority) bool { return !s.http1Origins.has(a) }
	// goproxy parses the CONNECT and answers what is no proxy request; tunnels and requests are
	// handled here (docs/decisions/0001-goproxy.md).
	s.outer = goproxy.NewProxyHttpServer()
	s.outer.Logger = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	s.outer.NonproxyHandler = http.HandlerFunc(notAProxyRequest)
	return s
}

// serve accepts from l until ctx ends, then drains.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	s.outer.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: func(r *http.Request, c net.Conn, _ *goproxy.ProxyCtx) {
			s.acceptConnect(r, c)
		}}, host
	})
	outer := httpd.NewHTTP1(bundle.Egress, http.HandlerFunc(s.serveProxy), s.log)
	outer.Context = func(c net.Conn) context.Context { return withConn(context.Background(), c) }
	return s.tunnels.Behind(ctx, outer, sniffListener{l, s}, httpd.DrainOptions{Timeout: drain, NoSuccessor: activation.NoSuccessor()})
}

// serveProxy handles requests to the port itself: CONNECT, and plain-HTTP proxy requests.
func (s *server) serveProxy(w http.ResponseWriter, r *http.Request) {
	if a, ok := socksAuthority(r.Context()); ok {
		s.serveSOCKS(w, r, a)
		return
	}
	if r.Method == http.MethodConnect {
		authority, err := policy.ParseAuthority(r.Host, 0)
		if err != nil {
			refuse(w, httpd.PrefersText(r), http.StatusBadRequest, "authority", "CONNECT: "+err.Error(), r.Host, httpd.AskOperator)
			return
		}
		if !s.caPermits(authority.Host) {
			s.refuseConnect(w, authority, httpd.PrefersText(r))
			return
		}
		s.outer.ServeHTTP(w, r)
		return
	}
	if !r.URL.IsAbs() {
		s.outer.ServeHTTP(w, r)
		return
	}
	authority, err := policy.ParseAuthority(r.URL.Host, 80)
	if err != nil || r.URL.Scheme != "http" || r.URL.User != nil {
		refuse(w, httpd.PrefersText(r), http.StatusBadRequest, "authority", "a proxy request is written http://host/path; https goes through CONNECT", r.URL.Redacted(), httpd.AskOperator)
		return
	}
	s.serveRequest(w, r, authority, false)
}

func notAProxyRequest(w http.ResponseWriter, r *http.Request) {
	refuse(w, httpd.PrefersText(r), http.StatusBadRequest, "authority", "this is a proxy: send CONNECT host:port or an absolute URL", r.URL.Path, httpd.AskOperator)
}

// acceptConnect accepts every CONNECT with a valid authority. A refusal is sent inside TLS, where
// ordinary clients show the reason. Nothing is resolved or dialled.
func (s *server) acceptConnect(r *http.Request, c net.Conn) {
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

// serveTunnel handles a request of a tunnel; the tunnel has checked that its authority is right.
func (s *server) serveTunnel(w http.ResponseWriter, r *http.Request) {
	s.serveRequest(w, r, tunnel.Authority(r.Context()), true)
}

// serveRequest decides on a request, records the verdict, and forwards or refuses the request.
func (s *server) serveRequest(w http.ResponseWriter, r *http.Request, authority policy.Authority, tls bool) {
	defer memtrim.ScheduleIdle()
	l := s.active.Load()
	if authority.Host.String() == localHost {
		l.describe(w)
		return
	}
	a := newRequestInfo(r, authority, tls)
	if to, v := l.mirrors.redirect(a); v.Allow {
		if err := s.record(a, v); err != nil {
			s.log.Error("refusing: the audit cannot be written", "error", err)
			refuse(w, httpd.PrefersText(r), http.StatusServiceUnavailable, "audit", "the verdict could not be written down", a.url(), httpd.AskOperator)
			return
		}
		requests.Inc(v.Word(), class(http.StatusTemporaryRedirect))
		sendTo(w, to)
		return
	}
	v, route := l.decideRequest(r, a, time.Now())
	p := &exchange{s: s, config: l, route: route, authority: authority, tls: tls, info: a, plainText: httpd.PrefersText(r)}
	var out *http.Request
	if v.Allow {
		var err error
		out = p.outgoing(r)
		if err = refuseLFSUpload(r.Context(), out, a); err == nil {
			watchMethod(out, route)
			p.injected, err = l.inject(r.Context(), out, route.Auth)
		}
		if err != nil {
			v = verdictOf(err)
		}
	}
	if err := s.record(p.info, v); err != nil {
		s.log.Error("refusing: the audit cannot be written", "error", err)
		refuse(w, p.plainText, http.StatusServiceUnavailable, "audit", "the verdict could not be written down", p.info.url(), httpd.AskOperator)
		return
	}
	if !v.Allow {
		s.log.Info("refused", "host", authority.Shown(), "method", safeMethod(r.Method), "rule", v.Rule, "why", v.Why)
		requests.Inc(v.Word(), class(http.StatusForbidden))
		httpd.Refuse(w, statusOf(w, v), httpd.Refusal{By: bundle.Egress, Rule: v.Rule, Why: v.Why, URL: p.info.url(), Ask: askFor(v), Text: p.plainText})
		return
	}
	if v.Rule == learnRule {
		learned.Inc()
	}
	ctx := s.leases.begin(r.Context(), p)
	defer s.leases.end(p)
	if newer := s.active.Load(); newer != l {
		s.revoke(newer) // reloaded between the decision and the lease
	}
	answer := &redactingWriter{ResponseWriter: w, redactor: l.redactor()}
	defer answer.count(0) // counts a request without a response
	forward.Send(s.hop.transport, answer, s.hop.forPipelock(out.WithContext(ctx), p), p)
}

// newRequestInfo returns the parts of a request that a decision depends on.
func newRequestInfo(r *http.Request, a policy.Authority, tls bool) requestInfo {
	return requestInfo{tls: tls, authority: a, method: r.Method, path: r.URL.EscapedPath(), query: r.URL.RawQuery, content: r.Header.Get("Content-Type")}
}

// record writes a verdict to the audit. The host is redacted, since its labels may carry data;
// pipelock checks that, and records the whole name.
func (s *server) record(a requestInfo, v policy.Verdict) error {
	host := a.authority.Shown()
	if v.Rule == learnRule {
		host = a.authority.String() // the operator makes a route of it
	}
	return s.audit.Record(audit.Entry{
		Verdict: v.Word(), Rule: v.Rule, Why: v.Why,
		Host: host, Method: safeMethod(a.method), Path: audit.SafePath(a.path),
	})
}

// verdictOf returns the verdict of a refusedError, and a denial for other errors.
func verdictOf(err error) policy.Verdict {
	var known *refusedError
	if errors.As(err, &known) {
		return known.v
	}
	return policy.Denied("credential", "the credential could not be put in")
}

// decideRequest combines the verdict of the policy with checks outside of it: whether the credential
// exists, and whether a placeholder is sent to a host to which it is not bound.
func (l *activeConfig) decideRequest(r *http.Request, a requestInfo, now time.Time) (policy.Verdict, *bundle.Route) {
	v, route := l.decideOrLearn(a, now)
	if replaces := route != nil && route.Auth != nil && route.Auth.Type == "replace"; !replaces {
		if stray := l.canaries.findInHead(r); stray != "" {
			return verdictOf(misplacedError(stray)), nil
		}
	}
	if !v.Allow {
		return v, nil
	}
	if up := r.Header.Get("Upgrade"); up != "" && !strings.EqualFold(up, "websocket") {
		return policy.Denied("upgrade", "only an upgrade to websocket can be read, and so passed"), nil
	}
	if other := checkOverride(r.Header, r.URL.RawQuery, route); !other.Allow {
		other.Rule = v.Rule
		return other, nil
	}
	if route.Auth != nil {
		if missing := l.credentials.missing(route.Auth); !missing.Allow {
			return missing, nil
		}
	}
	return v, route
}

// statusOf returns the status of a refusal. For 405 it sets the allowed methods (RFC 9110 §15.5.6).
func statusOf(w http.ResponseWriter, v policy.Verdict) int {
	if v != httpd.NoTrace {
		return http.StatusForbidden
	}
	w.Header()["Allow"] = []string{httpd.MethodsBesideTrace}
	return http.StatusMethodNotAllowed
}

// safeMethod returns the method for the audit, or "?" if it is malformed.
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
	case "tripwire", "credential", "upgrade", "ca":
		return httpd.AskOperator
	}
	return httpd.AskAccess
}

// url returns the URL of the request without its query.
func (a requestInfo) url() string {
	if a.tls {
		return "https://" + a.authority.HostFor(httpsPort) + a.path
	}
	return "http://" + a.authority.HostFor(80) + a.path
}

func refuse(w http.ResponseWriter, text bool, status int, rule, why, url, ask string) {
	httpd.Refuse(w, status, httpd.Refusal{By: bundle.Egress, Rule: rule, Why: why, URL: url, Ask: ask, Text: text})
}

// describe answers requests to localHost.
func (l *activeConfig) describe(w http.ResponseWriter) {
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

func (l *activeConfig) list() []routeView {
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

// exchange is an allowed request and its response. It implements forward.Hooks.
type exchange struct {
	s         *server
	config    *activeConfig
	route     *bundle.Route
	authority policy.Authority
	tls       bool
	injected  []string // names of the fields and parameters that hold the credential
	info      requestInfo
	plainText bool // a refusal is sent as plain text
	stop      context.CancelCauseFunc
}

// searched reports whether responses of this host are searched for a credential as a whole.
func (p *exchange) searched() bool { return p.config.rules.injectsFor(p.authority.Host) }

// Answer implements forward.Hooks.
func (p *exchange) Answer(res *http.Response) error {
	if res.Header.Get(httpd.HeaderProto) == "h1" {
		p.s.http1Origins.add(p.authority)
	}
	delete(res.Header, httpd.HeaderProto)
	return p.redactResponse(res)
}

// Failed implements forward.Hooks: it responds to the agent when the upstream failed.
func (p *exchange) Failed(w http.ResponseWriter, err error) {
	var unreadable *unreadableError
	var malformed *http1.Violation
	var gone *revokedError
	var stopped *refusedError
	switch {
	case errors.As(err, &stopped):
		p.s.recordRefusal(p, stopped.v)
		httpd.Forbid(w, bundle.Egress, stopped.v, p.info.url(), askFor(stopped.v), p.plainText)
	case errors.As(err, &unreadable):
		refuse(w, p.plainText, http.StatusBadGateway, "redaction", unreadable.Error(), p.info.url(), httpd.AskOperator)
	case errors.As(err, &gone):
		httpd.Forbid(w, bundle.Egress, gone.v, p.info.url(), httpd.AskAccess, p.plainText)
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // the agent has disconnected
	case errors.As(err, &malformed) && http1.IsBodyError(err):
		refuse(w, p.plainText, http.StatusBadRequest, "http", "in the body: "+malformed.Why, p.info.url(), httpd.AskOperator)
	default:
		p.s.log.Warn("upstream failed", "host", p.authority.Shown(), "error", p.config.redactor().text(err.Error()))
		refuse(w, p.plainText, http.StatusBadGateway, "upstream", "pipelock did not answer; the request may be tried again", p.info.url(), httpd.AskOperator)
	}
}

// Cut implements forward.Hooks: the response failed after it had begun.
func (p *exchange) Cut(err error) {
	var stopped *refusedError
	if errors.As(err, &stopped) {
		p.s.recordRefusal(p, stopped.v)
	}
}

// recordRefusal records a refusal during a request.
func (s *server) recordRefusal(p *exchange, v policy.Verdict) {
	s.log.Info("refused", "host", p.authority.Shown(), "rule", v.Rule, "why", v.Why)
	if err := s.record(p.info, v); err != nil {
		s.log.Error("the audit cannot be written", "error", err) // later requests are refused
	}
}

// hop is the connection pool to pipelock.
type hop struct {
	transport http.RoundTripper
}

const (
	// hopIdle is how long an idle connection to pipelock is kept.
	hopIdle = 2 * time.Second
	// hopConns bounds the number of idle connections.
	hopConns = 256
)

// newHop returns the hop to "unix:/path", or to pipelock's usual socket if upstream is empty.
func newHop(upstream string, dirs bundle.Dirs) *hop {
	path := strings.TrimPrefix(dirs.Address(cmp.Or(upstream, "unix:/run/airlock/pipelock.sock")), "unix:")
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	return &hop{transport: &http1.Transport{
		Dial: func(ctx context.Context, _ *http.Request) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		Key:            func(*http.Request) string { return "pipelock" },
		IsGoodbye:      func(res *http.Response) bool { return res.Header.Get(httpd.HeaderHop) != "" },
		IdleTimeout:    hopIdle,
		MaxIdle:        hopConns,
		MaxHeaderBytes: httpd.MaxHeaderBytes,
	}}
}

// outgoing returns the request for the origin, without its credential.
func (p *exchange) outgoing(r *http.Request) *http.Request {
	out := forward.Outgoing(r)
	h := out.Header
	httpd.StripOwn(h)
	h.Del("Sec-Websocket-Extensions") // compressed frames could not be inspected
	if p.searched() {
		// A credential that is returned in parts would not be recognised. A server may always send
		// the whole response (RFC 9110 §14.2).
		h.Del("Range")
		h.Del("If-Range")
		withoutCharsets(h)
	}
	scheme, defaultPort := "http", uint16(80)
	if p.tls {
		scheme, defaultPort = "https", httpsPort
	}
	out.Host = p.authority.HostFor(defaultPort)
	out.URL = &url.URL{Scheme: scheme, Host: p.authority.String(), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery}
	return out
}

// forPipelock turns the request into the one for pipelock: in absolute form, and with the names of the
// fields and parameters that hold the credential.
func (h *hop) forPipelock(out *http.Request, p *exchange) *http.Request {
	if len(p.injected) > 0 {
		injections.Inc(p.route.Auth.Type)
	}
	if out.ProtoMajor == 2 {
		out.Header.Set(httpd.HeaderProto, "h2")
	}
	if p.route != nil && p.route.Kind != "" {
		out.Header.Set(httpd.HeaderKind, p.route.Kind)
	}
	if len(p.injected) > 0 {
		out.Header.Set(httpd.HeaderInjected, strings.Join(p.injected, ", "))
	}
	// An opaque URL is written as it is: an https URL, sent in clear on the socket.
	out.URL.Opaque = out.URL.Scheme + "://" + out.Host + out.URL.EscapedPath()
	out.URL.Scheme, out.URL.Host = "http", "pipelock"
	return out
}

// redactingWriter redacts the fields of informational responses and counts the final response.
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

// WriteHeader redacts informational responses; redactResponse has redacted the final one.
func (w *redactingWriter) WriteHeader(status int) {
	if status < http.StatusOK {
		w.redactor.header(w.Header())
	} else {
		w.count(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap implements what http.ResponseController looks for.
func (w *redactingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack counts a response that switches protocols.
func (w *redactingWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.count(http.StatusSwitchingProtocols)
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
