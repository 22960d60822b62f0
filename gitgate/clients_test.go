package gitgate

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// libraries are other people's clients, where they are installed. Each takes a URL, a folder to clone to, and fetches once more.
var libraries = map[string]string{
	"dulwich": `
import sys
from dulwich import porcelain
url, to = sys.argv[1:]
repo = porcelain.clone(url, to, errstream=open("/dev/null", "wb"))
porcelain.fetch(repo, url, errstream=open("/dev/null", "wb"))
print(repo.head().decode())
`,
	"pygit2": `
import sys, pygit2
url, to = sys.argv[1:]
repo = pygit2.clone_repository(url, to)
repo.remotes["origin"].fetch()
print(repo.head.target)
`,
}

// systemPython is Debian's, which knows Debian's packages.
const systemPython = "/usr/bin/python3"

// Clients that share no line with git clone and fetch over both protocols.
func TestOtherClients(t *testing.T) {
	r := newRig(t)
	r.history()
	want := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main")
	for name, program := range libraries {
		if out, err := exec.Command(systemPython, "-c", "import "+name).CombinedOutput(); err != nil {
			t.Logf("%s is not installed: %s", name, out)
			continue
		}
		for _, protocol := range []string{"git", "http"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				r := r.in(t)
				to := filepath.Join(t.TempDir(), "w")
				if got := r.run(t.TempDir(), systemPython, "-c", program, r.url(protocol, "app"), to); got != want {
					t.Errorf("HEAD is %q, want %s", got, want)
				}
				r.run(to, "git", "fsck", "--full")
				ours := r.run(to, "git", "rev-list", "--objects", "--no-object-names", "refs/remotes/origin/main")
				if theirs := r.run(r.ssh.Dir("app"), "git", "rev-list", "--objects", "--no-object-names", "main"); ours != theirs {
					t.Error("the clone does not hold what upstream does")
				}
			})
		}
	}
}

func TestTenThousandReferences(t *testing.T) {
	lab.Long(t)
	r := newRig(t)
	head := r.seed("main", map[string]string{"a": "1"})
	var refs strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&refs, "create refs/heads/many/%d %s\n", i, head)
	}
	path := filepath.Join(t.TempDir(), "refs")
	if err := os.WriteFile(path, []byte(refs.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	up := r.ssh.Dir("app")
	r.run(up, "sh", "-c", "git update-ref --stdin <"+path)
	r.run(up, "git", "pack-refs", "--all")
	for _, protocol := range []string{"git", "http"} {
		for _, version := range []string{"0", "2"} {
			dir := t.TempDir()
			r.run(dir, "git", "-c", "protocol.version="+version, "clone", "-q", "--mirror", r.url(protocol, "app"), "w.git")
			if got := strings.Count(r.refs(filepath.Join(dir, "w.git")), "\n"); got != 10_000 {
				t.Errorf("%s v%s: %d references", protocol, version, got+1)
			}
			r.run(dir, "git", "-C", "w.git", "-c", "protocol.version="+version, "fetch", "-q")
			if got := r.run(dir, "git", "-c", "protocol.version="+version, "ls-remote", r.url(protocol, "app"), "refs/heads/many/77"); got != head+"\trefs/heads/many/77" {
				t.Errorf("%s v%s: %q", protocol, version, got)
			}
		}
	}
	r.agree()
}

// An empty upstream is an empty clone, on upstream's own branch.
func TestEmptyUpstreamsBranch(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.run(r.ssh.Dir("app"), "git", "symbolic-ref", "HEAD", "refs/heads/trunk")
		w := r.clone(protocol)
		if got := r.run(w, "git", "symbolic-ref", "HEAD"); got != "refs/heads/trunk" {
			t.Errorf("HEAD is %s", got)
		}
		r.commit(w, "first", map[string]string{"a": "1"})
		r.run(w, "git", "push", "-q", "origin", "trunk")
		if got := r.run(r.clone(protocol), "git", "branch", "--show-current"); got != "trunk" {
			t.Errorf("HEAD is %s", got)
		}
		r.agree()
	})
}

// A submodule's commit is somebody else's: it is neither looked for nor sent.
func TestSubmodules(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		inner := filepath.Join(r.ssh.Root, "lib.git")
		r.run(r.ssh.Root, "git", "init", "-q", "--bare", "-b", "main", "lib.git")
		r.edit(func(c *Config) {
			lib := c.File.Repos["app"]
			lib.URL = r.ssh.URL("upstream.test", "lib")
			c.File.Repos["lib"] = lib
		})
		dir := t.TempDir()
		r.run(dir, "git", "clone", "-q", inner, "lib")
		r.commit(filepath.Join(dir, "lib"), "lib", map[string]string{"l": "1"})
		r.run(filepath.Join(dir, "lib"), "git", "push", "-q", "origin", "HEAD:main")
		r.run(dir, "git", "clone", "-q", r.ssh.Dir("app"), "w")
		w := filepath.Join(dir, "w")
		r.run(w, "git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner, "lib")
		r.run(w, "git", "config", "-f", ".gitmodules", "submodule.lib.url", "../lib.git")
		r.commit(w, "with a submodule", map[string]string{"a": "1"})
		r.run(w, "git", "push", "-q", "origin", "HEAD:main")
		clone := t.TempDir()
		r.run(clone, "git", "clone", "-q", "--recurse-submodules", "--shallow-submodules", r.url(protocol, "app"), "c")
		if got := r.run(clone, "cat", "c/lib/l"); got != "1" {
			t.Errorf("got %q", got)
		}
		r.agree()
	})
}

// There is no archive service, and the client is told so.
func TestNoArchive(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	r.fails(t.TempDir(), []string{"no such service"}, "git", "archive", "--remote="+r.url("git", "app"), "main")
}

// The same over https.
func TestEmptyUpstreamsBranchOverHTTPS(t *testing.T) {
	r := viaHTTPS(t, token(71), token(71), nil)
	r.run(r.ssh.Dir("app"), "git", "symbolic-ref", "HEAD", "refs/heads/trunk")
	if got := r.run(r.clone("git"), "git", "symbolic-ref", "HEAD"); got != "refs/heads/trunk" {
		t.Errorf("HEAD is %s", got)
	}
}
