// Package lab has real servers for tests and for the demonstration: an
// origin that records what it saw, certificate authorities, a folder of
// bundle files. Nothing of the product imports it.
package lab

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"
)

// CA is an authority of somebody else: it signs the certificates of origins.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	PEM  []byte
}

// NewCA makes an authority.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// Pool trusts this authority alone.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// Leaf signs a certificate for the names.
func (c *CA) Leaf(names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, key.Public(), c.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Seen is a request as the origin got it.
type Seen struct {
	Proto, Method, Host, URI string
	Header                   http.Header
	Body                     []byte
}

// Origin is a web server that records what reaches it. The body of a request
// with the field X-Lab-Stream is left to the handler.
type Origin struct {
	*httptest.Server
	mu   sync.Mutex
	seen []Seen
	dial int
}

// NewOrigin serves TLS, HTTP/1.1 and HTTP/2, for the names on a loopback
// port. The handler may be nil: then every answer is "hello" with the request
// target.
func NewOrigin(ca *CA, h http.Handler, names ...string) (*Origin, error) {
	return NewOriginAt("127.0.0.1:0", ca, h, names...)
}

// NewOlderOrigin is NewOrigin without HTTP/2.
func NewOlderOrigin(ca *CA, h http.Handler, names ...string) (*Origin, error) {
	return newOrigin("127.0.0.1:0", false, ca, h, names...)
}

// NewOriginAt is NewOrigin on another address.
func NewOriginAt(address string, ca *CA, h http.Handler, names ...string) (*Origin, error) {
	return newOrigin(address, true, ca, h, names...)
}

func newOrigin(address string, h2 bool, ca *CA, h http.Handler, names ...string) (*Origin, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.Leaf(names...)
	if err != nil {
		return nil, err
	}
	if h == nil {
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s\n", r.URL) })
	}
	o := &Origin{}
	o.Server = httptest.NewUnstartedServer(o.record(h))
	o.Server.Listener.Close()
	o.Server.Listener = l
	o.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	o.EnableHTTP2 = h2
	o.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			o.mu.Lock()
			o.dial++
			o.mu.Unlock()
		}
	}
	o.StartTLS()
	return o, nil
}

func (o *Origin) record(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := Seen{Proto: r.Proto, Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header.Clone()}
		if r.Header.Get("Upgrade") == "" && r.Header.Get("X-Lab-Stream") == "" {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			s.Body = body
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		o.mu.Lock()
		o.seen = append(o.seen, s)
		o.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// Port is the port that the origin listens on.
func (o *Origin) Port() int { return o.Listener.Addr().(*net.TCPAddr).Port }

// Seen are the requests so far.
func (o *Origin) Seen() []Seen {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Seen(nil), o.seen...)
}

// Dials is how many connections were made so far.
func (o *Origin) Dials() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dial
}

// Token makes a string that looks like a provider's token, at run time, so
// that no file holds one.
func Token() string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	raw := make([]byte, 36)
	_, _ = rand.Read(raw) // never fails
	for i, b := range raw {
		raw[i] = letters[int(b)%len(letters)]
	}
	return "ghp" + "_" + string(raw)
}
