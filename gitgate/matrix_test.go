package gitgate

import (
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// history makes an upstream with a merge, folders, files of several sizes, tags of every kind, notes and other references.
func (r *rig) history() {
	r.t.Helper()
	var s strings.Builder
	date := func(i int) int { return 1_700_000_000 + i*86_400 }
	for i := 1; i <= 12; i++ {
		body := fmt.Sprintf("content %d\n%s", i, strings.Repeat("the same text in every version\n", 4*i*i))
		fmt.Fprintf(&s, "commit refs/heads/main\nmark :%d\ncommitter A <a@example.com> %d +0000\ndata 5\nhello\n", i, date(i))
		fmt.Fprintf(&s, "M 100644 inline dir%d/sub/file%d.txt\ndata %d\n%s\nM 100644 inline top\ndata %d\n%s\n", i%3, i%5, len(body), body, i, strings.Repeat("x", i))
	}
	fmt.Fprintf(&s, "commit refs/heads/side\nmark :20\ncommitter A <a@example.com> %d +0000\ndata 4\nside\nfrom :4\nM 100644 inline side\ndata 1\ns\n", date(5))
	fmt.Fprintf(&s, "commit refs/heads/main\nmark :21\ncommitter A <a@example.com> %d +0000\ndata 5\nmerge\nfrom :12\nmerge :20\n\n", date(13))
	fmt.Fprintf(&s, "commit refs/heads/other/branch\nmark :22\ncommitter A <a@example.com> %d +0000\ndata 5\nother\nfrom :3\nM 100644 inline more\ndata 4\nmore\n", date(6))
	fmt.Fprintf(&s, "tag v1\nfrom :4\ntagger A <a@example.com> %d +0000\ndata 3\none\n", date(13))
	fmt.Fprintf(&s, "reset refs/tags/light\nfrom :8\n\nreset refs/pull/1/head\nfrom :22\n\n")
	dir := r.ssh.Dir("app")
	path := filepath.Join(r.t.TempDir(), "stream")
	if err := os.WriteFile(path, []byte(s.String()), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.run(dir, "sh", "-c", "git fast-import --quiet <"+path)
	r.run(dir, "git", "tag", "-a", "-m", "of a tag", "nested", "v1")
	r.run(dir, "git", "tag", "-a", "-m", "of a tree", "tree", "main:dir1")
	r.run(dir, "git", "tag", "blob", "main:top")
	r.run(dir, "git", "notes", "add", "-m", "a note", "main~1")
	for _, option := range []string{"allowFilter", "allowAnySHA1InWant"} {
		r.run(dir, "git", "config", "uploadpack."+option, "true")
	}
}

// contents is what makes two clones the same: references, ends of histories, and each object that is or is not there.
func (r *rig) contents(w string) string {
	r.t.Helper()
	r.run(w, "git", "fsck", "--full")
	gitDir := r.run(w, "git", "rev-parse", "--absolute-git-dir")
	shallow, _ := os.ReadFile(filepath.Join(gitDir, "shallow"))
	objects := strings.Split(r.run(w, "git", "rev-list", "--objects", "--all", "--missing=print", "--no-object-names"), "\n")
	ends := strings.Split(string(shallow), "\n")
	slices.Sort(objects)
	slices.Sort(ends)
	return r.refs(w) + "\nHEAD " + r.run(w, "git", "rev-parse", "--symbolic-full-name", "HEAD") + "\nshallow " + strings.Join(ends, "\n") + "\n" + strings.Join(objects, "\n")
}

// matrix are commands that the real client gives. URL stands for the repository, w is where it is cloned to.
var matrix = map[string][]string{
	"clone":                 {"clone -q URL w"},
	"bare":                  {"clone -q --bare URL w"},
	"mirror":                {"clone -q --mirror URL w"},
	"mirror updated":        {"clone -q --mirror URL w", "-C w remote update"},
	"depth 1":               {"clone -q --depth 1 URL w"},
	"depth 3, no single":    {"clone -q --depth 3 --no-single-branch URL w"},
	"unshallow":             {"clone -q --depth 2 URL w", "-C w fetch -q --unshallow"},
	"unshallow all":         {"clone -q --depth 2 --no-single-branch URL w", "-C w fetch -q --unshallow --tags"},
	"deepen":                {"clone -q --depth 2 URL w", "-C w fetch -q --deepen 2"},
	"deepen more":           {"clone -q --no-tags --depth 2 URL w", "-C w fetch -q --deepen 2", "-C w fetch -q --deepen 1"},
	"deepen, tags come":     {"clone -q --depth 2 URL w", "-C w fetch -q --deepen 1", "-C w fetch -q --deepen 1"},
	"deeper and back":       {"clone -q --depth 5 URL w", "-C w fetch -q --depth 9", "-C w fetch -q --depth 2"},
	"since":                 {"clone -q --shallow-since=1700800000 URL w"},
	"since, later":          {"clone -q --depth 1 URL w", "-C w fetch -q --shallow-since=1700400000"},
	"exclude":               {"clone -q --shallow-exclude=light URL w"},
	"exclude, later":        {"clone -q --depth 1 URL w", "-C w fetch -q --shallow-exclude=v1"},
	"blob:none":             {"clone -q --bare --filter=blob:none URL w"},
	"blob:none, checkout":   {"clone -q --filter=blob:none URL w", "-C w checkout -q side"},
	"blob:limit":            {"clone -q --bare --filter=blob:limit=1k URL w"},
	"blob:limit=10":         {"clone -q --bare --filter=blob:limit=10 URL w"},
	"tree:0":                {"clone -q --bare --filter=tree:0 URL w"},
	"tree:1":                {"clone -q --bare --filter=tree:1 URL w"},
	"tree:2":                {"clone -q --bare --filter=tree:2 URL w"},
	"tree:0, checkout":      {"clone -q --filter=tree:0 URL w"},
	"type of objects":       {"clone -q --bare --filter=object:type=commit URL w"},
	"combined filters":      {"clone -q --bare --filter=combine:tree:3+blob:limit=1k URL w"},
	"partial, deepened":     {"clone -q --filter=blob:none --depth 2 URL w", "-C w fetch -q --unshallow"},
	"partial, refetched":    {"clone -q --filter=blob:none URL w", "-C w -c remote.origin.partialclonefilter=blob:limit=1m fetch -q --refetch"},
	"single branch":         {"clone -q --single-branch -b side URL w"},
	"no tags":               {"clone -q --no-tags URL w"},
	"tags, later":           {"clone -q --no-tags URL w", "-C w fetch -q --tags"},
	"tags that follow":      {"clone -q --no-tags --single-branch -b other/branch URL w", "-C w config --unset remote.origin.tagOpt", "-C w fetch -q origin +refs/heads/main:refs/remotes/origin/main"},
	"a tag alone":           {"clone -q --depth 1 -b v1 URL w"},
	"notes":                 {"clone -q URL w", "-C w fetch -q origin refs/notes/*:refs/notes/*"},
	"all references":        {"init -q --bare w", "-C w fetch -q URL +refs/*:refs/*"},
	"another namespace":     {"init -q --bare w", "-C w fetch -q URL refs/pull/*:refs/pull/*"},
	"by name of the object": {"init -q --bare w", "-C w fetch -q URL OLD:refs/heads/old"},
	"a tree by its name":    {"clone -q --filter=tree:0 --bare URL w", "-C w cat-file -p main:dir1/sub"},
	"one branch after another": {"init -q --bare w", "-C w fetch -q URL refs/heads/side:refs/heads/side", "-C w fetch -q URL refs/heads/main:refs/heads/main",
		"-C w fetch -q URL refs/heads/other/branch:refs/heads/other"},
	"nothing new":             {"clone -q URL w", "-C w fetch -q", "-C w fetch -q --refetch"},
	"old protocols, few caps": {"clone -q --no-local URL w", "-C w fetch -q --no-tags --depth=1"},
}

// listings are commands whose output is compared.
var listings = []string{
	"ls-remote URL", "ls-remote --symref URL", "ls-remote --heads URL", "ls-remote --tags URL", "ls-remote --refs URL", "ls-remote URL refs/heads/*",
	"ls-remote URL main side", "ls-remote --symref URL HEAD", "ls-remote URL nothing", "ls-remote --get-url URL",
}

// versions runs a test in every protocol and version.
func versions(t *testing.T, test func(t *testing.T, protocol, version string)) {
	for _, protocol := range []string{"git", "http"} {
		for _, version := range []string{"0", "1", "2"} {
			t.Run(protocol+" v"+version, func(t *testing.T) { test(t, protocol, version) })
		}
	}
}

// script gives the client its commands.
func (r *rig) script(dir, version, url, old string, commands []string) string {
	r.t.Helper()
	var out []string
	for _, c := range commands {
		args := []string{"git", "-c", "protocol.version=" + version, "-c", "gc.autoDetach=false"}
		for word := range strings.FieldsSeq(c) {
			args = append(args, strings.ReplaceAll(strings.ReplaceAll(word, "URL", url), "OLD", old))
		}
		out = append(out, strings.ReplaceAll(r.run(dir, args...), url, "URL"))
	}
	return strings.Join(out, "\n")
}

// TestMatrix compares what the client makes of the mirror with what it makes of upstream itself, served by git's own programs.
func TestMatrix(t *testing.T) {
	r := newRig(t)
	r.history()
	backend := httptest.NewServer(&cgi.Handler{
		Path:   filepath.Join(r.run("/", "git", "--exec-path"), "git-http-backend"),
		Env:    []string{"GIT_PROJECT_ROOT=" + r.ssh.Root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=/nonexistent"},
		Stderr: t.Output(),
	})
	t.Cleanup(backend.Close)
	direct := map[string]string{"git": "file://" + r.ssh.Dir("app"), "http": backend.URL + "/app.git"}
	old := r.run(r.ssh.Dir("app"), "git", "rev-parse", "main~6")
	expected := map[string]string{}
	for name, commands := range matrix {
		dir := t.TempDir()
		r.script(dir, "2", direct["git"], old, commands)
		expected[name] = r.contents(filepath.Join(dir, "w"))
	}
	versions(t, func(t *testing.T, protocol, version string) {
		t.Parallel()
		for name, commands := range matrix {
			if version == "1" && name != "clone" && name != "unshallow" {
				continue // v0 with one line in front
			}
			t.Run(name, func(t *testing.T) {
				r := r.in(t)
				ours, theirs := t.TempDir(), t.TempDir()
				r.script(ours, version, r.url(protocol, "app"), old, commands)
				got, want := r.contents(filepath.Join(ours, "w")), expected[name]
				if protocol == "http" && version != "2" { // where the client follows tags in another way
					r.script(theirs, version, direct[protocol], old, commands)
					want = r.contents(filepath.Join(theirs, "w"))
				}
				if got != want {
					t.Errorf("got\n%s\nfrom upstream\n%s", got, want)
				}
			})
		}
		for _, c := range listings {
			t.Run(c, func(t *testing.T) {
				r := r.in(t)
				got, want := r.script(t.TempDir(), version, r.url(protocol, "app"), old, []string{c}), r.script(t.TempDir(), version, direct[protocol], old, []string{c})
				if got != want {
					t.Errorf("got\n%s\nfrom upstream\n%s", got, want)
				}
			})
		}
	})
}

// in is the same rig in a test within a test.
func (r *rig) in(t *testing.T) *rig {
	return &rig{t: t, ssh: r.ssh, config: r.config, state: r.state, git: r.git, http: r.http, log: r.log}
}
