package gitgate

import (
	"fmt"
	"strings"
	"testing"
)

// Pushes of many kinds arrive as they were sent, with each protocol of the client's.
func TestPushMatrix(t *testing.T) {
	cases := map[string]func(r *rig, w string) []string{ // returns what is pushed; the last line of it must be upstream's then
		"from a shallow clone": func(r *rig, w string) []string {
			r.run(w, "git", "fetch", "-q", "--depth=1", "--update-shallow", "origin", "main")
			r.commit(w, "mine", map[string]string{"b": "1"})
			return []string{"HEAD:refs/heads/x"}
		},
		"a submodule": func(r *rig, w string) []string {
			r.run(w, "git", "update-index", "--add", "--cacheinfo", "160000,"+someID+",sub")
			r.write(w, ".gitmodules", "[submodule \"sub\"]\n\tpath = sub\n\turl = ../sub.git\n")
			r.run(w, "git", "add", ".gitmodules")
			r.run(w, "git", "commit", "-q", "-m", "submodule")
			return []string{"HEAD:refs/heads/x"}
		},
		"a tag of a tag": func(r *rig, w string) []string {
			r.run(w, "git", "tag", "-a", "-m", "one", "v1")
			r.run(w, "git", "tag", "-a", "-m", "two", "v2", "v1")
			return []string{"v2:refs/tags/v2"}
		},
		"a tag of a file":   func(r *rig, w string) []string { return []string{"HEAD:a:refs/tags/file"} },
		"a tag of a folder": func(r *rig, w string) []string { return []string{"HEAD^{tree}:refs/tags/tree"} },
		"an orphan": func(r *rig, w string) []string {
			r.run(w, "git", "checkout", "-q", "--orphan", "o")
			r.commit(w, "orphan", map[string]string{"o": "1"})
			return []string{"HEAD:refs/heads/x"}
		},
		"a merge of an orphan": func(r *rig, w string) []string {
			r.run(w, "git", "checkout", "-q", "--orphan", "o")
			r.commit(w, "orphan", map[string]string{"o": "1"})
			r.run(w, "git", "checkout", "-q", "main")
			r.run(w, "git", "merge", "-q", "--allow-unrelated-histories", "-m", "both", "o")
			return []string{"HEAD:refs/heads/x"}
		},
		"an old commit": func(r *rig, w string) []string { return []string{"HEAD~2:refs/heads/x"} },
		"upon an old commit": func(r *rig, w string) []string {
			r.run(w, "git", "checkout", "-q", "HEAD~2")
			r.commit(w, "mine", map[string]string{"b": "1"})
			return []string{"HEAD:refs/heads/x"}
		},
		"a revert": func(r *rig, w string) []string {
			r.run(w, "git", "revert", "--no-edit", "HEAD")
			return []string{"HEAD:refs/heads/x"}
		},
		"a rename": func(r *rig, w string) []string {
			r.run(w, "git", "mv", "a", "z")
			r.run(w, "git", "commit", "-q", "-m", "rename")
			return []string{"HEAD:refs/heads/x"}
		},
		"many folders": func(r *rig, w string) []string {
			r.commit(w, "mine", numbered("d%d/e/f", 80))
			r.commit(w, "more", numbered("d%d/e/g", 80))
			return []string{"HEAD:refs/heads/x"}
		},
		"many references": func(r *rig, w string) (refs []string) {
			for i := range 60 {
				refs = append(refs, fmt.Sprintf("HEAD~%d:refs/heads/many/%d", i%3, i))
			}
			return refs
		},
		"nothing new": func(r *rig, w string) []string { return []string{"HEAD:refs/heads/main"} },
		"a note": func(r *rig, w string) []string {
			r.run(w, "git", "notes", "add", "-m", "a note")
			return []string{"refs/notes/commits:refs/notes/commits"}
		},
		"another kind of reference": func(r *rig, w string) []string { return []string{"HEAD:refs/custom/x"} },
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, protocol string) {
				r := newRig(t)
				for i := range 3 {
					r.seed("main", map[string]string{"a": fmt.Sprint(i), fmt.Sprintf("dir/%d", i): "same"})
				}
				w := r.clone(protocol)
				refs := c(r, w)
				r.run(w, append([]string{"git", "push", "-q", "origin"}, refs...)...)
				last := refs[len(refs)-1]
				at := strings.LastIndexByte(last, ':')
				if want, got := r.run(w, "git", "rev-parse", last[:at]), r.run(r.ssh.Dir("app"), "git", "rev-parse", last[at+1:]); got != want {
					t.Errorf("upstream has %s, want %s", got, want)
				}
				r.agree()
				r.run(r.ssh.Dir("app"), "git", "fsck", "--full", "--strict")
			})
		})
	}
}
