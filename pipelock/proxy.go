package pipelock

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/forward"
	"airlock/internal/http1"
	"airlock/internal/httpd"
	"airlock/internal/memtrim"
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
	budget  *budget
	answers answers
	idle    time.Duration // of a connection between requests
	origins *origins
	askWait time.Duration   // for the answer to an ask
	over    <-chan struct{} // closed when this process is to end
	tunnels *tunnel.Server  // nil: the agent is not served, only egress
}

func newServer(log *slog.Logger, book *audit.Log, r rules, s *scanner, o *origins) *server {
	return &server{log: log, audit: book, rules: r, scanner: s, origins: o, budget: newBudget(bundle.PipelockLimits{})}
}

// notice tells egress that this process has been replaced: the next one
// answers.
const notice = "HTTP/1.1 503 Service Unavailable\r\n" + httpd.HeaderHop + ": replaced\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// serveSocket serves egress, whose word about injected fields counts. left is
// called when nothing new is answered any more.
func (s *server) serveSocket(ctx context.Context, l net.Listener, left func()) error {
	h := func(w http.ResponseWriter, r *http.Request) {
		authority, err := policy.ParseAuthority(r.URL.Host, defaultPort(r.URL.Scheme))
		if err != nil || !r.URL.IsAbs() {
			s.refuse(w, httpd.PrefersText(r), http.StatusBadRequest, policy.Denied("authority", "an absolute URL is wanted"), r.URL.String())
			return
		}
		p := newExchange(s, r, authority, r.URL.Scheme)
		p.hop, p.injected = true, injectedFields(r.Header)
		p.llm = r.Header.Get(httpd.HeaderKind) == bundle.KindLLM
		p.h2 = r.Header.Get(httpd.HeaderProto) == "h2"
		s.serve(w, r, p)
	}
	srv := httpd.NewHTTP1(bundle.Pipelock, http.HandlerFunc(h), s.log)
	srv.GoodbyeMessage, srv.OnDrained = []byte(notice), left
	return srv.Serve(ctx, l, httpd.DrainOptions{Timeout: drain})
}

// serveAgent serves an agent that has no egress before it.
func (s *server) serveAgent(ctx context.Context, l net.Listener, t *tunnel.Server) error {
	s.tunnels = t
	return t.Behind(ctx, httpd.NewHTTP1(bundle.Pipelock, http.HandlerFunc(s.outside), s.log), l, httpd.DrainOptions{Timeout: drain, NoSuccessor: activation.NoSuccessor()})
}

func (s *server) outside(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		s.connect(w, r)
		return
	}
	authority, err := policy.ParseAuthority(r.URL.Host, 80)
	if err != nil || r.URL.Scheme != "http" || r.URL.User != nil {
		s.refuse(w, httpd.PrefersText(r), http.StatusBadRequest, policy.Denied("authority", "this is a proxy: send CONNECT host:port or http://host/path"), r.URL.Redacted())
		return
	}
	s.serve(w, r, newExchange(s, r, authority, "http"))
}

func (s *server) connect(w http.ResponseWriter, r *http.Request) {
	authority, err := policy.ParseAuthority(r.Host, 0)
	if err != nil {
		s.refuse(w, httpd.PrefersText(r), http.StatusBadRequest, policy.Denied("authority", "CONNECT: "+err.Error()), r.Host)
		return
	}
	closed := func() {}
	if s.rules.decide(authority, time.Now()).Allow { // else it is refused inside, and soon closed
		var over *refusedError
		if closed, over = s.budget.open(authority.Host, time.Now()); over != nil {
			s.spent(w, newExchange(s, r, authority, "https"), over)
			return
		}
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		closed()
		s.log.Warn("taking over a connection", "error", err)
		return
	}
	c = tunnelConn{c, closed}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = c.Close()
		return
	}
	s.tunnels.Intercept(c, authority)
}

// inside serves the requests of a tunnel, whose authority has been checked.
func (s *server) inside(w http.ResponseWriter, r *http.Request) {
	p := newExchange(s, r, tunnel.Authority(r.Context()), "https")
	p.h2 = r.ProtoMajor == 2
	s.serve(w, r, p)
}

func defaultPort(scheme string) uint16 {
	if scheme == "http" {
		return 80
	}
	return 443
}

