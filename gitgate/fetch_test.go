package gitgate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCloneAndFetch(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a.txt": "one\n", "dir/b.txt": "two\n"})
		w := r.clone(protocol)
		r.run(w, "git", "fsck", "--full")
		if got := r.run(w, "cat", "dir/b.txt"); got != "two" {
			t.Errorf("b.txt: %q", got)
		}
		r.agree()
		second := r.seed("main", map[string]string{"a.txt": "changed\n"})
		r.run(w, "git", "pull", "-q", "--ff-only")
		if got := r.run(w, "git", "rev-parse", "HEAD"); got != second {
			t.Errorf("HEAD is %s, want %s", got, second)
		}
		r.run(w, "git", "fsck", "--full")
		r.run(w, "git", "fetch", "-q")
		r.agree()
	})
}

func TestFetchPrunesDeletedBranches(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		r.seed("gone", map[string]string{"b": "1"})
		w := r.clone(protocol)
		r.run(w, "git", "rev-parse", "origin/gone")
		r.run(r.ssh.Dir("app"), "git", "branch", "-q", "-D", "gone")
		r.run(w, "git", "fetch", "-q", "--prune")
		if out, err := r.try(w, "git", "rev-parse", "--verify", "origin/gone"); err == nil {
			t.Errorf("still there: %s", out)
		}
		r.agree()
	})
}

func TestFetchFollowsHead(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		r.seed("trunk", map[string]string{"b": "1"})
		if out := r.run(r.clone(protocol), "git", "branch", "--show-current"); out != "main" {
			t.Errorf("HEAD is %s", out)
		}
		r.run(r.ssh.Dir("app"), "git", "symbolic-ref", "HEAD", "refs/heads/trunk")
		if out := r.run(r.clone(protocol), "git", "branch", "--show-current"); out != "trunk" {
			t.Errorf("HEAD is %s", out)
		}
	})
}

func TestFetchAnnotatedTags(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		r.seed("main", map[string]string{"a": "2"})
		up := r.ssh.Dir("app")
		r.run(up, "git", "tag", "-a", "-m", "one", "v1", "main")
		r.run(up, "git", "tag", "light", "main")
		r.run(w, "git", "fetch", "-q")
		if got, want := r.run(w, "git", "rev-parse", "v1^{commit}", "light"), r.run(up, "git", "rev-parse", "main", "main"); got != want {
			t.Errorf("tags are %s, want %s", got, want)
		}
		r.agree()
	})
}

func TestCloneEmpty(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		w := r.clone(protocol)
		r.commit(w, "first", map[string]string{"a": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD:refs/heads/main")
		r.agree()
	})
}

