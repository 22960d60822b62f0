package pipelock

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/http1"
	"airlock/internal/policy"
)

// upstreamProxy is the HTTP proxy through which origins are reached (RFC 9110 §9.3.6).
type upstreamProxy struct {
	at      policy.Authority
	tls     *tls.Config // nil: it speaks plain HTTP
	auth    string      // the value of Proxy-Authorization; empty: none
	missing error       // why there is no credential although one is named
	direct  []policy.Pattern
}

// proxyError is why the proxy gave no connection.
type proxyError struct{ why string }

func (e *proxyError) Error() string { return "the upstream proxy " + e.why }

// newUpstreamProxy takes a configuration that has been validated; nil: there is none.
func newUpstreamProxy(f *bundle.UpstreamProxy, dirs bundle.Dirs, getenv func(string) string) (*upstreamProxy, error) {
	if f == nil {
		return nil, nil
	}
	u, err := f.Address()
	if err != nil {
		return nil, err
	}
	p := &upstreamProxy{direct: f.NoProxy}
	if p.at, err = policy.ParseAuthority(u.Host, bundle.ProxyPort(u)); err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		var extra []string
		if f.CA != "" {
			extra = append(extra, dirs.Path(f.CA))
		}
		roots, err := ca.Roots(extra...)
		if err != nil {
			return nil, err
		}
		p.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ServerName: p.at.Host.String(), NextProtos: []string{"http/1.1"}}
	}
	if f.Auth != "" {
		if p.auth, err = proxyAuthorization(getenv(f.Auth)); err != nil {
			p.missing = fmt.Errorf("slot %s %w", f.Auth, err)
		}
	}
	return p, nil
}

// proxyAuthorization is the field for user:password, or for the URL of a proxy that
// holds them.
func proxyAuthorization(value string) (string, error) {
	pair := value
	if strings.Contains(value, "://") {
		u, err := url.Parse(value)
		if err != nil || u.User == nil {
			return "", errors.New("holds a URL without a user and a password")
		}
		password, _ := u.User.Password()
		pair = u.User.Username() + ":" + password
	}
	switch {
	case value == "":
		return "", errors.New("holds no credential")
	case !strings.Contains(pair, ":") || strings.ContainsFunc(pair, unicode.IsControl):
		return "", errors.New("does not hold user:password")
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)), nil
}

// takes reports whether connections to the authority go through the proxy.
func (p *upstreamProxy) takes(a policy.Authority) bool {
	return p != nil && !slices.ContainsFunc(p.direct, func(d policy.Pattern) bool {
		return d.Matches(a.Host) && (d.Port() == 0 || d.Port() == a.Port)
	})
}

// viaProxy has the proxy connect to an origin. The proxy resolves its name, so that only
// an address that is in the request or in hosts can be judged here, and a name that
// is always of the machine that resolves it.
func (g *guard) viaProxy(ctx context.Context, a policy.Authority) (net.Conn, error) {
	p := g.proxy
	if p.missing != nil {
		return nil, &proxyError{"is not asked: " + p.missing.Error()}
	}
	target, err := g.proxyTarget(a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	conn, err := g.dialProxy(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	opened, err := p.connect(conn, target)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return opened, nil
}

// proxied makes a plain-http request one that the proxy itself forwards (RFC 9112 §3.2.2): proxies
// often refuse CONNECT to port 80. What changes protocols, and a host whose address is in
// hosts, go through a tunnel.
//
// Connections to the proxy are kept and shared by all hosts, so that everything is judged here and
// nothing when one is made.
func (g *guard) proxied(out *http.Request, a policy.Authority) (yes bool, err error) {
	_, fixed := g.rules.hosts[a.Host]
	if out.URL.Scheme != "http" || !g.proxy.takes(a) || fixed || out.Header["Upgrade"] != nil {
		return false, nil
	}
	if v := g.rules.decide(a, time.Now()); !v.Allow {
		return false, &refusedError{v: v}
	}
	if g.proxy.missing != nil {
		return false, &proxyError{"is not asked: " + g.proxy.missing.Error()}
	}
	if _, err := g.proxyTarget(a); err != nil {
		return false, err
	}
	out.URL.Opaque = "http://" + out.Host + out.URL.EscapedPath()
	if g.proxy.auth != "" {
		out.Header["Proxy-Authorization"] = []string{g.proxy.auth}
	}
	return true, nil
}

// dialForProxy connects to the proxy for requests in absolute form.
func (g *guard) dialForProxy(ctx context.Context) (net.Conn, error) {
	conn, err := g.dialProxy(ctx)
	if err != nil {
		return nil, err
	}
	return meteredConn{conn}, nil
}

// proxyTarget is what the proxy is asked to connect to.
func (g *guard) proxyTarget(a policy.Authority) (string, error) {
	known := []netip.Addr{}
	addr, fixed := g.rules.hosts[a.Host]
	switch name := a.Host.String(); {
	case fixed:
		known = append(known, addr)
	case a.Host.Addr().IsValid():
		known = append(known, a.Host.Addr())
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		known = append(known, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if len(known) > 0 {
		if _, v := g.rules.judgeAll(a, known, isOwnAddr); !v.Allow {
			return "", &refusedError{v: v}
		}
	}
	if fixed {
		return netip.AddrPortFrom(addr.Unmap(), a.Port).String(), nil
	}
	return a.String(), nil
}

// dialProxy connects to the proxy itself, wherever the operator has put it.
func (g *guard) dialProxy(ctx context.Context) (net.Conn, error) {
	p := g.proxy
	addrs, err := g.find(ctx, p.at.Host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	var conn net.Conn
	if err == nil {
		conn, err = g.dialParallel(ctx, addrs, p.at.Port)
	}
	if err != nil {
		return nil, &proxyError{"cannot be reached: " + plain(err)}
	}
	if p.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, p.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &proxyError{"does not shake hands: " + plain(err)}
	}
	return secure, nil
}

// maxProxyAnswer bounds the head of the proxy's answer, in bytes.
const maxProxyAnswer = 16 << 10

// connect asks for a tunnel. Of a refusal only the status is told: its body is the
// proxy's, and may repeat what it was sent.
func (p *upstreamProxy) connect(conn net.Conn, target string) (net.Conn, error) {
	h := http.Header{"Host": {target}, "User-Agent": {"airlock"}}
	if p.auth != "" {
		h["Proxy-Authorization"] = []string{p.auth}
	}
	if err := http1.WriteConnect(conn, target, h); err != nil {
		return nil, &proxyError{"does not read: " + plain(err)}
	}
	in := bufio.NewReader(io.LimitReader(conn, maxProxyAnswer))
	res, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil:
		return nil, &proxyError{"does not answer as a proxy does: " + plain(err)}
	case res.StatusCode == http.StatusProxyAuthRequired && p.auth == "":
		return nil, &proxyError{"wants a credential (407): name it with upstream_proxy.auth"}
	case res.StatusCode == http.StatusProxyAuthRequired:
		return nil, &proxyError{"does not take the credential (407)"}
	case res.StatusCode/100 != 2:
		return nil, &proxyError{fmt.Sprintf("refuses the connection (%d)", res.StatusCode)}
	case in.Buffered() > 0:
		early, _ := in.Peek(in.Buffered())
		return http1.Replay(conn, early), nil
	}
	return conn, nil
}
