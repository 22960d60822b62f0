package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// guarded is an origin that wants to know who is there.
func guarded(t *testing.T, serves, trusts *lab.CA, want tls.ClientAuthType, name string) *httptest.Server {
	t.Helper()
	leaf, err := serves.Leaf(name)
	must(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			who = strings.Join(certs[0].DNSNames, " ")
		}
		fmt.Fprintf(w, "%s over %s", who, r.Proto)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}, ClientAuth: want, ClientCAs: trusts.Pool()}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// TestClientCertificates shows one to the host that it is for, and to no
// other.
func TestClientCertificates(t *testing.T) {
	serves, err := lab.NewCA()
	must(t, err)
	knows, err := lab.NewCA()
	must(t, err)
	wants := guarded(t, serves, knows, tls.RequireAndVerifyClientCert, "api.ok.test")
	asks := guarded(t, serves, knows, tls.RequestClientCert, "a.cdn.test")
	cert, err := knows.Leaf("the pair")
	must(t, err)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	must(t, err)
	at := func(s *httptest.Server, name string) string {
		return strings.Replace(s.Listener.Addr().String(), "127.0.0.1", name, 1)
	}
	targets := []string{at(wants, "api.ok.test"), at(asks, "a.cdn.test")}
	for named, answers := range map[string][]string{targets[0]: {"the pair over", "nobody over"}, "other.ok.test": {"", "nobody over"}} {
		b := withRoutes(t, nil, fmt.Sprintf("  - {host: '%s'}\n  - {host: '%s'}\n", targets[0], targets[1]),
			fmt.Sprintf("  - %s\n  - %s\nclient_certificates:\n  - {host: '%s', cert: /etc/airlock/tls/client.crt, key: /etc/airlock/tls/client.key}\n", targets[0], targets[1], named))
		roots, err := os.ReadFile(filepath.Join(b.dirs.Etc, "ca/upstream.crt"))
		must(t, err)
		b.write("ca/upstream.crt", string(roots)+string(serves.PEM))
		must(t, os.Mkdir(filepath.Join(b.dirs.Etc, "tls"), 0o700))
		b.write("tls/client.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
		b.write("tls/client.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE" + " KEY", Bytes: key})))
		b.run()
		for i, want := range answers {
			for _, h2 := range []bool{false, true} {
				client := b.client(b.egress)
				client.Transport.(*http.Transport).ForceAttemptHTTP2 = h2
				status, body := b.send(client, http.MethodGet, "https://"+targets[i]+"/", nil)
				if (status == 200) != (want != "") || !strings.HasPrefix(body, want) {
					t.Errorf("%s, a certificate for %s: status %d, %s", targets[i], named, status, body)
				}
			}
		}
	}
}