// serve decides, records the verdict, and forwards or refuses the request.
func (s *server) serve(w http.ResponseWriter, r *http.Request, p *exchange) {
	defer memtrim.ScheduleIdle()
	authority, scheme := p.authority, p.scheme
	v := s.rules.decide(authority, time.Now())
	if httpd.Echoes(r.Method) {
		w.Header()["Allow"] = []string{httpd.MethodsBesideTrace}
		s.denyWith(w, http.StatusMethodNotAllowed, p, httpd.NoTrace)
		return
	}
	if v.Allow && scheme != "http" && scheme != "https" {
		v = policy.Denied("authority", "a scheme that is not http or https")
	}
	if up := r.Header.Get("Upgrade"); v.Allow && up != "" && !strings.EqualFold(up, "websocket") && s.rules.reads(authority.Host) {
		v = policy.Denied("upgrade", "only an upgrade to websocket can be read, and so passed")
	}
	if !v.Allow {
		s.deny(w, p, v)
		return
	}
	if over := s.budget.request(authority.Host, knownBytes(r), time.Now()); over != nil {
		s.spent(w, p, over)
		return
	}
	if r.Header.Get("Upgrade") != "" {
		closed, over := s.budget.open(authority.Host, time.Now())
		if over != nil {
			s.spent(w, p, over)
			return
		}
		defer closed()
	}
	if scan := s.scan(r, p); !scan.Allow {
		if scan.Rule == busyRule {
			w.Header().Set("Retry-After", strconv.Itoa(int(acquireTimeout.Seconds())))
			s.denyWith(w, http.StatusServiceUnavailable, p, scan)
			return
		}
		if scan.Rule == malformedRule {
			s.denyWith(w, http.StatusBadRequest, p, scan)
			return
		}
		s.deny(w, p, scan)
		return
	}
	if err := s.record(p, v); err != nil {
		s.unwritten(w, p, err)
		return
	}
	if until := s.rules.until(authority); !until.IsZero() {
		ctx, cancel := context.WithDeadline(r.Context(), until)
		defer cancel()
		r = r.WithContext(ctx)
	}
	out := outgoing(r, p)
	var err error
	if p.proxied, err = s.origins.guard.proxied(out, authority); err != nil {
		p.Failed(w, err)
		return
	}
	if out.Body != nil && out.ContentLength < 0 {
		out.Body = &countedBody{out.Body, s.budget, authority.Host}
	}
	forward.Send(s.origins.via(p), w, out, p)
}

// malformedRule is the rule of what is no request.
const malformedRule = "http"

// scan reads the request unless the host is one whose content is not read.
func (s *server) scan(r *http.Request, p *exchange) policy.Verdict {
	h := p.authority.Host
	labels, pattern := s.rules.agentLabels(p.authority, time.Now())
	if v := s.scanner.checkName(r.Context(), p.authority, labels, pattern); !v.Allow {
		return s.resolveName(r, p, v)
	}
	if !s.rules.reads(h) {
		return policy.Allowed("secrets.passthrough")
	}
	if v := s.head(r, s.scanContext(p, append(p.injected, httpd.HeaderInjected, httpd.HeaderProto, httpd.HeaderKind))); !v.Allow {
		return v
	}
	v, err := s.scanner.body(r, s.scanContext(p, p.injected))
	if errors.Is(err, errBusy) {
		return busy()
	}
	var malformed *http1.Violation
	if errors.As(err, &malformed) {
		return policy.Denied(malformedRule, "in the body: "+malformed.Why)
	}
	if err != nil {
		return policy.Denied("scan", "the body could not be read")
	}
	return v
}

// head scans a head and does about it what is to be done.
func (s *server) head(r *http.Request, to scanContext) policy.Verdict {
	v := s.scanner.head(r, to)
	if !isFinding(v) {
		return v
	}
	if to.action == actionRedact {
		return s.scanner.redactHead(r, to)
	}
	var granted []string
	for _, v := range s.scanner.findings(r, to) {
		if v, granted = to.resolve(r.Context(), v, granted); !v.Allow {
			return v
		}
	}
	return policy.Allowed("scan")
}

// resolveName applies the configured action to a finding in a name. One that only looks as if it
// carried data is refused whatever the action is.
func (s *server) resolveName(r *http.Request, p *exchange, v policy.Verdict) policy.Verdict {
	v, _ = s.scanContext(p, nil).resolve(r.Context(), v, nil)
	return v
}

