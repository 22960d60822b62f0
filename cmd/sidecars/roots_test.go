package main

import (
	"crypto/x509"
	"testing"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func TestFallbackRoots(t *testing.T) {
	n := 0
	for root := range bundle.Roots() {
		if _, err := x509.ParseCertificate(root.Certificate); err != nil {
			t.Error(err)
		}
		n++
	}
	if n < 100 {
		t.Errorf("%d roots", n)
	}
	t.Setenv("SSL_CERT_FILE", "/nowhere")
	t.Setenv("SSL_CERT_DIR", "/nowhere")
	fallbackRoots()
	pool, err := x509.SystemCertPool()
	if err != nil || pool.Equal(x509.NewCertPool()) {
		t.Errorf("where the system has no roots there are none: %v", err)
	}
}
