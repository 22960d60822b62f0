package ca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/policy"
)

// patterns are those of the pair whose authority is constrained.
func patterns(t *testing.T, texts ...string) (all []policy.Pattern) {
	t.Helper()
	for _, text := range texts {
		p, err := policy.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestPermits(t *testing.T) {
	for _, c := range []struct {
		permitted []string
		yes, no   string
	}{
		{nil, "any.test 192.0.2.1 ::1", ""},
		{[]string{"api.ok.test", "*.cdn.test:8443"}, "api.ok.test x.api.ok.test a.cdn.test cdn.test", "ok.test evilapi.ok.test evil.test 127.0.0.1 ::1"},
		{[]string{"api.ok.test", "192.0.2.1"}, "api.ok.test 192.0.2.1", "192.0.2.2 ::1 ok.test"},
		{[]string{"[2001:db8::1]:443", "a.ok.test"}, "2001:db8::1 a.ok.test", "2001:db8::2 192.0.2.1"},
	} {
		m := constrained(t, t.TempDir(), c.permitted...)
		for _, name := range strings.Fields(c.yes) {
			if leaf, err := m.Leaf(host(t, name)); err != nil || !trusted(m.cert, leaf.Leaf, name) {
				t.Errorf("%v: %s: %v", c.permitted, name, err)
			}
		}
		for _, name := range strings.Fields(c.no) {
			if _, err := m.Leaf(host(t, name)); err == nil {
				t.Errorf("%v: a leaf for %s", c.permitted, name)
			}
			if forged, err := m.mint(host(t, name), time.Now()); err != nil || trusted(m.cert, forged.Leaf, name) {
				t.Errorf("%v: a forged leaf for %s is trusted, %v", c.permitted, name, err)
			}
		}
	}
}

func trusted(authority, leaf *x509.Certificate, name string) bool {
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name})
	return err == nil
}

func constrained(t *testing.T, dir string, permitted ...string) *Minter {
	t.Helper()
	cert, key, err := New("test", time.Now(), patterns(t, permitted...)...)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"ca.crt": cert, "ca.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Load(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// clients are those that people use, and how each asks PORT of this machine
// as if it were HOST.
var clients = map[string][]string{
	"curl": {"curl", "-sS", "--noproxy", "*", "--cacert", "{ca}", "--resolve", "{host}:{port}:127.0.0.1", "https://{host}:{port}/"},
	"git":  {"git", "-c", "http.proxy=", "-c", "http.curloptResolve={host}:{port}:127.0.0.1", "ls-remote", "https://{host}:{port}/x"},
	"node": {"node", "-e", `const s = require('tls').connect({host: '127.0.0.1', port: {port}, servername: '{host}', ca: require('fs').readFileSync('{ca}')}, () => process.exit(0)); s.on('error', () => process.exit(1))`},
	"python": {"python3", "-c", `import ssl, socket
ssl.create_default_context(cafile='{ca}').wrap_socket(socket.create_connection(('127.0.0.1', {port})), server_hostname='{host}')`},
	"openssl": {"openssl", "s_client", "-connect", "127.0.0.1:{port}", "-servername", "{host}", "-verify_hostname", "{host}", "-CAfile", "{ca}", "-verify_return_error"},
	"wget":    {"wget", "-q", "-O", "-", "--no-proxy", "--ca-certificate", "{ca}", "https://{host}:{port}/"},
}

// TestClientsHonourConstraints shows forged leaves of a constrained authority
// to the clients that are installed here: each must take those that are
// permitted and no others (docs/decisions/0013-constrained-authority.md).
func TestClientsHonourConstraints(t *testing.T) {
	dir := t.TempDir()
	m := constrained(t, dir, "localhost", "api.ok.test", "*.cdn.test")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = w.Write([]byte("001e# service=git-upload-pack\n00000000")) // an empty repository
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		h, err := policy.ParseHost(hello.ServerName)
		if err != nil {
			return nil, err
		}
		return m.mint(h, time.Now())
	}}
	srv.StartTLS()
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for name, argv := range clients {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(argv[0]); err != nil {
				t.Skip("not installed")
			}
			for host, want := range map[string]bool{"api.ok.test": true, "a.cdn.test": true, "evil.test": false, "ok.test": false} {
				if name == "wget" { // it cannot be told where a name leads
					if !want {
						continue
					}
					host = "localhost"
				}
				if out, err := ask(t, filepath.Join(dir, "ca.crt"), host, port, argv); (err == nil) != want {
					t.Errorf("%s: %v\n%s", host, err, out)
				}
			}
		})
	}
}

func ask(t *testing.T, ca, host, port string, argv []string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	fill := strings.NewReplacer("{host}", host, "{port}", port, "{ca}", ca)
	var args []string
	for _, a := range argv[1:] {
		args = append(args, fill.Replace(a))
	}
	cmd := exec.CommandContext(ctx, argv[0], args...)
	cmd.Env = append(os.Environ(), "GIT_SSL_CAINFO="+ca, "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
