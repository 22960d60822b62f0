package gitgate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"airlock/gitgate/objects"
	"github.com/go-git/go-git/v5/plumbing"
)

// object writes an object, however odd, and returns its name.
func (r *rig) object(dir, typ, data string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", "hash-object", "-t", typ, "-w", "--literally", "--stdin")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv, strings.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// loose packs just the named objects.
func (r *rig) loose(dir string, names ...string) io.Reader {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "git", "pack-objects", "--stdout", "-q")
	cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv, strings.NewReader(strings.Join(names, "\n")+"\n")
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatal(err)
	}
	return bytes.NewReader(out)
}

func (r *rig) objects(dir string) map[string]bool {
	r.t.Helper()
	all := map[string]bool{}
	for _, name := range strings.Fields(r.run(dir, "git", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")) {
		all[name] = true
	}
	return all
}

// What no reference needs stays behind: neither upstream nor the mirror gets it.
func TestOnlyWhatIsNeededGoesOn(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1", "dir/b": "2"})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"dir/b": "3"})
		head, tree, dir, file := r.run(w, "git", "rev-parse", "HEAD"), r.run(w, "git", "rev-parse", "HEAD^{tree}"), r.run(w, "git", "rev-parse", "HEAD:dir"), r.run(w, "git", "rev-parse", "HEAD:dir/b")
		extra := r.object(w, "blob", "nobody needs this\n")
		answer := pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + head + " refs/heads/x"}, nil, r.loose(w, head, tree, dir, file, extra)))
		if strings.Join(answer, "\n") != "unpack ok\nok refs/heads/x" {
			t.Errorf("%q", answer)
		}
		r.agree()
		for _, dir := range []string{r.ssh.Dir("app"), r.mirrorDir()} {
			if all := r.objects(dir); all[extra] || !all[head] || !all[file] {
				t.Errorf("%s: extra %v, commit %v, file %v", dir, all[extra], all[head], all[file])
			}
		}
	})
}

// What upstream refused is in the mirror for nobody: a later push cannot rest on it.
func TestRefusedObjectsAreGone(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		r.hook("update", `case $1 in refs/heads/bad) exit 1;; esac`)
		w := r.clone(protocol)
		r.run(w, "git", "checkout", "-q", "-b", "bad")
		r.commit(w, "refused", map[string]string{"b": "refused"})
		refused, blob := r.run(w, "git", "rev-parse", "HEAD"), r.run(w, "git", "rev-parse", "HEAD:b")
		r.run(w, "git", "checkout", "-q", "-b", "good", "origin/main")
		r.commit(w, "taken", map[string]string{"c": "taken"})
		r.fails(w, []string{"[remote rejected] bad"}, "git", "push", "origin", "bad", "good")
		r.agree()
		if all := r.objects(r.mirrorDir()); all[refused] || all[blob] || !all[r.run(w, "git", "rev-parse", "good")] {
			t.Error("the mirror has what upstream refused, or lacks what it took")
		}
		r.run(w, "git", "checkout", "-q", "bad")
		r.commit(w, "on top", map[string]string{"d": "1"})
		head, tree, file := r.run(w, "git", "rev-parse", "HEAD"), r.run(w, "git", "rev-parse", "HEAD^{tree}"), r.run(w, "git", "rev-parse", "HEAD:d")
		answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + head + " refs/heads/y"}, nil, r.loose(w, head, tree, file))), "\n")
		if !strings.Contains(answer, "ng refs/heads/y") || !strings.Contains(answer, "did not come along") {
			t.Error(answer)
		}
		r.agree()
	})
}

