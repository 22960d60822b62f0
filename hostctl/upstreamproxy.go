package hostctl

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

// anyVariable stands for the host's environment where a manifest is only validated.
func anyVariable(string) (string, bool) { return "http://proxy.invalid:3128", true }

func (p *ManifestProxy) validate() error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.URL == "" {
		errs = append(errs, config.At("upstream_proxy.url", "expected http://host:port, or env:NAME of a variable of the host"))
	}
	if p.Auth != "" {
		if _, err := parseReference(p.Auth); err != nil {
			errs = append(errs, config.At("upstream_proxy.auth", "%v", err))
		}
	}
	for _, host := range p.NoProxy {
		if _, ok := strings.CutPrefix(host, "env:"); ok {
			continue
		}
		if _, err := policy.ParsePattern(host); err != nil {
			errs = append(errs, config.At("upstream_proxy.no_proxy", "%v", err))
		}
	}
	return errors.Join(errs...)
}

// upstreamProxy is the proxy as pipelock is told of it. What a reference to the host's
// environment leads to is read here, but for a password, which has a slot.
func (l *layout) upstreamProxy(p *ManifestProxy) *bundle.UpstreamProxy {
	if p == nil {
		return nil
	}
	f := &bundle.UpstreamProxy{URL: p.URL}
	if name, ok := strings.CutPrefix(p.URL, "env:"); ok {
		value, _ := l.lookup(name) // an empty one is refused by Validate
		f.URL = value
		if !strings.Contains(value, "://") && value != "" {
			f.URL = "http://" + value // as curl and others read it
		}
		if u, err := url.Parse(f.URL); err == nil && u.User != nil {
			u.User = nil
			f.URL = u.String()
			f.Auth = l.slot("PROXY_AUTH_", reference{"env", name})
		}
	}
	if ref, err := parseReference(p.Auth); err == nil {
		f.Auth = l.slot("PROXY_AUTH_", ref)
	}
	if p.CA != "" {
		l.copies["ca/proxy.crt"] = reference{"file", strings.TrimPrefix(p.CA, "file:")}
		f.CA = "/etc/airlock/ca/proxy.crt"
	}
	for _, host := range p.NoProxy {
		if name, ok := strings.CutPrefix(host, "env:"); ok {
			value, _ := l.lookup(name)
			f.NoProxy = append(f.NoProxy, noProxyList(value)...)
			continue
		}
		if pattern, err := policy.ParsePattern(host); err == nil {
			f.NoProxy = append(f.NoProxy, pattern)
		}
	}
	return f
}

// noProxyList reads a variable as programs do: a name stands for itself and for what is
// below it, with a dot or a star before it or without. What pipelock has no pattern
// for, like a range of addresses, is left out: it goes through the proxy.
func noProxyList(list string) (all []policy.Pattern) {
	for host := range strings.FieldsFuncSeq(list, func(c rune) bool { return c == ',' || c == ' ' }) {
		name := strings.TrimPrefix(strings.TrimPrefix(host, "*"), ".")
		spellings := []string{name, "*." + name}
		if _, err := netip.ParseAddr(name); err == nil {
			spellings = spellings[:1]
		}
		for _, s := range spellings {
			if pattern, err := policy.ParsePattern(s); err == nil {
				all = append(all, pattern)
			}
		}
	}
	return all
}
