package gitgate

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unsaid checks that neither the audit nor the log tells a secret.
func (r *rig) unsaid(secret string) {
	r.t.Helper()
	seen := false
	_ = filepath.WalkDir(filepath.Join(r.state, "audit"), func(path string, _ fs.DirEntry, _ error) error {
		text, err := os.ReadFile(path)
		seen = seen || len(text) > 0
		if err == nil && bytes.Contains(text, []byte(secret)) {
			r.t.Error("the audit holds the secret")
		}
		return nil
	})
	if !seen {
		r.t.Error("there is no audit")
	}
	r.stop()
	if strings.Contains(r.log.String(), secret) {
		r.t.Error("the log holds the secret")
	}
}

// TestPathsInPieces: a secret may be a path only as a whole, in whichever folder a file or a folder stands, be it new itself or not.
func TestPathsInPieces(t *testing.T) {
	k := token(108)
	a, b := k[:20], k[20:]
	for name, files := range map[string]map[string]string{
		"two levels":          {a + "/" + b: "new"},
		"three levels":        {a + "/" + b[:10] + "/" + b[10:]: "new"},
		"a twin elsewhere":    {"a0/x": "the same", a + "/" + b: "the same"},
		"what upstream has":   {a + "/" + b: "1"},
		"a folder of its own": {"b0/" + b: "2", a + "/" + b: "2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.seed("main", map[string]string{"a": "1", "b1/" + b: "2"})
			w := r.clone("git")
			r.commit(w, "x", files)
			commit := strings.TrimSpace(r.run(w, "git", "rev-parse", "HEAD"))
			r.fails(w, []string{"secret found", "the path of a file in commit " + commit[:8]}, "git", "push", "origin", "HEAD")
			r.agree()
			r.unsaid(k)
		})
	}
}

// TestPathsOfEmptyFolders: no file tells of a folder in which there is none, and its name may be the rest of a secret.
func TestPathsOfEmptyFolders(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		k := token(111)
		r := newRig(t)
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		folder := func(name, inside string) string {
			return r.object(w, "tree", "40000 "+name+"\x00"+unhex(inside))
		}
		top := folder(k[:20], folder(k[20:], r.object(w, "tree", "")))
		tip := r.run(w, "git", "commit-tree", "-p", "HEAD", "-m", "x", top)
		r.fails(w, []string{"secret found", "the path of a file"}, "git", "push", "origin", tip+":refs/heads/x")
		r.agree()
		r.unsaid(k)
	})
}

// TestSubmoduleCommits: what a submodule names need not be anywhere, so its twenty bytes can be anything.
func TestSubmoduleCommits(t *testing.T) {
	k := token(110)
	for name, link := range map[string]func(r *rig, w string){
		"side by side": func(r *rig, w string) {
			r.run(w, "git", "update-index", "--add", "--cacheinfo", fmt.Sprintf("160000,%x,s1", k[:20]), "--add", "--cacheinfo", fmt.Sprintf("160000,%x,s2", k[20:]))
			r.run(w, "git", "commit", "-qm", "both")
		},
		"one after the other": func(r *rig, w string) {
			for _, half := range []string{k[:20], k[20:]} {
				r.run(w, "git", "update-index", "--add", "--cacheinfo", fmt.Sprintf("160000,%x,s", half))
				r.run(w, "git", "commit", "-qm", "one")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone("git")
			r.run(w, "git", "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("4d", 20)+",lib")
			r.run(w, "git", "commit", "-qm", "an ordinary one")
			r.run(w, "git", "push", "-q", "origin", "HEAD")
			link(r, w)
			r.fails(w, []string{"secret found"}, "git", "push", "origin", "HEAD")
			r.agree()
			r.unsaid(k)
		})
	}
}

// TestPathRulesSeeEachPath: some files are secrets by their names, in whichever of their paths that is.
func TestPathRulesSeeEachPath(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "twins", map[string]string{"a.dat": "\x30\x82 a file", "b.p12": "\x30\x82 a file"})
	r.fails(w, []string{"pkcs12-file in b.p12"}, "git", "push", "origin", "HEAD:refs/heads/one")
	r.run(w, "git", "reset", "-q", "--hard", "origin/main")
	r.commit(w, "data", map[string]string{"a.dat": "\x30\x82 another file"})
	r.run(w, "git", "push", "-q", "origin", "HEAD:refs/heads/two")
	r.run(w, "git", "mv", "a.dat", "b.p12")
	r.commit(w, "renamed", nil)
	r.fails(w, []string{"pkcs12-file in b.p12"}, "git", "push", "origin", "HEAD:refs/heads/two")
	r.agree()
}

// TestNamesOfReferencesAreWithheld whatever else is wrong with a push.
func TestNamesOfReferencesAreWithheld(t *testing.T) {
	k := token(101)
	for name, push := range map[string]func(r *rig, head string) (commands []string, pack []byte){
		"no pack": func(_ *rig, head string) ([]string, []byte) {
			return []string{zeros + " " + head + " refs/heads/" + k}, []byte("PACK and nothing of the kind")
		},
		"a base that is missing": func(r *rig, _ string) ([]string, []byte) {
			w := r.clone("git")
			r.commit(w, "1", map[string]string{"b": "1"})
			r.commit(w, "2", map[string]string{"b": "2"})
			tip := r.run(w, "git", "rev-parse", "HEAD")
			return []string{zeros + " " + tip + " refs/heads/" + k}, r.packOf(w, tip, "^"+tip+"~1")
		},
		"too many": func(_ *rig, head string) (commands []string, _ []byte) {
			for i := range 1001 {
				commands = append(commands, fmt.Sprintf("%s %s refs/heads/%s-%d", zeros, head, k, i))
			}
			return commands, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			commands, pack := push(r, r.seed("main", map[string]string{"a": "1"}))
			answer := strings.Join(pktLines(r.rawPush("git", "report-status", commands, nil, bytes.NewReader(pack))), "\n")
			if strings.Contains(answer, "\nok ") || !strings.Contains(answer, "ng ") {
				t.Errorf("%.200s", answer)
			}
			r.unsaid(k)
		})
	}
}

