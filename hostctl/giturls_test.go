package hostctl

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/config"
)

// resolved is where git goes for a URL with the pair's configuration.
func resolved(t *testing.T, m *Manifest, spelling string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "gitconfig")
	if err := os.WriteFile(file, gitConfig(m), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "git", "ls-remote", "--get-url", spelling)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
	for name, value := range gitEnv(m) {
		cmd.Env = append(cmd.Env, name+"="+strings.ReplaceAll(value, "/etc/airlock/gitconfig", file))
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git ls-remote --get-url %s: %v", spelling, err)
	}
	return strings.TrimSpace(string(out))
}

// mirrorOf is the mirror that a URL leads to, directly or through egress; empty: none.
func mirrorOf(t *testing.T, m *Manifest, spelling string) string {
	t.Helper()
	at := resolved(t, m, spelling)
	if name, ok := strings.CutPrefix(at, "http://git-gate:9420/"); ok {
		return strings.TrimSuffix(name, ".git")
	}
	u, id, err := identityOf(at)
	if err != nil || u.Scheme != "https" {
		return "not https: " + at
	}
	for _, mirror := range mirrorsOf(m) {
		if _, known, err := identityOf(mirror.URL); err == nil && known == id {
			return strings.TrimSuffix(filepath.Base(mirror.To), ".git")
		}
	}
	return ""
}

// TestGitSpellings asks git itself: every spelling of a mirror leads to it, and no
// other repository does.
func TestGitSpellings(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	spellings := []string{"https://H/acme/app", "https://H/acme/app.git", "https://H/acme/app/", "https://H/acme/app.git/", "https://H:443/acme/app.git", "https://user@H/acme/app.git",
		"https://x-access-token:word@H/acme/app", "ssh://git@H/acme/app.git", "ssh://git@H:22/acme/app", "ssh://H/acme/app.git", "git+ssh://git@H/acme/app.git", "ssh+git://git@H/acme/app",
		"git@H:acme/app", "git@H:acme/app.git", "git@H:/acme/app.git", "H:acme/app.git", "git://H/acme/app.git"}
	others := []string{"https://H/acme/app-other.git", "https://H/acme/app.github.io", "https://H/acme/app.gitx.git", "https://H/acme/app2", "https://H/acme", "https://H/acme/app/wiki.git", "https://H/acme/app.git/x",
		"https://H/acme/App.git", "git@H:acme/app-other.git", "git@H:acme/app.github.io", "ssh://git@H/acme/app-other", "https://H:8443/acme/app.git"}
	for _, upstream := range []string{"https://H/acme/app.git", "https://H/acme/app", "ssh://git@H/acme/app.git", "ssh://git@H:22/acme/app.git", "ssh://git@H/acme/app", "git@H:acme/app.git", "git@H:acme/app", "git+ssh://git@H/acme/app.git"} {
		at := func(s string) string { return strings.ReplaceAll(s, "H", "git.example.com") }
		m := &Manifest{Git: ManifestGit{Repos: map[string]ManifestRepo{"mirror": {URL: at(upstream)}}}}
		for _, s := range append(slices.Clone(spellings), upstream) {
			if got := mirrorOf(t, m, at(s)); got != "mirror" {
				t.Errorf("%s of %s: leads to %q", s, upstream, got)
			}
		}
		for _, s := range others {
			if got := mirrorOf(t, m, at(s)); got != "" {
				t.Errorf("%s beside %s: leads to %q", s, upstream, got)
			}
		}
		for _, s := range []string{"https://other.example.com/acme/app.git", "git@other.example.com:acme/app.git", "https://git.example.com.evil.test/acme/app.git"} {
			if got := resolved(t, m, s); got != s {
				t.Errorf("%s became %s", s, got)
			}
		}
	}
}

