package ca

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
)

func minter(t *testing.T) (*Minter, *x509.CertPool) {
	t.Helper()
	cert, key, err := New("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"crt": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Load(filepath.Join(dir, "crt"), filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return m, pool
}

func host(t *testing.T, s string) policy.Host {
	t.Helper()
	h, err := policy.ParseHost(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLeafIsTrustedForItsHostAlone(t *testing.T) {
	m, pool := minter(t)
	for _, name := range []string{"api.ok.test", "192.0.2.1", "2001:db8::1"} {
		leaf, err := m.Leaf(host(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "evil.test"}); err == nil {
			t.Errorf("the leaf of %s serves evil.test", name)
		}
		if leaf.Leaf.IsCA || leaf.Leaf.NotAfter.After(time.Now().Add(leafLife+time.Minute)) {
			t.Errorf("%s: authority %v, until %v", name, leaf.Leaf.IsCA, leaf.Leaf.NotAfter)
		}
	}
	if m.cert.MaxPathLen != 0 || !m.cert.MaxPathLenZero {
		t.Error("the authority may make authorities")
	}
	if _, err := m.Leaf(policy.Host{}); err == nil {
		t.Error("a leaf for nobody")
	}
}

func TestLeafIsMintedOnce(t *testing.T) {
	m, _ := minter(t)
	h := host(t, "api.ok.test")
	leaves := make(chan *tls.Certificate, 16)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			leaf, err := m.Leaf(h)
			if err != nil {
				t.Error(err)
			}
			leaves <- leaf
		})
	}
	group.Wait()
	close(leaves)
	first := lab.Receive(t, leaves, "a certificate comes")
	for leaf := range leaves {
		if leaf != first {
			t.Fatal("more than one leaf was minted")
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	m, _ := minter(t)
	leaf, err := m.Leaf(host(t, "api.ok.test"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxLeaves {
		m.store(host(t, fmt.Sprintf("h%d.test", i)), leaf)
	}
	if len(m.leaves) > maxLeaves {
		t.Errorf("%d leaves", len(m.leaves))
	}
	if m.cached(host(t, "absent.test"), time.Now()) != nil || m.cached(host(t, "api.ok.test"), time.Now().Add(leafLife)) != nil {
		t.Error("a leaf that is absent or old was found")
	}
}

func TestLoadRefuses(t *testing.T) {
	m, _ := minter(t)
	leaf, err := m.Leaf(host(t, "api.ok.test"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"crt": pemOf("CERTIFICATE", leaf.Certificate[0]), "key": pemOf("PRIVATE KEY", key)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(filepath.Join(dir, "crt"), filepath.Join(dir, "key")); err == nil {
		t.Error("a leaf passes for an authority")
	}
	if _, err := Load(filepath.Join(dir, "absent"), filepath.Join(dir, "key")); err == nil {
		t.Error("an absent file passes for an authority")
	}
}
