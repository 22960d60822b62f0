// Package ca is the certificate authority of one pair: hostctl makes it,
// egress and pipelock mint a leaf with it for each host that the agent
// addresses. Its key never leaves the host and the sidecars; nobody outside
// the pair trusts it.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"airlock/internal/policy"
)

const (
	caLife   = 365 * 24 * time.Hour
	leafLife = 24 * time.Hour
	// renewBefore is how long before its end a leaf is minted anew.
	renewBefore = time.Hour
	// backdate forgives a clock of the agent that is behind.
	backdate = time.Hour
	// maxLeaves bounds the cache; an agent can ask for any number of names.
	maxLeaves = 1024
)

// New makes an authority for a pair: P-256, path length 0, for TLS servers,
// for a year; with patterns, for their hosts and no others. It returns the
// certificate and its key (PKCS #8), both as PEM.
func New(pair string, now time.Time, permitted ...policy.Pattern) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making the authority's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Airlock pair " + pair},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	constrain(template, permitted)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("making the authority: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the authority's key: %w", err)
	}
	return pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", keyDER), nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// serial is 127 random bits (CA/Browser Forum, baseline requirements §7.1).
func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic("crypto/rand failed: " + err.Error()) // it never returns an error since Go 1.24
	}
	return n.Add(n, big.NewInt(1))
}

// Minter makes leaves and keeps them for as long as they are fresh.
type Minter struct {
	cert *x509.Certificate
	key  crypto.Signer

	flight singleflight.Group
	mu     sync.Mutex
	leaves map[policy.Host]*tls.Certificate
}

// Load reads the authority from its two files.
func Load(certFile, keyFile string) (*Minter, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the pair's authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("reading the pair's authority: %s is not a certificate authority", certFile)
	}
	return &Minter{cert: pair.Leaf, key: signer, leaves: map[policy.Host]*tls.Certificate{}}, nil
}

// Leaf is the certificate for the host, minted once for any number of
// callers at the same time.
func (m *Minter) Leaf(host policy.Host) (*tls.Certificate, error) {
	if host.IsZero() {
		return nil, errors.New("a certificate needs a host")
	}
	if !m.Permits(host) {
		return nil, fmt.Errorf("the pair's authority is constrained and may not speak for %s", host)
	}
	if leaf := m.cached(host, time.Now()); leaf != nil {
		return leaf, nil
	}
	leaf, err, _ := m.flight.Do(host.String(), func() (any, error) {
		leaf, err := m.mint(host, time.Now())
		if err == nil {
			m.store(host, leaf)
		}
		return leaf, err
	})
	if err != nil {
		return nil, err
	}
	return leaf.(*tls.Certificate), nil
}

func (m *Minter) cached(host policy.Host, now time.Time) *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	leaf := m.leaves[host]
	if leaf == nil || now.After(leaf.Leaf.NotAfter.Add(-renewBefore)) {
		return nil
	}
	return leaf
}

func (m *Minter) store(host policy.Host, leaf *tls.Certificate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for old := range m.leaves { // any: a map's order is as good as random
		if len(m.leaves) < maxLeaves {
			break
		}
		delete(m.leaves, old)
	}
	m.leaves[host] = leaf
}

func (m *Minter) mint(host policy.Host, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a leaf's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if addr := host.Addr(); addr.IsValid() {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else {
		template.DNSNames = []string{host.String()}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, m.cert, key.Public(), m.key)
	if err != nil {
		return nil, fmt.Errorf("minting a leaf for %s: %w", host, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("minting a leaf for %s: %w", host, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, m.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Roots are the system's root certificates, or those compiled in where the
// system has none, together with the PEM files given.
func Roots(extra ...string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the root certificates: %w", err)
	}
	for _, file := range extra {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading extra root certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("reading extra root certificates: %s holds no certificate", file)
		}
	}
	return pool, nil
}