// TestLFSSpellings asks git-lfs itself where it would go from a clone with a remote in
// each spelling: to the API of that repository on git-gate.
func TestLFSSpellings(t *testing.T) {
	if _, err := exec.LookPath("git-lfs"); err != nil {
		t.Skip("git-lfs is not installed (apt-get install git-lfs): the real client is not tested")
	}
	m := &Manifest{Git: ManifestGit{Repos: map[string]ManifestRepo{
		"mirror": {URL: "https://git.example.com/acme/app.git"}, "ssh": {URL: "ssh://git@git.example.com:2222/acme/tool.git"}, "odd": {URL: "https://git.example.com/acme/a[1]*"},
	}}}
	files := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte("/etc/airlock"), []byte(files)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write(gitConfigFile, gitConfig(m))
	for name, data := range lfsFiles(m) {
		write(name, data)
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GIT_CONFIG_NOSYSTEM=1"}
		for name, value := range gitEnv(m) {
			cmd.Env = append(cmd.Env, name+"="+strings.ReplaceAll(value, "/etc/airlock/gitconfig", config))
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("init", "-q")
	run("remote", "add", "origin", "x")
	for spelling, want := range map[string]string{
		"https://git.example.com/acme/app.git": "mirror", "https://git.example.com/acme/app": "mirror", "https://git.example.com/acme/app/": "mirror", "https://git.example.com:443/acme/app.git": "mirror",
		"https://user@git.example.com/acme/app": "mirror", "git@git.example.com:acme/app.git": "mirror", "git@git.example.com:acme/app": "mirror", "ssh://git@git.example.com/acme/app.git": "mirror",
		"ssh://git@git.example.com:2222/acme/tool.git": "ssh", "ssh://git@git.example.com:2222/acme/tool": "ssh", "git@git.example.com:acme/tool.git": "ssh", "https://git.example.com/acme/tool": "ssh",
		"https://git.example.com/acme/a[1]*": "odd", "https://git.example.com/acme/app2.git": "", "https://git.example.com/acme/a1x": "", "https://other.example.com/acme/app": "",
	} {
		run("remote", "set-url", "origin", spelling)
		out := run("lfs", "env")
		endpoint := "Endpoint=http://git-gate:9420/" + want + ".git/info/lfs "
		if want == "" && strings.Contains(out, "git-gate") && strings.Contains(out, "Endpoint=http://git-gate") || want != "" && !strings.Contains(out, endpoint) {
			i := max(0, strings.Index(out, "Endpoint"))
			t.Errorf("%s: expected %q, got %s", spelling, endpoint, out[i:min(len(out), i+120)])
		}
	}
}

// TestGitSpellingsOfNeighbours: repositories whose names begin alike, and one at two
// ports of a host, stay apart.
func TestGitSpellingsOfNeighbours(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	m := &Manifest{Git: ManifestGit{Repos: map[string]ManifestRepo{
		"app": {URL: "https://git.example.com/app"}, "app2": {URL: "https://git.example.com/app2.git"}, "pages": {URL: "git@git.example.com:app.github.io"},
		"other": {URL: "ssh://git@git.example.com:2222/other.git"}, "ported": {URL: "https://git.example.com:8443/other.git"},
	}}}
	for spelling, want := range map[string]string{
		"https://git.example.com/app": "app", "https://git.example.com/app.git": "app", "https://git.example.com/app2": "app2", "git@git.example.com:app2.git": "app2",
		"https://git.example.com/app.github.io": "pages", "ssh://git@git.example.com/app.github.io.git": "pages", "https://git.example.com/app.github": "",
		"ssh://git@git.example.com:2222/other": "other", "https://git.example.com/other": "other", "git@git.example.com:other": "other", "https://git.example.com:8443/other": "ported",
	} {
		if got := mirrorOf(t, m, spelling); got != want {
			t.Errorf("%s: %q, want %q", spelling, got, want)
		}
	}
}

// TestShortFormInAManifest: user@host:path is taken, and reaches git-gate as it is.
func TestShortFormInAManifest(t *testing.T) {
	for url, good := range map[string]bool{
		"git@git.example.com:acme/app.git": true, "git.example.com:acme/app": false, "git@git.example.com:~user/app.git": true,
		"./app:x": false, "/srv/app.git": false, "app": false, "file:///srv/app.git": false, "git@git.example.com:": false, "https://git.example.com": false, "git@git example.com:app": false,
	} {
		m := &Manifest{}
		text := "version: 1\nname: demo\nagent: {command: [sh]}\ngit: {repos: {app: {url: '" + url + "', identity: 'file:key', host_key: 'ssh-ed25519 AAAA'}}}\n"
		err := config.Decode("airlock.yaml", []byte(text), m)
		if (err == nil) != good {
			t.Errorf("%q: %v", url, err)
			continue
		}
		if good {
			l := newLayout()
			if repo := l.git(m).Repos["app"]; repo.URL != url {
				t.Errorf("%q became %q", url, repo.URL)
			}
		}
	}
	u, err := bundle.ParseGitURL("git@git.example.com:acme/app.git")
	if err != nil || u.Scheme != "ssh" || u.User.Username() != "git" || u.Host != "git.example.com" || u.Path != "acme/app.git" {
		t.Errorf("%+v, %v", u, err)
	}
}