// scanContext returns what the scan needs to know about a request.
func (s *server) scanContext(p *exchange, injected []string) scanContext {
	to := scanContext{
		host: p.authority.Host, injected: injected, action: s.scanner.action.of(p.authority),
		report: func(word string, v policy.Verdict) error { return s.report(p, word, v) },
		ask:    func(ctx context.Context, v policy.Verdict) policy.Verdict { return s.ask(ctx, p, v) },
	}
	if p.llm && to.action != actionWarn {
		to.action, to.llm = actionRedact, true
		to.report = func(word string, v policy.Verdict) error {
			err := s.report(p, word, v)
			if err == nil && word == wordRedacted {
				s.notify(p, v)
			}
			return err
		}
	}
	return to
}

func (s *server) record(p *exchange, v policy.Verdict) error { return s.recordAs(p, v.Word(), v) }

// recordAs writes a verdict down under the word that the audit has for it.
func (s *server) recordAs(p *exchange, word string, v policy.Verdict) error {
	p.hide(v)
	tally(word, v)
	v.Why = oneLine(v.Why)
	return s.audit.Record(audit.Entry{
		Verdict: word, Rule: v.Rule, Why: v.Why, Proposal: p.proposal,
		Host: p.shown(v), Method: p.method, Path: audit.SafePath(p.path),
	})
}

func (s *server) deny(w http.ResponseWriter, p *exchange, v policy.Verdict) {
	s.denyWith(w, http.StatusForbidden, p, v)
}

func (s *server) denyWith(w http.ResponseWriter, status int, p *exchange, v policy.Verdict) {
	p.hide(v)
	v.Why = oneLine(v.Why)
	if err := s.record(p, v); err != nil {
		s.unwritten(w, p, err)
		return
	}
	s.log.Info("refused", "host", p.shown(v), "method", p.method, "rule", v.Rule, "why", v.Why)
	s.refuse(w, p.text, status, v, p.url())
}

// spent refuses what is over a budget.
func (s *server) spent(w http.ResponseWriter, p *exchange, over *refusedError) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(over.retry.Seconds()))))
	s.denyWith(w, http.StatusTooManyRequests, p, over.v)
}

func (s *server) unwritten(w http.ResponseWriter, p *exchange, err error) {
	s.log.Error("refusing: the audit cannot be written", "error", err)
	s.refuse(w, p.text, http.StatusServiceUnavailable, policy.Denied("audit", "the verdict could not be written down"), p.url())
}

func (s *server) refuse(w http.ResponseWriter, text bool, status int, v policy.Verdict, url string) {
	v.Why = oneLine(v.Why)
	ask := httpd.AskOperator
	if v.Rule == "allow" {
		ask = httpd.AskAccess
	}
	httpd.Refuse(w, status, httpd.Refusal{By: bundle.Pipelock, Rule: v.Rule, Why: v.Why, URL: url, Ask: ask, Text: text})
}

// exchange is one proxied request and its response.
type exchange struct {
	s            *server
	authority    policy.Authority
	scheme       string
	method, path string
	injected     []string // what egress filled
	hop          bool     // it came from egress
	llm          bool     // it goes to the API of a model
	h2           bool     // the agent speaks HTTP/2
	proposal     string   // the last that was made about it
	hidden       bool     // the host's name may hold a secret
	text         bool     // refuse with plain text
	proxied      bool     // the upstream proxy forwards it
}

func newExchange(s *server, r *http.Request, a policy.Authority, scheme string) *exchange {
	return &exchange{s: s, authority: a, scheme: scheme, method: r.Method, path: r.URL.EscapedPath(), text: httpd.PrefersText(r)}
}

// hide removes from answers and from the audit the part of a request that holds a finding.
func (p *exchange) hide(v policy.Verdict) {
	switch {
	case v.Rule == ruleName, strings.HasPrefix(v.Why, "the host name "):
		p.hidden = true
	case !strings.HasPrefix(v.Rule, "secret: "):
	case strings.HasPrefix(v.Why, "the path "), strings.HasPrefix(v.Why, "pieces "):
		p.path = "/…"
	case strings.HasPrefix(v.Why, "the method "):
		p.method = "…"
	}
}

// shown is the host as it appears in answers and in the audit.
func (p *exchange) shown(v policy.Verdict) string {
	switch {
	case p.hidden:
		return hiddenName(p.authority.String())
	case v.Allow:
		return p.authority.String()
	}
	return p.authority.Shown()
}

// hiddenName is a name of which only the last two labels are left.
func hiddenName(host string) string {
	labels := strings.Split(host, ".")
	return "….(" + strconv.Itoa(len(host)) + ")." + strings.Join(labels[max(0, len(labels)-2):], ".")
}

func (p *exchange) url() string {
	host := p.authority.HostFor(defaultPort(p.scheme))
	if p.hidden {
		host = hiddenName(host)
	}
	return p.scheme + "://" + host + p.path
}

