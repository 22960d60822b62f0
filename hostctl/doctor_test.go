package hostctl

import (
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/hostctl/pair"
	"airlock/internal/ca"
)

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]string{-time.Hour: pair.Bad, 0: pair.Bad, time.Hour: pair.Warn, 60 * 24 * time.Hour: pair.Good} {
		if c := expiry("pair demo", &x509.Certificate{NotAfter: now.Add(left)}, now); c.State != want || !strings.Contains(c.Name, "demo") {
			t.Errorf("%v: %+v", left, c)
		}
	}
}

func TestConstraint(t *testing.T) {
	m := load(t, "version: 1\nname: demo\nagent: {command: [sh]}\negress: {ca: constrained, mode: learn, learn: [learn.example.com], routes: [{host: '*.pkgs.example'}, {host: 192.0.2.1}]}\n")
	dir := t.TempDir()
	l, err := lay(m, dir, nil, osLookup)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Read(filepath.Join(l.plan.Etc(), "ca", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if says := constraint("", authority).Says; !strings.HasPrefix(says, "constrained to _egress.local, learn.example.com, pkgs.example, 192.0.2.1 and") {
		t.Error(says)
	}
	for url, want := range map[string]bool{"https://a.pkgs.example/": true, "https://192.0.2.1/": true, "https://new.example.com/": false, "http://new.example.com/": true, "https://192.0.2.2/": false} {
		if err := mayVouch(l.plan, url); (err == nil) != want {
			t.Errorf("%s: %v", url, err)
		}
	}
}
