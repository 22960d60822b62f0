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
	"airlock/internal/proposal"
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
	if os.Getuid() == 0 { // nobody else may look
		if places, err := lab.InMemory(b.status(bundle.GitGate).PID, b.token); err != nil || len(places) > 0 {
			t.Errorf("git-gate has egress's credential in memory: %v, %v", places, err)
		}
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

	// Upstream has the credential in a file already: it is no reason to let it pass again.
	up := p.t.TempDir() + "/up"
	p.git(p.t.TempDir(), "clone", "-q", p.server.Dir("app"), up)
	text := "k=" + b.token + "\n"
	must(t, os.WriteFile(up+"/env", []byte(text), 0o600))
	p.git(up, "add", "-A")
	p.git(up, "commit", "-q", "-m", "by mistake")
	p.git(up, "push", "-q", "origin", "HEAD")
	work = p.clone("app")
	if out, err := p.push(work, "env", text+"more=1\n"); err == nil || !strings.Contains(out, "secret found: EGRESS_TOKEN_0 in env") {
		t.Errorf("a credential that upstream has: %v, %s", err, out)
	}
}

// TestGitAllow: a false alarm goes to the operator, by a digest; a grant lets that value into that repository, and nothing else.
func TestGitAllow(t *testing.T) {
	b := prepare(t, nil)
	p := b.withApps("", "app", "lib")
	b.run()
	k, other := varied(), varied()
	work := p.clone("app")
	out, err := p.push(work, "conf.txt", "a\nkey "+k+"\n")
	if err == nil || strings.Contains(out, k) {
		t.Fatalf("%v, %s", err, out)
	}
	q := b.pending()
	if q.Kind != proposal.GitAllow || q.Repo != "app" || q.Rule == "" || len(q.Digest) != 64 || !strings.HasPrefix(q.Place, "conf.txt:2, object ") || q.Daemon != bundle.GitGate {
		t.Errorf("%+v", q)
	}
	if !strings.Contains(out, q.ID) || strings.Contains(fmt.Sprintf("%+v", q), k) {
		t.Errorf("%s\n%+v", out, q)
	}
	// The same again, in another place and with a reason: the same question.
	again := p.clone("app")
	must(t, os.WriteFile(again+"/other.txt", []byte("x = "+k), 0o600))
	p.git(again, "add", "-A")
	p.git(again, "commit", "-q", "-m", "change")
	if out, err := p.try(again, "push", "-o", "airlock-reason=it is a test vector", "origin", "HEAD:refs/heads/again"); err == nil || !strings.Contains(out, q.ID) {
		t.Errorf("%v, %s", err, out)
	}
	if all := b.proposals(); len(all) != 1 {
		t.Errorf("%+v", all)
	}
	// What is a secret in the agent's own words is told to nobody.
	if out, err := p.push(p.clone("lib"), "conf.txt", "plain"); err != nil {
		t.Errorf("%v, %s", err, out)
	}
	lib0 := p.clone("lib")
	must(t, os.WriteFile(lib0+"/mine.txt", []byte("key "+other), 0o600))
	p.git(lib0, "add", "-A")
	p.git(lib0, "commit", "-q", "-m", "change")
	if out, err := p.try(lib0, "push", "-o", "airlock-reason=it is "+k+" again", "origin", "HEAD:refs/heads/z"); err == nil || strings.Contains(out, k) || !strings.Contains(out, "leave it out of the options") {
		t.Errorf("%v, %s", err, out)
	}
	if all := b.proposals(); len(all) != 2 || !strings.Contains(fmt.Sprint(all), "withheld") || strings.Contains(fmt.Sprint(all), k) || strings.Contains(fmt.Sprint(all), other) {
		t.Errorf("%+v", all)
	}
	for _, q := range b.proposals() {
		if q.Repo == "lib" {
			b.decide(q.ID, proposal.Denied)
		}
	}
	// A yes without a change of the file changes nothing.
	if out, err := p.try(work, "push", "origin", "HEAD"); err == nil {
		t.Errorf("it went through: %s", out)
	}
	text, err := os.ReadFile(b.dirs.File(bundle.GitGate))
	must(t, err)
	grant := fmt.Sprintf("scan:\n  config: \"\"\n  allow:\n    - {repo: app, rule: %s, digest: %s, reason: a test vector}\n", q.Rule, q.Digest)
	b.write("git-gate.yaml", string(text)+grant)
	must(t, b.ctl.Do(t.Context(), "POST", "/restart", url.Values{"daemon": {bundle.GitGate}}, nil, nil))
	b.decide(q.ID, proposal.Approved)
	p.git(work, "remote", "set-url", "origin", p.remote("app"))
	p.git(work, "push", "origin", "HEAD")
	p.git(again, "remote", "set-url", "origin", p.remote("app"))
	p.git(again, "push", "-o", "airlock-reason=it is a test vector", "origin", "HEAD:refs/heads/again")
	if out, err := p.push(work, "more.txt", "key "+other); err == nil {
		t.Errorf("another value went through: %s", out)
	}
	lib := p.clone("lib")
	if out, err := p.push(lib, "conf.txt", "a\nkey "+k+"\n"); err == nil {
		t.Errorf("it went into another repository: %s", out)
	}
	for _, q := range b.proposals() {
		if q.State == proposal.Pending {
			b.decide(q.ID, proposal.Denied)
		}
	}
	if out, err := p.try(lib, "push", "origin", "HEAD"); err == nil || !strings.Contains(out, "the operator has said no") {
		t.Errorf("%v, %s", err, out)
	}
	if all := b.proposals(); len(all) != 4 {
		t.Errorf("%+v", all)
	}
	if kept := b.audits(); strings.Contains(kept, k) || strings.Contains(kept, other) {
		t.Error("the audit holds a value")
	}
}
