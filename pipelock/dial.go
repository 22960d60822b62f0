package pipelock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

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
	reported bool // it stands in the audit
}

func (e *refusedError) Error() string { return e.v.Rule + ": " + e.v.Why }

// guard dials for the whole bundle: it resolves a name once, judges every
// address, and dials just what it has judged.
type guard struct {
	rules  rules
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	dialer net.Dialer
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
	if v := g.rules.decide(authority); !v.Allow {
		return nil, &refusedError{v: v}
	}
	addrs, err := g.resolve(ctx, authority.Host)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, addr := range addrs {
		conn, err := g.dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, authority.Port).String())
		if err == nil {
			return meteredConn{conn}, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// resolve is the one resolution of a connection.
func (g *guard) resolve(ctx context.Context, h policy.Host) ([]netip.Addr, error) {
	var found []netip.Addr
	if addr, ok := g.rules.hosts[h]; ok {
		found = []netip.Addr{addr}
	} else if addr := h.Addr(); addr.IsValid() {
		found = []netip.Addr{addr}
	} else {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		var err error
		// The dot at the end keeps search domains out of it.
		if found, err = g.lookup(ctx, "ip", h.String()+"."); err != nil {
			return nil, fmt.Errorf("resolving %s: %w", h, err)
		}
	}
	good, v := g.rules.judgeAll(h, found)
	if !v.Allow {
		return nil, &refusedError{v: v}
	}
	return good, nil
}

// newTransport speaks with origins: HTTP/2 where they can, their certificates
// verified against the roots.
func newTransport(g *guard, roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		DialContext:            g.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(256)},
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: httpd.MaxHeaderBytes,
		DisableCompression:     true,
	}
}