// A mirror keeps objects that upstream no longer shows; upstream is not known to have them, so a push may not rest on them.
func TestPrunedObjectsCountForNothing(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		gone := r.seed("gone", map[string]string{"b": "gone"})
		w := r.clone(protocol)
		blob := r.run(w, "git", "rev-parse", "origin/gone:b")
		r.run(r.ssh.Dir("app"), "git", "branch", "-q", "-D", "gone")
		r.run(w, "git", "fetch", "-q", "--prune")
		if !r.objects(r.mirrorDir())[gone] {
			t.Fatal("the mirror has dropped it already")
		}
		main := r.run(w, "git", "rev-parse", "origin/main")
		stolen := r.object(w, "tree", "100644 b\x00"+unhex(blob))
		commit := r.object(w, "commit", fmt.Sprintf("tree %s\nparent %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nx\n", stolen, main))
		for what, push := range map[string]struct {
			tip  string
			pack io.Reader
		}{
			"the commit itself": {gone, bytes.NewReader(emptyPack())},
			"a file of it":      {commit, r.loose(w, commit, stolen)},
		} {
			answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + push.tip + " refs/heads/x"}, nil, push.pack)), "\n")
			if !strings.Contains(answer, "did not come along") {
				t.Errorf("%s: %s", what, answer)
			}
		}
		// An old file of upstream's own history is upstream's, wherever it stands now.
		r.seed("main", map[string]string{"a": "2"})
		r.run(w, "git", "pull", "-q")
		old := r.object(w, "tree", "100644 z\x00"+unhex(r.run(w, "git", "rev-parse", "HEAD~1:a")))
		revert := r.object(w, "commit", fmt.Sprintf("tree %s\nparent %s\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nx\n", old, main))
		answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + revert + " refs/heads/old"}, nil, r.loose(w, revert, old))), "\n")
		if answer != "unpack ok\nok refs/heads/old" {
			t.Error(answer)
		}
		r.agree()
	})
}

func unhex(name string) string {
	var b [20]byte
	for i := range b {
		_, _ = fmt.Sscanf(name[2*i:2*i+2], "%02x", &b[i])
	}
	return string(b[:])
}

// Objects that git would refuse with receive.fsckObjects are refused, whatever they are under.
func TestMalformedObjects(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		blob := r.object(w, "blob", "[submodule \"x\"]\n\tpath = x\n\turl = --upload-pack=evil\n")
		long := r.object(w, "blob", strings.Repeat("x", 3000)+"\n")
		good := r.object(w, "blob", "[submodule \"x\"]\n\tpath = x\n\turl = https://example.com/x.git\n")
		commit := func(tree string) string {
			return r.object(w, "commit", "tree "+tree+"\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1 +0000\n\nx\n")
		}
		for id, tree := range map[string]string{
			"hasDotgit": "40000 .GIT\x00" + unhex(r.object(w, "tree", "")), "gitmodulesUrl": "100644 .gitmodules\x00" + unhex(blob), "gitmodulesSymlink": "120000 .gitmodules\x00" + unhex(good),
			"gitattributesLineLength": "100644 .gitattributes\x00" + unhex(long), "treeNotSorted": "100644 b\x00" + unhex(blob) + "100644 a\x00" + unhex(long),
		} {
			name := r.object(w, "tree", tree)
			tip := commit(name)
			pack := r.loose(w, tip, name, blob, long, good, r.object(w, "tree", ""))
			answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", []string{zeros + " " + tip + " refs/heads/x"}, nil, pack)), "\n")
			if !strings.Contains(answer, id) || !strings.Contains(answer, "ng refs/heads/x") {
				t.Errorf("%s: %s", id, answer)
			}
		}
		r.agree()
	})
}

// A file that upstream took under another name is judged when it becomes one that git reads; so is one that stands for two of them.
func TestFilesThatBecomeWhatGitReads(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		line := strings.Repeat("x", 3000) + "\n"
		r.seed("main", map[string]string{"evil": "[submodule \"x\"]\n\turl = -u\n", "long": line})
		w := r.clone(protocol)
		for id, files := range map[string][2]string{"gitmodulesUrl": {"evil", ".gitmodules"}, "gitattributesLineLength": {"long", "dir/.gitattributes"}} {
			r.run(w, "git", "checkout", "-q", "--detach", "origin/main")
			r.write(w, "dir/x", "1")
			r.run(w, "git", "mv", files[0], files[1])
			r.commit(w, "renamed", nil)
			r.fails(w, []string{id}, "git", "push", "origin", "HEAD:refs/heads/x")
		}
		r.run(w, "git", "checkout", "-q", "--detach", "origin/main")
		r.commit(w, "both", map[string]string{".gitmodules": "# " + line, ".gitattributes": "# " + line})
		r.fails(w, []string{"gitattributesLineLength"}, "git", "push", "origin", "HEAD:refs/heads/x")
		r.agree()
	})
}