// TestUnknownRepositoriesAreNotNamed: a name that nobody configured may be anything.
func TestUnknownRepositoriesAreNotNamed(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t)
		k := token(104)
		r.fails(t.TempDir(), []string{"no repository of that name"}, "git", "ls-remote", r.url(protocol, k))
		r.unsaid(k)
	})
}

// TestDroppedSecretIsNoOldOne: upstream has dropped it, the mirror's folder still holds it, and who pushes says that it is there.
func TestDroppedSecretIsNoOldOne(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	k := token(109)
	bad := r.seed("leak", map[string]string{"conf/key": "key = " + k + "\n"})
	w := r.clone("git")
	r.run(r.ssh.Dir("app"), "git", "update-ref", "-d", "refs/heads/leak")
	r.run(w, "git", "fetch", "-q", "--prune", "origin")
	r.commit(w, "again", map[string]string{"conf/key": "key = " + k + "\nmore\n"})
	tip := r.run(w, "git", "rev-parse", "HEAD")
	answer := pktLines(r.rawPush("git", "report-status", []string{zeros + " " + tip + " refs/heads/new", bad + " " + tip + " refs/heads/leak"}, nil, bytes.NewReader(r.packOf(w, tip, "^origin/main"))))
	if up := r.refs(r.ssh.Dir("app")); strings.Count(up, "\n") > 0 {
		t.Errorf("upstream has now\n%s\n%q", up, answer)
	}
	r.unsaid(k)
}

// TestOldSecretInANewPath: what upstream has in one path excuses nothing in another, in which the same file stands.
func TestOldSecretInANewPath(t *testing.T) {
	r := newRig(t)
	k := token(301)
	r.seed("main", map[string]string{"conf/old": "key = " + k + "\n"})
	w := r.clone("git")
	text := "more\nkey = " + k + "\n"
	r.commit(w, "edited", map[string]string{"conf/old": text})
	r.run(w, "git", "push", "-q", "origin", "HEAD")
	text = "still more\n" + text
	r.commit(w, "copied", map[string]string{"conf/old": text, "public/q": text})
	r.fails(w, []string{"secret found"}, "git", "push", "origin", "HEAD")
	r.agree()
}

// TestKindsAreChecked: an object that stands where another kind belongs is refused, in the pack or upstream's, as git does with receive.fsckObjects: what
// it points at would not be looked at.
func TestKindsAreChecked(t *testing.T) {
	for name, make := range map[string]func(r *rig, w string, up map[string]string) string{
		"a parent is a blob": func(r *rig, w string, up map[string]string) string {
			return r.child(w, up["tree"], r.object(w, "blob", "b"))
		},
		"a parent is a tree": func(r *rig, w string, up map[string]string) string { return r.child(w, up["tree"], up["tree"]) },
		"a folder is a blob": func(r *rig, w string, up map[string]string) string {
			return r.child(w, r.folder(w, "40000", up["blob"]), up["commit"])
		},
		"a file is a tree": func(r *rig, w string, up map[string]string) string {
			return r.child(w, r.folder(w, "100644", up["tree"]), up["commit"])
		},
		"a file is a commit": func(r *rig, w string, up map[string]string) string {
			return r.child(w, r.folder(w, "100644", up["commit"]), up["commit"])
		},
		"a file of ours is a commit": func(r *rig, w string, up map[string]string) string {
			broken := r.child(w, strings.Repeat("77", 20), strings.Repeat("78", 20))
			return r.child(w, r.folder(w, "100644", broken), up["commit"])
		},
		"a tag of a blob says commit": func(r *rig, w string, _ map[string]string) string {
			return r.object(w, "tag", "object "+r.object(w, "blob", "b")+"\ntype commit\ntag v\ntagger A <a@example.com> 1700000000 +0000\n\nx\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.seed("main", map[string]string{"a": "1"})
			w := r.clone("git")
			up := map[string]string{"commit": "HEAD", "tree": "HEAD^{tree}", "blob": "HEAD:a"}
			for kind, rev := range up {
				up[kind] = r.run(w, "git", "rev-parse", rev)
			}
			tip := make(r, w, up)
			var ours []string
			for h := range r.objects(w) {
				if h != up["commit"] && h != up["tree"] && h != up["blob"] {
					ours = append(ours, h)
				}
			}
			answer := strings.Join(pktLines(r.rawPush("git", "report-status", []string{zeros + " " + tip + " refs/tags/v"}, nil, r.loose(w, ours...))), "\n")
			if !strings.Contains(answer, "ng refs/tags/v ") || strings.Contains(answer, "upstream: ") {
				t.Errorf("%s", answer)
			}
			r.agree()
		})
	}
}

// child writes a commit.
func (r *rig) child(w, tree, parent string) string {
	return r.object(w, "commit", "tree "+tree+"\nparent "+parent+"\nauthor A <a@example.com> 1700000000 +0000\ncommitter A <a@example.com> 1700000000 +0000\n\nx\n")
}

// folder writes a tree with one entry.
func (r *rig) folder(w, mode, name string) string {
	raw, err := hex.DecodeString(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.object(w, "tree", mode+" f\x00"+string(raw))
}
