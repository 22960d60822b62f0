package pipelock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"airlock/internal/http1"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

const (
	resolveTimeout = 10 * time.Second
	dialTimeout    = 10 * time.Second
)

// refusedError carries a verdict out of the transport.
type refusedError struct {
	v        policy.Verdict
	reported bool          // it is in the audit
	retry    time.Duration // after which a budget has more; 0: it was no budget
}

func (e *refusedError) Error() string { return e.v.Rule + ": " + e.v.Why }

// guard dials for the whole bundle: it resolves a name once, judges every
// address, and dials just what it has judged.
type guard struct {
	rules  rules
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dialer net.Dialer
	proxy  *upstreamProxy // nil: origins are dialled
}

func newGuard(r rules) *guard {
	return &guard{rules: r, lookup: net.DefaultResolver.LookupNetIP, dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}}
}

// DialContext is for http.Transport. It asks the allowlist once more, so that
// no mistake above it can lead elsewhere.
func (g *guard) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	authority, err := policy.ParseAuthority(address, 0)
	if err != nil {
		return nil, &refusedError{v: policy.Denied("authority", err.Error())}
	}
	if v := g.rules.decide(authority, time.Now()); !v.Allow {
		return nil, &refusedError{v: v}
	}
	if g.proxy.takes(authority) {
		conn, err := g.viaProxy(ctx, authority)
		if err != nil {
			return nil, err
		}
		return meteredConn{conn}, nil
	}
	addrs, err := g.resolve(ctx, authority)
	if err != nil {
		return nil, err
	}
	conn, err := g.dialParallel(ctx, addrs, authority.Port)
	if err != nil {
		return nil, err
	}
	return meteredConn{conn}, nil
}

// resolve is the one resolution of a connection.
func (g *guard) resolve(ctx context.Context, a policy.Authority) ([]netip.Addr, error) {
	found, err := g.find(ctx, a.Host)
	if err != nil {
		return nil, err
	}
	good, v := g.rules.judgeAll(a, found, isOwnAddr)
	if !v.Allow {
		return nil, &refusedError{v: v}
	}
	return good, nil
}

// find are the addresses of a host, which no rule has judged yet.
func (g *guard) find(ctx context.Context, h policy.Host) ([]netip.Addr, error) {
	if addr, ok := g.rules.hosts[h]; ok {
		return []netip.Addr{addr}, nil
	}
	if addr := h.Addr(); addr.IsValid() {
		return []netip.Addr{addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	// The dot at the end keeps search domains out of it.
	found, err := g.lookup(ctx, "ip", h.String()+".")
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", h, err)
	}
	return found, nil
}

const (
	handshakeTimeout = 10 * time.Second
	// originIdle is how long a connection to an origin waits for a request.
	originIdle = 90 * time.Second
	// originConns bounds how many wait for each.
	originConns = 64
)

// origins speak with origins in the agent's own version of HTTP, so that
// neither side sees features that the other has not. An origin without HTTP/2
// answers an agent with it all the same.
type origins struct {
	guard *guard
	h1    *http1.Transport
	h2    *http.Transport
}

// newOrigins verifies certificates against the roots, and shows origins those
// that are for them.
func newOrigins(g *guard, roots *x509.CertPool, certs clientCertificates) *origins {
	both := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(256)}
	plain := both.Clone()
	plain.NextProtos = []string{"http/1.1"}
	o := &origins{guard: g, h2: &http.Transport{
		DialContext: g.DialContext,
		DialTLSContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return g.dialTLS(ctx, address, both, certs)
		},
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    originConns,
		IdleConnTimeout:        originIdle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: httpd.MaxHeaderBytes,
		DisableCompression:     true,
	}}
	o.h1 = &http1.Transport{
		Dial: func(ctx context.Context, r *http.Request) (net.Conn, error) {
			return g.dialFor(ctx, r.URL, plain, certs)
		},
		Key: func(r *http.Request) string {
			if r.URL.Opaque != "" {
				return "proxy" // which takes requests for any host
			}
			return r.URL.Scheme + "://" + r.URL.Host
		},
		IdleTimeout:    originIdle,
		MaxIdle:        originConns,
		MaxHeaderBytes: httpd.MaxHeaderBytes,
	}
	return o
}

// via is the transport for a request.
func (o *origins) via(p *exchange) http.RoundTripper {
	if p.h2 && p.scheme == "https" {
		return o.h2
	}
	return o.h1
}

// dialFor connects to the host of an URL, with TLS where its scheme says so.
func (g *guard) dialFor(ctx context.Context, u *url.URL, base *tls.Config, certs clientCertificates) (net.Conn, error) {
	if u.Scheme == "https" {
		return g.dialTLS(ctx, u.Host, base, certs)
	}
	if u.Opaque != "" { // in absolute form, for the proxy
		return g.dialForProxy(ctx)
	}
	return g.DialContext(ctx, "tcp", u.Host)
}

// dialTLS shows the origin the certificate that is for it.
func (g *guard) dialTLS(ctx context.Context, address string, base *tls.Config, certs clientCertificates) (net.Conn, error) {
	authority, err := policy.ParseAuthority(address, 0)
	if err != nil {
		return nil, &refusedError{v: policy.Denied("authority", err.Error())}
	}
	raw, err := g.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, certs.configFor(base, authority))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return conn, nil
}
