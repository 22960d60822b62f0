package gitgate

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"golang.org/x/crypto/ssh"
)

// httpsUpstream is git's own http-backend behind TLS and a password.
func httpsUpstream(t *testing.T, token string, wrap func(http.Handler) http.Handler) (root, url string, roots *x509.CertPool) {
	t.Helper()
	root = t.TempDir()
	execPath, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{
		Path:   filepath.Join(strings.TrimSpace(string(execPath)), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=gate", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent"},
		Stderr: t.Output(),
	}
	handler := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "x-access-token" || password != token {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	if wrap != nil {
		handler = wrap(handler)
	}
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots = x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return root, server.URL, roots
}

// viaHTTPS points the rig's repository at an https upstream that serves the very same folder.
func viaHTTPS(t *testing.T, token, slot string, wrap func(http.Handler) http.Handler) *rig {
	root, url, roots := httpsUpstream(t, token, wrap)
	r := newRig(t)
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.ssh.Root, root); err != nil {
		t.Fatal(err)
	}
	r.edit(func(c *Config) {
		c.File.Repos = map[string]bundle.Repo{"app": {URL: url + "/app.git", Token: "GIT_TOKEN_0"}}
		c.Roots = roots
		c.Slot = func(name string) string { return map[string]string{"GIT_TOKEN_0": slot}[name] }
		c.Slots = []string{"GIT_TOKEN_0", "PATH"}
	})
	return r
}

func TestHTTPSUpstream(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := viaHTTPS(t, token(21), token(21), nil)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD", "HEAD:topic")
		r.run(w, "git", "push", "-q", "origin", ":topic")
		r.agree()
		r.seed("main", map[string]string{"c": "1"})
		r.run(w, "git", "pull", "-q", "--ff-only")
		r.commit(w, "leak", map[string]string{"d": token(22)})
		r.fails(w, []string{"secret found: github-pat in d:1"}, "git", "push", "origin", "HEAD")
		r.agree()
	})
}

// The gate's own token is a secret of whatever shape, in every encoding.
func TestPushOfTheGatesOwnToken(t *testing.T) {
	own := "plain words, no known shape"
	r := viaHTTPS(t, own, own, nil)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "leak", map[string]string{"b": "x" + base64.StdEncoding.EncodeToString([]byte("\x00"+own))})
	r.fails(w, []string{"GIT_TOKEN_0 in b:1"}, "git", "push", "origin", "HEAD")
	r.agree()
}

func TestHTTPSRefusals(t *testing.T) {
	own := token(23)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the credential went to another host")
		}
	}))
	t.Cleanup(elsewhere.Close)
	cases := map[string]struct {
		slot string
		wrap func(http.Handler) http.Handler
		why  string
	}{
		"wrong token": {token(24), nil, "refuses the gate's credential"},
		"empty slot":  {"", nil, "slot of this repository's token is empty"},
		"redirect": {own, func(http.Handler) http.Handler {
			return http.RedirectHandler(elsewhere.URL+"/app.git/info/refs?service=git-upload-pack", http.StatusFound)
		}, "redirects to another host"},
		"no git": {own, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
		}, "does not speak smart HTTP"},
		"echo": {own, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, password, _ := r.BasicAuth()
				w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
				_ = writePkt(w, "# service=git-upload-pack\n")
				_ = writeFlush(w)
				_ = writePkt(w, "ERR I know your token: "+password+" "+base64.StdEncoding.EncodeToString([]byte(password)))
			})
		}, "I know your token: [redacted]"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := viaHTTPS(t, own, c.slot, c.wrap)
				out := r.fails(t.TempDir(), []string{c.why}, "git", "ls-remote", r.url(protocol, "app"))
				r.stop()
				for _, form := range []string{own, own[4:20], base64.StdEncoding.EncodeToString([]byte(own))[:30]} {
					if strings.Contains(out, form) || strings.Contains(r.log.String(), form) {
						t.Errorf("the token shows: %s", strings.ReplaceAll(out, form, "…"))
					}
				}
			})
		})
	}
}

func TestUntrustedCertificate(t *testing.T) {
	r := viaHTTPS(t, token(25), token(25), nil)
	r.edit(func(c *Config) { c.Roots = x509.NewCertPool() })
	r.fails(t.TempDir(), []string{"certificate"}, "git", "ls-remote", r.url("git", "app"))
}

// Roots of the operator's make an upstream of their own authority trusted.
func TestOwnRoots(t *testing.T) {
	var cert []byte
	r := viaHTTPS(t, token(26), token(26), nil)
	conn, err := tls.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(r.config.File.Repos["app"].URL, "https://"), "/app.git"), &tls.Config{RootCAs: r.config.Roots, ServerName: "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	cert = conn.ConnectionState().PeerCertificates[0].Raw
	conn.Close()
	file := filepath.Join(r.state, "roots.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	r.edit(func(c *Config) { c.Roots = nil })
	r.fails(r.state, []string{"certificate"}, "git", "ls-remote", r.url("git", "app"))
	r.edit(func(c *Config) { c.File.UpstreamCA = file })
	r.run(r.state, "git", "ls-remote", r.url("git", "app"))
}

// A server with several host keys is known by the pinned one, whichever it would prefer.
func TestOneOfSeveralHostKeys(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	r.ssh.AddHostKey(signer)
	r.clone("git")
	r.edit(func(c *Config) {
		repo(c, func(x *repoT) { x.HostKey = string(ssh.MarshalAuthorizedKey(signer.PublicKey())) })
	})
	r.clone("git")
}

// Upstream dies while it judges a push: nothing is claimed that is not known.
func TestUpstreamDiesAfterThePush(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		fifo := filepath.Join(t.TempDir(), "fifo")
		r.run(w, "mkfifo", fifo)
		r.hook("pre-receive", "echo x >"+fifo+"\nread never <"+fifo+"\nexit 1\n")
		go func() {
			f, err := os.Open(fifo) // opens when the hook runs
			if err == nil {
				defer f.Close()
			}
			r.ssh.Close()
		}()
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.fails(w, []string{"the outcome is unknown, fetch to see"}, "git", "push", "origin", "HEAD")
		r.agree()
	})
}

// A hook that thinks for longer than a client may be silent does not cost the push.
func TestSlowHook(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t, func(c *Config) { c.Idle = 300_000_000 })
		r.seed("main", map[string]string{"a": "1"})
		r.hook("pre-receive", "sleep 1\n")
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		r.agree()
	})
}

func TestSilentHookIsGivenUp(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Report = 500_000_000 })
	r.seed("main", map[string]string{"a": "1"})
	r.hook("pre-receive", "sleep 60 & wait\n")
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "1"})
	r.fails(w, []string{"outcome is unknown", "said nothing for 500ms"}, "git", "push", "origin", "HEAD")
	r.agree()
}
