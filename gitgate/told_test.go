package gitgate

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"

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

// TestFaultsNameTheirPlace: what git's own checks refuse is told with its path, an object over the limit with the limit.
func TestFaultsNameTheirPlace(t *testing.T) {
	r := newRig(t, func(c *Config) { c.File.Limits.ObjectBytes = 1 << 20 })
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "modules", map[string]string{".gitmodules": "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n"})
	out := r.fails(w, []string{".gitmodules: git's own checks", "gitmodulesUrl"}, "git", "push", "origin", "HEAD")
	if strings.Contains(out, "pack is corrupt") {
		t.Errorf("expected no word of a corrupt pack: %s", out)
	}
	r.run(w, "git", "reset", "-q", "--hard", "HEAD~")
	r.commit(w, "large", map[string]string{"large.bin": strings.Repeat("0123456789abcde\n", 70<<10)})
	r.fails(w, []string{"1146880 bytes", "limits.object_bytes (1048576)", "git rev-list"}, "git", "push", "origin", "HEAD")
	r.agree()
	r.noLeftovers()
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
