package gitgate

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// TestUpstreamsWordsAreTold: what an upstream says when it refuses to serve reaches the person, by ssh from its standard
// error, by https from a text.
func TestUpstreamsWordsAreTold(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		if err := os.Rename(r.ssh.Dir("app"), r.ssh.Dir("gone")); err != nil {
			t.Fatal(err)
		}
		r.fails(w, []string{"says: fatal: ", "does not appear to be a git repository"}, "git", "fetch", "origin")
		r.commit(w, "more", map[string]string{"b": "1"})
		r.fails(w, []string{"does not appear to be a git repository"}, "git", "push", "origin", "HEAD")
		own := token(71)
		var denied atomic.Bool
		r = viaHTTPS(t, own, own, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if denied.Load() {
					http.Error(w, "Permission to acme/app denied to "+own+"\x1b[2J", http.StatusForbidden)
					return
				}
				h.ServeHTTP(w, q)
			})
		})
		r.seed("main", map[string]string{"a": "1"})
		w = r.clone(protocol)
		denied.Store(true)
		if out := r.fails(w, []string{"403", "Permission to acme/app denied to [redacted]"}, "git", "fetch", "origin"); strings.Contains(out, own) || strings.Contains(out, "\x1b") {
			t.Error("the credential or an escape was told")
		}
	})
}

// TestFaultsNameTheirPlace: what git's own checks x
func TestFaultsNameTheirPlace(t *testing.T) {
	r := newRig(t, func(c *Config) { c.File.Limits.ObjectBytes = 1 << 20 })
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "modules", map[string]string{".gitmodules": "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n"})
	out := r.fails(w, []string{".gitmodules: git's own checks", "gitmodulesUrl"}, "git", "push", "origin", "HEAD")
	if strings.Contains(out, "pack is corrupt") {
		t.Errorf("expected no word of a corrupt pack: %s", out)
	}
	r.agree()
	r.noLeftovers()
}

// TestLargeFilesAreNamed: a push with an object over a limit is refused with the object's id, its file, its commit and the setting.
func TestLargeFilesAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		limits bundle.GitLimits
		want   string
	}{
		"object": {bundle.GitLimits{ObjectBytes: 1 << 20}, "over limits.object_bytes (1048576)"},
		"pack":   {bundle.GitLimits{PushBytes: 1 << 20}, "more than limits.push_bytes (1048576)"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := newRig(t, func(c2 *Config) { c2.File.Limits = c.limits })
				r.seed("main", map[string]string{"a": "1"})
				w := r.clone(protocol)
				r.commit(w, "before", map[string]string{"b": "2"})
				noise := string(make3MB(rand.NewChaCha8([32]byte{11}))[:2<<20])
				files := map[string]string{"z": "3", "deep/down/large.bin": noise}
				if name == "pack" { // the limit is reached within another object; git sends the tree before both
					files["deep/down/large.bin"] = noise[:900<<10]
					files["deep/down/y.bin"] = noise[1<<20 : 1<<20+500<<10]
				}
				r.commit(w, "with it", files)
				commit, blob := r.run(w, "git", "rev-parse", "HEAD"), r.run(w, "git", "rev-parse", "HEAD:deep/down/large.bin")
				if name == "object" { // the whole pack is read, so that the commit is the one that brought the file
					r.commit(w, "after", map[string]string{"c": "4"})
				}
				size := fmt.Sprint(len(files["deep/down/large.bin"]))
				r.fails(w, []string{c.want, "object " + blob + " of " + size + " bytes (file deep/down/large.bin in commit " + commit[:12] + ")"}, "git", "push", "origin", "HEAD")
				r.agree()
			})
		})
	}
}

