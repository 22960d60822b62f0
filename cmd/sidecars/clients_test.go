package main

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientsWithAPlaceholder has git and curl, which are given a placeholder
// for a password and write it in their own ways.
func TestClientsWithAPlaceholder(t *testing.T) {
	run := func(env []string, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}, env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	backend := filepath.Join(strings.TrimSpace(run(nil, "git", "--exec-path")), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		t.Skip("git has no http-backend here")
	}
	root := t.TempDir()
	run(nil, "git", "init", "-q", "-b", "main", root+"/work")
	run(nil, "git", "-C", root+"/work", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "the first")
	run(nil, "git", "clone", "-q", "--bare", root+"/work", root+"/o/r.git")

	var b *running
	serve := &cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	b = withRoutes(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != b.token {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/hello" {
			fmt.Fprintf(w, "hello %s", r.Header.Get("Authorization"))
			return
		}
		serve.ServeHTTP(w, r)
	}), `
  - {host: 'api.ok.test:PORT', paths: ['/o/*'], git: fetch, auth: &held {type: replace, placeholder: PLACEHOLDER1, slot: EGRESS_TOKEN_0}}
  - {host: 'api.ok.test:PORT', paths: ['/hello'], auth: *held}
`, "")
	b.run()
	ca := filepath.Join(b.dirs.Etc, "ca/ca.crt")
	env := []string{"HTTPS_PROXY=http://" + b.egress, "GIT_SSL_CAINFO=" + ca, "CURL_CA_BUNDLE=" + ca}
	with := strings.Replace(b.url("api.ok.test", ""), "https://", "https://me:PLACEHOLDER1@", 1)
	run(env, "git", "clone", "-q", with+"/o/r.git", root+"/clone")
	if log := run(nil, "git", "-C", root+"/clone", "log", "--format=%s"); log != "the first\n" {
		t.Error(log)
	}
	if _, err := exec.LookPath("curl"); err == nil {
		if out := run(env, "curl", "-sS", with+"/hello"); !strings.HasPrefix(out, "hello Basic ") || !strings.Contains(out, "[redacted:EGRESS_TOKEN_0]") {
			t.Error(strings.ReplaceAll(out, b.token, "THE TOKEN"))
		}
	}
	b.keptSecret(b.token)
}
