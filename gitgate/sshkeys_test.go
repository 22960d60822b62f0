package gitgate

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"golang.org/x/crypto/ssh"
)

func ed25519Signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func line(key ssh.PublicKey) string { return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) }

// certified is a host key with a certificate for a name.
func certified(t *testing.T, ca ssh.Signer, name string) ssh.Signer {
	t.Helper()
	host := ed25519Signer(t)
	cert := &ssh.Certificate{Key: host.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewCertSigner(cert, host)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// Every form of a pinned line lets the right server in and nobody else.
func TestPinnedLines(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ssh.NewSignerFromKey(ecdsaKey)
	if err != nil {
		t.Fatal(err)
	}
	ca, otherCA, stranger := ed25519Signer(t), ed25519Signer(t), ed25519Signer(t)
	r.ssh.AddHostKey(second)
	own, port := r.ssh.HostKey(), r.ssh.Port()
	name := fmt.Sprintf("[upstream.test]:%d", port)
	h := hmac.New(sha1.New, []byte("0123456789"))
	h.Write([]byte(name))
	hashed := "|1|" + base64.StdEncoding.EncodeToString([]byte("0123456789")) + "|" + base64.StdEncoding.EncodeToString(h.Sum(nil))
	lines := []struct{ name, hostKey, why string }{
		{"as in a .pub file", own + " a comment", ""},
		{"known_hosts", name + " " + own, ""},
		{"without the port", "upstream.test " + own, ""},
		{"pattern", "other.test,*.test " + own, ""},
		{"hashed", hashed + " " + own, ""},
		{"the server's other key", line(second.PublicKey()), ""},
		{"a stranger's key first", line(stranger.PublicKey()) + "\n" + own, ""},
		{"another host's line too", "other.test " + line(stranger.PublicKey()) + "\n" + name + " " + own, ""},
		{"a stranger's key", line(stranger.PublicKey()), "is not the pinned one"},
		{"revoked", own + "\n@revoked * " + own, "host key"},
		{"nothing", "", "no host_key is pinned"},
		{"a sample", "ssh-ed25519 AAAA...", "no host_key is pinned"},
	}
	try := func(name, hostKey, why string) {
		t.Helper()
		r.edit(func(c *Config) { repo(c, func(x *repoT) { x.HostKey = hostKey }) })
		out, err := r.try(r.state, "git", "ls-remote", r.url("git", "app"))
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(out, why)) {
			t.Errorf("%s: %v, %s; want %q", name, err, out, why)
		}
	}
	for _, l := range lines {
		try(l.name, l.hostKey, l.why)
	}
	r.ssh.AddHostKey(certified(t, ca, "upstream.test"))
	try("authority", "@cert-authority *.test "+line(ca.PublicKey()), "")
	try("another authority", "@cert-authority *.test "+line(otherCA.PublicKey()), "is not the pinned one")
	try("a revoked authority", "@cert-authority *.test "+line(ca.PublicKey())+"\n@revoked * "+line(ca.PublicKey()), "host key is revoked")
	r.ssh.AddHostKey(certified(t, ca, "other.test"))
	try("another name", "@cert-authority *.test "+line(ca.PublicKey()), "is not the pinned one")
}

// Identities come in all forms that ssh-keygen writes, with and without a passphrase out of a slot.
func TestIdentities(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) { c.Idle = 2 * time.Minute }) // opening a key takes long on a busy machine
	r.seed("main", map[string]string{"a": "1"})
	pass := "correct horse battery"
	for _, kind := range [][]string{{"ed25519"}, {"rsa", "-b", "2048"}, {"rsa", "-b", "2048", "-m", "PEM"}, {"ecdsa", "-m", "PKCS8"}, {"rsa", "-b", "2048", "-m", "PKCS8"}} {
		for _, secret := range []string{"", pass} {
			name := strings.Join(kind, " ") + " " + secret
			file := filepath.Join(dir, base64.RawURLEncoding.EncodeToString([]byte(name)))
			r.run(dir, append([]string{"ssh-keygen", "-q", "-N", secret, "-f", file, "-t"}, kind...)...)
			pub, err := os.ReadFile(file + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			key, _, _, _, err := ssh.ParseAuthorizedKey(pub)
			if err != nil {
				t.Fatal(err)
			}
			r.ssh.Admit(key)
			try := func(slot, why string) {
				t.Helper()
				r.edit(func(c *Config) {
					c.Slot = func(string) string { return slot }
					repo(c, func(x *repoT) {
						x.Identity, x.Passphrase = file, ""
						if slot != "" {
							x.Passphrase = "GIT_PASS_0"
						}
					})
				})
				out, err := r.try(r.state, "git", "ls-remote", r.url("git", "app"))
				if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(out, why)) {
					t.Errorf("%s: %v, %s; want %q", name, err, out, why)
				}
				if slot != "" && strings.Contains(out, slot) {
					t.Errorf("%s: the passphrase shows", name)
				}
			}
			try(secret, "")
			if secret != "" {
				try("", "no slot with its passphrase")
				try("another passphrase", "does not open the key")
			}
		}
	}
}

func TestBadIdentity(t *testing.T) {
	r := newRig(t, func(c *Config) {
		repo(c, func(x *repoT) { x.Identity = filepath.Join(c.Dirs.State, "not-a-key") })
	})
	r.fails(r.state, []string{"reading identity: the file cannot be read"}, "git", "ls-remote", r.url("git", "app"))
	r.write(r.state, "not-a-key", "-----BEGIN NONSENSE-----\n-----END NONSENSE-----\n")
	r.fails(r.state, []string{"reading identity: no private key"}, "git", "ls-remote", r.url("git", "app"))
	r.edit(func(c *Config) {
		c.File.Repos = map[string]bundle.Repo{"app": {URL: r.ssh.URL("upstream.test", "app"), HostKey: r.ssh.HostKey()}}
	})
	r.fails(r.state, []string{"no identity is configured"}, "git", "ls-remote", r.url("git", "app"))
}