// TestLargeFilesThatHaveNoName: of a delta only the size is known, so that the way to the file is told. A path that holds a secret is not told.
func TestLargeFilesThatHaveNoName(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	noise := string(make3MB(rand.NewChaCha8([32]byte{12}))[:1<<20])
	r.commit(w, "one", map[string]string{"large.bin": noise})
	r.commit(w, "two", map[string]string{"large.bin": noise[:1<<20-9]})
	r.edit(func(c *Config) { c.File.Limits.ObjectBytes = 1<<20 - 1 })
	r.run(w, "git", "remote", "set-url", "origin", r.url("git", "app"))
	r.fails(w, []string{"large.bin", "1048576 bytes", "limits.object_bytes (1048575)"}, "git", "push", "origin", "HEAD")
	r.run(w, "git", "reset", "-q", "--hard", "HEAD~2")
	secret := token(61)
	r.commit(w, "secret", map[string]string{secret + ".bin": noise})
	out := r.fails(w, []string{"limits.object_bytes (1048575)", "To find the file: git rev-list"}, "git", "push", "origin", "HEAD")
	r.absent(secret, out)
}

// TestLargeFileOfUpstreamIsNamed: a fetch that upstream's pack makes impossible says which file it is.
func TestLargeFileOfUpstreamIsNamed(t *testing.T) {
	r := newRig(t)
	commit := r.seed("main", map[string]string{"deep/large.bin": strings.Repeat("0123456789abcde\n", 70<<10)})
	up, err := newTransport(r.config, r.config.File.Repos["app"])
	if err != nil {
		t.Fatal(err)
	}
	limits := objects.Limits{PackBytes: 1 << 30, ObjectBytes: 1 << 20, TotalBytes: 1 << 32, Objects: 1000}
	m, err := openMirror("app", filepath.Join(t.TempDir(), "app.git"), up, limits, times{answer: 20 * time.Second, report: 20 * time.Second, transfer: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer m.store.Close()
	_, err = m.refresh(t.Context())
	for _, want := range []string{"of 1146880 bytes is over what git-gate takes of upstream (1048576 bytes", "file deep/large.bin in commit " + commit[:12]} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected %q, got %v", want, err)
		}
	}
}

// TestABranchNamedLikeASecretCanBeDeleted: upstream has the name, and the push takes it away; creating one is refused.
func TestABranchNamedLikeASecretCanBeDeleted(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	name := token(72)
	r.run(r.ssh.Dir("app"), "git", "branch", name, "main")
	w := r.clone("git")
	r.run(w, "git", "push", "-q", "origin", ":"+name)
	r.agree()
	r.fails(w, []string{"the name of a reference"}, "git", "push", "origin", "HEAD:refs/heads/"+name)
	r.agree()
}

// TestWhatFollowsAPack, and other pushes that the gate refuses by itself.
func TestPushesThatAreNotLeftToUpstream(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		head := r.seed("main", map[string]string{"a": "1", "d/b": "2"})
		r.run(r.ssh.Dir("app"), "git", "branch", "topic/one", "main")
		w := r.clone(protocol)
		tree, blob := strings.TrimSpace(r.run(w, "git", "rev-parse", "HEAD^{tree}")), strings.TrimSpace(r.run(w, "git", "rev-parse", "HEAD:a"))
		pack := r.packOf(w, "HEAD")
		empty := r.packOf(w)
		for _, c := range []struct {
			name     string
			commands []string
			pack     []byte
			want     string
		}{
			{"a byte behind the pack", []string{zeros + " " + head + " refs/heads/x"}, append(bytes.Clone(pack), 'x'), "follows its checksum"},
			{"a second pack", []string{zeros + " " + head + " refs/heads/x"}, append(bytes.Clone(pack), pack...), "follows its checksum"},
			{"shallow without a name", []string{"shallow xyz", zeros + " " + head + " refs/heads/x"}, pack, ""},
			{"a branch at a tree", []string{zeros + " " + tree + " refs/heads/x"}, pack, "ng refs/heads/x a branch is a commit, and this is a tree"},
			{"a branch at a blob", []string{zeros + " " + blob + " refs/heads/x"}, empty, "ng refs/heads/x a branch is a commit, and this is a blob"},
			{"a tag at a tree", []string{zeros + " " + tree + " refs/tags/x"}, pack, "ok refs/tags/x"},
			{"a file where a folder is", []string{zeros + " " + head + " refs/heads/topic"}, empty, "ng refs/heads/topic there is refs/heads/topic/one, which cannot be beside it"},
			{"a folder where a file is", []string{zeros + " " + head + " refs/heads/main/x"}, empty, "ng refs/heads/main/x there is refs/heads/main, which cannot be beside it"},
			{"both in one push", []string{zeros + " " + head + " refs/heads/n", zeros + " " + head + " refs/heads/n/x"}, empty, "ng refs/heads/n there is refs/heads/n/x"},
		} {
			before := r.refs(r.ssh.Dir("app"))
			answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", c.commands, nil, bytes.NewReader(c.pack))), "\n")
			if !strings.Contains(answer, c.want) {
				t.Errorf("%s: expected %q, got %q", c.name, c.want, answer)
			}
			if after := r.refs(r.ssh.Dir("app")); (after != before) != strings.HasPrefix(c.want, "ok") {
				t.Errorf("%s: upstream has\n%s", c.name, after)
			}
		}
		if log := r.log.String(); strings.Contains(log, "panicked") {
			t.Error(log)
		}
	})
}