func TestCloneThousandCommits(t *testing.T) {
	r := newRig(t)
	var stream strings.Builder
	for i := 1; i <= 1000; i++ {
		body := fmt.Sprintf("content %d\n%s", i, strings.Repeat("the same text in every version\n", 40))
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 5\nhello\nM 100644 inline dir/file%d.txt\ndata %d\n%s\n", 1_700_000_000+i, i%37, len(body), body)
	}
	path := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(path, []byte(stream.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r.run(r.ssh.Dir("app"), "sh", "-c", "git fast-import --quiet <"+path+" && git repack -adq")
	thousand := func(t *testing.T, protocol string) {
		r := &rig{t: t, ssh: r.ssh, config: r.config, state: r.state, git: r.git, http: r.http, log: r.log}
		w := r.clone(protocol)
		if n := r.run(w, "git", "rev-list", "--count", "HEAD"); n != "1000" {
			t.Errorf("%s commits", n)
		}
		r.run(w, "git", "fsck", "--full")
		// Many haves, some of them unknown here, over several rounds.
		r.run(w, "git", "reset", "-q", "--hard", "HEAD~500")
		for i := range 50 {
			r.commit(w, fmt.Sprint("own ", i), map[string]string{"own": fmt.Sprint(i)})
		}
		r.run(w, "git", "update-ref", "-d", "refs/remotes/origin/main")
		r.run(w, "git", "fetch", "-q")
		if n := r.run(w, "git", "rev-list", "--count", "origin/main"); n != "1000" {
			t.Errorf("%s commits after fetch", n)
		}
	}
	t.Run("git", func(t *testing.T) { thousand(t, "git") })
	t.Run("http", func(t *testing.T) { thousand(t, "http") })
	r.agree()
}

func TestUnknownAndOddRepositories(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	for _, name := range []string{"nope", "../app", "app.git/../..", "/etc", "app/../app", "%2e%2e/app", strings.Repeat("x", 500), "APP"} {
		for _, protocol := range []string{"git", "http"} {
			if protocol == "http" && strings.Contains(name, "..") {
				continue // the client resolves the dots itself; TestOddPathsOverHTTP sends them raw
			}
			out := r.fails(t.TempDir(), nil, "git", "ls-remote", r.url(protocol, name))
			if !strings.Contains(out, "no repository of that name") && !strings.Contains(out, "not found") && !strings.Contains(out, "Not Found") {
				t.Errorf("%s over %s: %s", name, protocol, out)
			}
		}
	}
	r.run(t.TempDir(), "git", "ls-remote", "git://"+r.git+"/app")
	r.run(t.TempDir(), "git", "ls-remote", "http://"+r.http+"/app/")
}

func TestUpstreamFailuresAreTold(t *testing.T) {
	wrong := newRig(t).ssh.HostKey()
	cases := map[string]struct {
		change func(*rig)
		why    string
	}{
		"down":           {func(r *rig) { r.ssh.Close() }, "connecting to upstream"},
		"wrong host key": {func(r *rig) { r.edit(func(c *Config) { repo(c, func(x *repoT) { x.HostKey = wrong }) }) }, "host key is not the pinned one"},
		"no host key":    {func(r *rig) { r.edit(func(c *Config) { repo(c, func(x *repoT) { x.HostKey = "" }) }) }, "no host_key is pinned"},
		"no identity":    {func(r *rig) { r.edit(func(c *Config) { repo(c, func(x *repoT) { x.Identity = "" }) }) }, "no identity"},
		"repository gone": {func(r *rig) {
			if err := os.RemoveAll(r.ssh.Dir("app")); err != nil {
				r.t.Fatal(err)
			}
		}, "upstream"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := newRig(t)
				r.seed("main", map[string]string{"a": "1"})
				w := r.clone(protocol)
				r.commit(w, "mine", map[string]string{"b": "1"})
				c.change(r)
				r.run(w, "git", "remote", "set-url", "origin", r.url(protocol, "app"))
				r.fails(w, []string{c.why}, "git", "fetch")
				r.fails(w, []string{c.why}, "git", "push", "origin", "HEAD")
				r.noLeftovers()
			})
		})
	}
}

func TestShallowClones(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		for i := range 6 {
			r.seed("main", map[string]string{"a": fmt.Sprint(i), fmt.Sprintf("dir/f%d", i): "x"})
		}
		dir := t.TempDir()
		w := filepath.Join(dir, "w")
		count := func(want string) {
			t.Helper()
			if n := r.run(w, "git", "rev-list", "--count", "HEAD"); n != want {
				t.Errorf("%s commits, want %s", n, want)
			}
			r.run(w, "git", "fsck", "--full")
		}
		r.run(dir, "git", "clone", "-q", "--depth", "2", r.url(protocol, "app"), "w")
		count("2")
		r.seed("main", map[string]string{"a": "later"})
		r.run(w, "git", "pull", "-q", "--ff-only")
		count("3")
		r.run(w, "git", "fetch", "-q", "--depth", "4")
		count("4")
		r.commit(w, "mine", map[string]string{"b": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD:topic")
		r.agree()
		r.run(w, "git", "fetch", "-q", "--unshallow")
		count("8")
		r.run(dir, "git", "clone", "-q", "--depth", "1", r.url(protocol, "app"), "x")
		r.seed("main", map[string]string{"a": "latest"})
		r.run(filepath.Join(dir, "x"), "git", "fetch", "-q", "--depth", "1")
		r.run(filepath.Join(dir, "x"), "git", "fsck", "--full")
	})
}
