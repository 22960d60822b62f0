package main

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// pusher is an agent's working copy behind a bundle's git-gate.
type pusher struct {
	*running
	server *lab.GitSSH
}

// withApp puts small repositories behind git-gate, each with one commit; the extra lines go into git-gate.yaml.
func (b *running) withApps(extra string, names ...string) *pusher {
	b.t.Helper()
	root := b.t.TempDir()
	server, err := lab.NewGitSSH(root)
	must(b.t, err)
	b.t.Cleanup(func() { server.Close() })
	p := &pusher{running: b, server: server}
	p.git(root, "init", "-q", "-b", "main", "seed")
	p.git(root+"/seed", "commit", "-q", "--allow-empty", "-m", "first")
	must(b.t, os.MkdirAll(b.dirs.Etc+"/git", 0o700))
	b.write("git/app.key", string(server.Identity()))
	text := "version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nhosts: {upstream.test: 127.0.0.1}\n" + extra + "repos:\n"
	for _, name := range names {
		p.git(root, "clone", "-q", "--bare", "seed", name+".git")
		text += fmt.Sprintf("  %s: {url: '%s', identity: /etc/airlock/git/app.key, host_key: '%s'}\n", name, server.URL("upstream.test", name), server.HostKey())
	}
	b.write("git-gate.yaml", text)
	return p
}

func (p *pusher) try(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (p *pusher) git(dir string, args ...string) string {
	p.t.Helper()
	out, err := p.try(dir, args...)
	if err != nil {
		p.t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return out
}

// clone makes a working copy of a repository.
func (p *pusher) clone(name string) string {
	p.t.Helper()
	dir := filepath.Join(p.t.TempDir(), name)
	p.git("", "clone", "-q", p.remote(name), dir)
	return dir
}

func (p *pusher) remote(name string) string {
	return "git://" + p.status(bundle.GitGate).Listen[bundle.FDGit] + "/" + name + ".git"
}

// push commits a file and pushes it.
func (p *pusher) push(work, file, text string) (string, error) {
	p.t.Helper()
	must(p.t, os.WriteFile(filepath.Join(work, file), []byte(text), 0o600))
	p.git(work, "add", "-A")
	p.git(work, "commit", "-q", "-m", "change")
	return p.try(work, "push", "origin", "HEAD")
}

// TestPushOfTheBundlesCredentials: what egress holds is looked for in a push, in many forms, by who has never seen it; the refusal
// names the slot.
func TestPushOfTheBundlesCredentials(t *testing.T) {
	b := prepare(t, nil)
	p := b.withApps("", "app")
	git := "words that are the git credential"
	b.run("GIT_TOKEN_7=" + git)
	places, err := lab.InMemory(b.status(bundle.GitGate).PID, b.token)
	if err != nil || len(places) > 0 {
		t.Errorf("git-gate has egress's credential in memory: %v, %v", places, err)
	}
	for slot, value := range map[string]string{"EGRESS_TOKEN_0": b.token, "GIT_TOKEN_7": git} {
		for form, text := range map[string]string{
			"plain": "a\nkey " + value + "\n", "base64": "a\n" + base64.StdEncoding.EncodeToString([]byte("xy"+value)), "hex": "a\n" + hex.EncodeToString([]byte(value)),
			"base32": "a\n" + base32.StdEncoding.EncodeToString([]byte(value)), "url": "a\n" + url.QueryEscape(value), "gzip": gzipped(t, value),
			"twice": "a\n" + base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString([]byte(value)))),
		} {
			work := p.clone("app")
			out, err := p.push(work, "conf.txt", text)
			if err == nil || !strings.Contains(out, "secret found: "+slot+" in conf.txt") || strings.Contains(out, value) {
				t.Errorf("%s, %s: %v, %s", slot, form, err, out)
			}
		}
		work := p.clone("app")
		p.git(work, "commit", "-q", "--allow-empty", "-m", "with "+hex.EncodeToString([]byte(value)))
		if out, err := p.try(work, "push", "origin", "HEAD:refs/heads/b"); err == nil || !strings.Contains(out, "secret found: "+slot+" in commit ") {
			t.Errorf("%s, message: %v, %s", slot, err, out)
		}
		if out, err := p.try(work, "push", "-o", value, "origin", "HEAD:refs/heads/b"); err == nil || !strings.Contains(out, "secret found: "+slot) {
			t.Errorf("%s, option: %v, %s", slot, err, out)
		}
	}
	work := p.clone("app")
	if out, err := p.push(work, "conf.txt", "nothing of the kind\n"); err != nil {
		t.Errorf("an ordinary push: %v, %s", err, out)
	}
}