func TestConflictOf(t *testing.T) {
	zero, a, b := objects.Hash{}, objects.Hash{}, objects.Hash{}
	a[0], b[0] = 1, 2
	now := &snapshot{}
	for _, name := range []string{"refs/heads/a", "refs/heads/b/c", "refs/heads/b-d"} {
		now.refs = append(now.refs, ref{name: name, hash: a})
	}
	// In the order of bytes.
	now.refs[1], now.refs[2] = now.refs[2], now.refs[1]
	for _, c := range []struct {
		updates []update
		want    string // of the first
	}{
		{[]update{{zero, a, "refs/heads/x"}}, ""},
		{[]update{{zero, a, "refs/heads/b-d2"}}, ""},
		{[]update{{zero, a, "refs/heads/a/x"}}, "refs/heads/a"},
		{[]update{{zero, a, "refs/heads/a/x/y"}}, "refs/heads/a"},
		{[]update{{zero, a, "refs/heads/b"}}, "refs/heads/b/c"},
		{[]update{{a, b, "refs/heads/a"}}, ""},
		{[]update{{a, zero, "refs/heads/a"}, {zero, a, "refs/heads/a/x"}}, ""},
		{[]update{{zero, a, "refs/heads/a/x"}, {a, zero, "refs/heads/a"}}, ""},
		{[]update{{zero, a, "refs/heads/b"}, {a, zero, "refs/heads/b/c"}}, ""},
		{[]update{{zero, a, "refs/heads/n/x"}, {zero, a, "refs/heads/n"}}, "refs/heads/n"},
	} {
		if got := conflictOf(now, c.updates, c.updates[0]); got != c.want {
			t.Errorf("%v: %q, want %q", c.updates, got, c.want)
		}
	}
}

func TestBranchesAreCommits(t *testing.T) {
	r := rules{repos: map[string]bundle.Repo{}}
	zero, a := objects.Hash{}, objects.Hash{}
	a[0] = 1
	for _, c := range []struct {
		ref  string
		f    facts
		want policy.Verdict
	}{
		{"refs/heads/x", facts{known: true, other: "tag"}, policy.Denied("ref-type", "a branch is a commit, and this is a tag")},
		{"refs/tags/x", facts{known: true, other: "tag"}, policy.Allowed("push")},
		{"refs/notes/x", facts{known: true, other: "blob"}, policy.Allowed("push")},
		{"refs/heads/x", facts{known: true, conflict: "refs/heads/x/y"}, policy.Denied("ref-conflict", "there is refs/heads/x/y, which cannot be beside it")},
	} {
		if got := r.update(update{zero, a, c.ref}, c.f); got != c.want {
			t.Errorf("%s, %+v: %+v", c.ref, c.f, got)
		}
	}
}
