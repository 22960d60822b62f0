package bundle

import (
	"errors"
	"net/url"

	"airlock/internal/config"
	"airlock/internal/policy"
)

// UpstreamProxy is an HTTP proxy through which pipelock reaches origins, by CONNECT.
// It resolves their names itself.
type UpstreamProxy struct {
	URL     string           `yaml:"url"`                     // http://host:port, or https://host:port
	Auth    string           `yaml:"auth,omitempty"`          // slot with user:password; none: no credential is sent
	CA      string           `yaml:"ca,omitempty"`            // file with roots for the proxy, beside the usual ones
	NoProxy []policy.Pattern `yaml:"no_proxy,omitempty,flow"` // hosts that are reached directly
}

func (p *UpstreamProxy) validate() error {
	if p == nil {
		return nil
	}
	var errs []error
	if _, err := p.Address(); err != nil {
		errs = append(errs, config.At("upstream_proxy.url", "%v", err))
	}
	if p.Auth != "" && !slotName.MatchString(p.Auth) {
		errs = append(errs, config.At("upstream_proxy.auth", "expected the name of a slot like PROXY_AUTH_0, never a value"))
	}
	return errors.Join(errs...)
}

// Address is the URL taken apart.
func (p *UpstreamProxy) Address() (*url.URL, error) {
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("expected http://host:port or https://host:port") // the text may hold a password
	}
	if u.User != nil {
		return nil, errors.New("a user or a password does not belong in the URL; name a slot with auth")
	}
	if _, err := policy.ParseAuthority(u.Host, ProxyPort(u)); err != nil {
		return nil, err
	}
	return u, nil
}

// ProxyPort is the port of a proxy whose URL names none.
func ProxyPort(u *url.URL) uint16 {
	if u.Scheme == "https" {
		return 443
	}
	return 80
}