// Kilobytes of a pack may name more paths, or longer ones, than fit into memory, and have more of a folder read at a time.
func TestPathsAreBounded(t *testing.T) {
	r := newRig(t)
	w := t.TempDir()
	r.run(w, "git", "init", "-q")
	blob := r.object(w, "blob", "1")
	folder := func(n int, mode, inside string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s %03d\x00%s", mode, i, unhex(inside))
		}
		return r.object(w, "tree", b.String())
	}
	files := folder(100, "100644", blob)
	deep := files
	var names []string
	for range 4 {
		deep = r.object(w, "tree", "40000 "+strings.Repeat("x", 250)+"\x00"+unhex(deep))
		names = append(names, deep)
	}
	for name, c := range map[string]struct {
		tree string
		room int // in which it fits; half of that is not enough
	}{
		"a folder":        {files, 350 * keepPath},
		"in many folders": {folder(20, "40000", files), 5000 * keepPath},
		"links":           {folder(100, "160000", blob), 400 * keepPath},
		"long paths":      {deep, 100 * (1000 + 4*keepPath)},
	} {
		pack, err := objects.Receive(t.Context(), r.loose(w, append(names, c.tree, files, blob)...), t.TempDir(), objects.Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 1 << 20, Objects: 1000})
		if err != nil {
			t.Fatal(err)
		}
		defer pack.Close()
		for _, part := range []int{1, 2} {
			n := newNeed(t.Context(), pack, nil, &snapshot{})
			n.room = c.room / part
			err := n.follow([]update{{new: plumbing.NewHash(c.tree), ref: "refs/tags/x"}})
			wanted := n.wanted.Len()
			if n.forget(); n.kept != nil || n.names != nil || n.wanted.Len() != wanted {
				t.Errorf("%s: paths are kept when they are no longer needed, or more is dropped", name)
			}
			if (err == nil) != (part == 1) || err != nil && !errors.Is(err, objects.ErrLimit) {
				t.Errorf("%s, with a room of %d: %v", name, n.room, err)
			}
		}
	}
}

// A fault of ours that an object brings out ends its push, and not the gate.
func TestPanicsRefuseThePush(t *testing.T) {
	r := newRig(t)
	w := t.TempDir()
	r.run(w, "git", "init", "-q")
	blob := r.object(w, "blob", token(122))
	pack, err := objects.Receive(t.Context(), r.loose(w, blob), t.TempDir(), objects.Limits{PackBytes: 1 << 20, ObjectBytes: 1 << 20, TotalBytes: 1 << 20, Objects: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	scanner, err := newScanner(r.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &inspection{
		scanner: scanner, pack: pack, seen: newCleared(), need: newNeed(t.Context(), pack, nil, &snapshot{}),
		value: func(string, []byte) (string, bool) { panic("here") },
	}
	if hits, err := s.run(t.Context()); err == nil || strings.Contains(err.Error(), "here") {
		t.Errorf("%v, %v", hits, err)
	}
}

// Packs that are not what they say are refused, over both protocols, and leave nothing.
func TestBadPacks(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		head := r.seed("main", map[string]string{"a": strings.Repeat("one line after the other\n", 100)})
		w := r.clone(protocol)
		r.commit(w, "mine", map[string]string{"a": strings.Repeat("one line after the other\n", 100) + "more"})
		tip := r.run(w, "git", "rev-parse", "HEAD")
		good := r.packOf(w, tip, "^"+head)
		changed := func(at int, to byte) []byte {
			b := bytes.Clone(good)
			b[at] = to
			return b
		}
		thin := exec.CommandContext(t.Context(), "git", "pack-objects", "--revs", "--stdout", "-q", "--thin")
		thin.Dir, thin.Env, thin.Stdin = w, gitEnv, strings.NewReader(tip+"\n^"+head+"\n")
		onBase, err := thin.Output()
		if err != nil || len(onBase) >= len(good) {
			t.Fatalf("%d bytes, %v", len(onBase), err)
		}
		for name, c := range map[string]struct {
			pack []byte
			want string
		}{
			"cut in half":       {good[:len(good)/2], ""},
			"wrong checksum":    {changed(len(good)-1, good[len(good)-1]^1), "checksum differs"},
			"more than it says": {changed(11, good[11]-1), "checksum differs"},
			"thin":              {onBase, "a delta's base is missing"},
			"no pack":           {[]byte("what is this, then, what is this?"), "no pack of version 2"},
			"empty":             {emptyPack(), "did not come along"},
		} {
			if c.want == "" && protocol == "git" {
				continue // the gate waits for the rest
			}
			answer := strings.Join(pktLines(r.rawPush(protocol, "report-status", []string{head + " " + tip + " refs/heads/main"}, nil, bytes.NewReader(c.pack))), "\n")
			if !strings.Contains(answer, c.want) || !strings.Contains(answer, "ng refs/heads/main") {
				t.Errorf("%s: %q, want %q", name, answer, c.want)
			}
		}
		r.agree()
		r.run(w, "git", "push", "-q", "origin", "HEAD")
		r.agree()
	})
}