// outgoing aims the request at the origin that was judged.
func outgoing(r *http.Request, p *exchange) *http.Request {
	out, in := forward.Outgoing(r), r.URL
	out.URL = &url.URL{Scheme: p.scheme, Host: p.authority.String(), Path: in.Path, RawPath: in.RawPath, RawQuery: in.RawQuery, ForceQuery: in.ForceQuery}
	out.Host = p.authority.HostFor(defaultPort(p.scheme))
	httpd.StripOwn(out.Header)
	if p.s.answers.read(p.authority.Host) {
		out.Header.Set("Accept-Encoding", "identity")
	}
	out.Header.Del("Sec-Websocket-Extensions") // a compressed frame cannot be read in passing
	return out
}

// Answer implements forward.Hooks. It puts the scan on a connection that
// switched to WebSocket.
func (p *exchange) Answer(res *http.Response) error {
	if p.proxied && res.StatusCode == http.StatusProxyAuthRequired {
		return &proxyError{"does not take the credential (407)"}
	}
	httpd.StripOwn(res.Header) // no origin speaks for us
	if p.hop && p.h2 && res.ProtoMajor == 1 {
		res.Header.Set(httpd.HeaderProto, "h1")
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return p.watch(res)
	}
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the origin switched protocols without a connection")
	}
	told := func(v policy.Verdict) { _ = p.s.report(p, "", v) } // what it is about is closed anyway
	limits := p.s.budget.of(p.authority.Host)
	conn = newIdleConn(conn, limits.idle)
	origin := conn
	if limits.perHour > 0 {
		conn = &countedConn{conn, p.s.budget, p.authority.Host, told}
	}
	if !p.s.rules.reads(p.authority.Host) {
		res.Body = conn
		return nil
	}
	inspected := websocket.Conn(conn, nil, p.s.scanner.frames(res.Request.Context(), p.s.scanContext(p, nil)))
	res.Body = websocket.Closing(inspected, origin, whyClosed(told))
	return nil
}

// report writes down what was stopped in the middle of a stream, or what
// passes although something was found.
func (s *server) report(p *exchange, word string, v policy.Verdict) error {
	said := word
	if said == "" {
		word, said = v.Word(), "refused"
	}
	v.Why = oneLine(v.Why)
	s.log.Info(said, "host", p.shown(v), "rule", v.Rule, "why", v.Why)
	err := s.recordAs(p, word, v)
	if err != nil {
		s.log.Error("the audit cannot be written", "error", err)
	}
	return err
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

// Failed implements forward.Hooks: it answers for an origin that could not, or
// must not.
func (p *exchange) Failed(w http.ResponseWriter, err error) {
	var refused *refusedError
	var malformed *http1.Violation
	var proxy *proxyError
	switch {
	case errors.As(err, &refused) && refused.retry > 0:
		p.s.spent(w, p, refused)
	case errors.As(err, &refused) && refused.reported && refused.v.Rule == busyRule:
		w.Header().Set("Retry-After", strconv.Itoa(int(acquireTimeout.Seconds())))
		p.s.refuse(w, p.text, http.StatusServiceUnavailable, refused.v, p.url())
	case errors.As(err, &refused) && refused.reported:
		p.s.refuse(w, p.text, http.StatusForbidden, refused.v, p.url())
	case errors.As(err, &refused):
		p.s.deny(w, p, refused.v)
	case errors.Is(err, context.DeadlineExceeded) && !p.s.rules.decide(p.authority, time.Now()).Allow:
		p.s.deny(w, p, p.s.rules.decide(p.authority, time.Now()))
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // the agent has closed the connection
	case errors.As(err, &malformed) && http1.IsBodyError(err):
		p.s.refuse(w, p.text, http.StatusBadRequest, policy.Denied(malformedRule, "in the body: "+malformed.Why), p.url())
	case errors.As(err, &proxy):
		p.s.log.Warn("the upstream proxy failed", "host", p.authority.String(), "error", proxy.why)
		p.s.refuse(w, p.text, http.StatusBadGateway, policy.Denied("upstream_proxy", proxy.Error()), p.url())
	default:
		p.s.log.Warn("origin failed", "host", p.authority.String(), "error", err)
		p.s.refuse(w, p.text, http.StatusBadGateway, policy.Denied("origin", "the origin did not answer: "+plain(err)), p.url())
	}
}

// Cut implements forward.Hooks: what was found in a body has been reported.
func (*exchange) Cut(error) {}

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
