package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/bundle"
)

// TestGitOverHTTPSGoesToGitGate: git that asks egress for a repository of git-gate's, in
// any spelling of its URL, fetches from git-gate and pushes to it. No other
// repository is sent there.
func TestGitOverHTTPSGoesToGitGate(t *testing.T) {
	b := prepare(t, nil)
	p := b.withApps("", "app")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	gate := free.Addr().String()
	must(t, free.Close())
	text, err := os.ReadFile(filepath.Join(b.dirs.Etc, "git-gate.yaml"))
	must(t, err)
	b.write("git-gate.yaml", strings.Replace(string(text), "http: '127.0.0.1:0'", "http: '"+gate+"'", 1))
	b.write("egress.yaml", b.egressYAML(fmt.Sprintf("mirrors: [{url: 'https://git.ok.test/acme/app.git', to: 'http://%s/app.git'}]\n", gate)))
	b.run()
	if listen := b.status(bundle.GitGate).Listen[bundle.FDGitHTTP]; listen != gate {
		t.Fatalf("git-gate listens on %s, expected %s", listen, gate)
	}
	try := func(dir string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "HTTPS_PROXY=http://"+b.egress, "https_proxy=http://"+b.egress,
			"NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1", "GIT_SSL_CAINFO="+b.dirs.Etc+"/ca/ca.crt", "GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, url := range []string{"https://git.ok.test/acme/app", "https://git.ok.test/acme/app.git", "https://git.ok.test/acme/app/", "https://git.ok.test:443/acme/app.git/", "https://user@git.ok.test/acme/app.git",
		"https://user:word@GIT.ok.test/acme/app", "https://git.ok.test/acme/%61pp", "https://git.ok.test//acme/app.git"} {
		if out, err := try("", "ls-remote", url); err != nil || !strings.Contains(out, "refs/heads/main") {
			t.Errorf("%s: %v, %s", url, err, out)
		}
	}
	for _, url := range []string{"https://git.ok.test/acme/app-other.git", "https://git.ok.test/acme/app.github.io", "https://git.ok.test/app.git", "https://git.ok.test/acme/App", "https://git.ok.test:8443/acme/app.git", "https://other.ok.test/acme/app.git"} {
		if out, err := try("", "ls-remote", url); err == nil || !strings.Contains(out, "refused by egress") || strings.Contains(out, gate) {
			t.Errorf("%s: expected egress's refusal, got %v, %s", url, err, out)
		}
	}
	work := t.TempDir() + "/work"
	for _, args := range [][]string{{"clone", "-q", "https://git.ok.test/acme/app", work}, {"-C", work, "commit", "-q", "--allow-empty", "-m", "second"}, {"-C", work, "push", "-q", "origin", "HEAD"}} {
		if out, err := try("", args...); err != nil {
			t.Fatalf("git %v: %v, %s", args, err, out)
		}
	}
	if log := p.git(p.server.Dir("app"), "log", "--format=%s", "main"); log != "second\nfirst\n" {
		t.Errorf("upstream has %q", log)
	}
	if !strings.Contains(b.audits(), `"rule":"mirrors[0] https://git.ok.test/acme/app.git"`) {
		t.Error("the audit does not have that git was sent to git-gate")
	}
}
