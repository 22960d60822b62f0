package pipelock

import (
	"crypto/tls"
	"fmt"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

// clientCertificates prove to origins who is there, each to those that it
// names alone.
type clientCertificates []clientCertificate

type clientCertificate struct {
	host policy.Pattern
	cert tls.Certificate
	// sessions are its own: one that was begun with a certificate is not to be
	// gone on with where it is not shown.
	sessions tls.ClientSessionCache
}

// loadClientCertificates reads the files that the configuration names.
func loadClientCertificates(list []bundle.ClientCertificate, dirs bundle.Dirs) (all clientCertificates, err error) {
	for i, c := range list {
		cert, err := tls.LoadX509KeyPair(dirs.Path(c.Cert), dirs.Path(c.Key))
		if err != nil {
			return nil, config.At(fmt.Sprintf("client_certificates[%d]", i), "%v", err)
		}
		all = append(all, clientCertificate{c.Host, cert, tls.NewLRUClientSessionCache(16)})
	}
	return all, nil
}

// configFor is how TLS is spoken with one origin.
func (all clientCertificates) configFor(base *tls.Config, a policy.Authority) *tls.Config {
	conf := base.Clone()
	conf.ServerName = a.Host.String()
	for _, c := range all {
		if c.host.MatchesAuthority(a, 443) {
			conf.Certificates, conf.ClientSessionCache = []tls.Certificate{c.cert}, c.sessions
			break
		}
	}
	return conf
}
