package gitgate

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// hitLine is a finding as the person at the client reads it.
var hitLine = regexp.MustCompile(`(?m)^remote:   ([a-z0-9-]+) in (\S+):\d+`)

// TestPushOfKnownSources pushes the standard library, ten modules and this repository with its history: what is found are keys that are written
// in the sources for tests and documentation.
func TestPushOfKnownSources(t *testing.T) {
	lab.Long(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	for name, dir := range modules(t) {
		pushSources(t, r, name, dir, []string{"certs.go", "key.pem", "swagger.yaml"}) // goproxy's public key pair; examples of tokens
	}
	pushSources(t, r, "std", filepath.Join(strings.TrimSpace(string(root)), "src"), []string{
		"cmd/vendor/golang.org/x/mod/sumdb/note/note.go", "vendor/golang.org/x/mod/sumdb/note/note.go", // a key pair as an example, in a comment
		"crypto/x509/platform_root_key.pem",
	})
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatalf("this test wants the history of the repository: %v", err)
	}
	w := filepath.Join(t.TempDir(), "w")
	r.run(t.TempDir(), "git", "clone", "-q", "--no-local", strings.TrimSpace(string(top)), w)
	out, err := r.try(w, "git", "push", r.url("git", "app"), "HEAD:refs/heads/airlock")
	if err == nil {
		return
	}
	hits := hitLine.FindAllStringSubmatch(out, -1)
	if len(hits) == 0 {
		t.Fatalf("the history is refused, but not for a finding: %s", out)
	}
	for _, h := range hits {
		if !strings.HasSuffix(h[2], "_test.go") && !strings.Contains(h[2], "testdata/") && !strings.Contains(h[2], "pairtest/") {
			t.Errorf("a finding that no test explains: %s", h[0])
		}
	}
}

// modules are the folders of modules with names, constants and tables that scanners take for secrets.
func modules(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, m := range []string{
		"golang.org/x/crypto", "golang.org/x/sys", "golang.org/x/net", "golang.org/x/text", "github.com/moby/moby/api", "github.com/mark3labs/mcp-go",
		"github.com/go-git/go-git/v5", "github.com/klauspost/compress", "github.com/elazarl/goproxy", "github.com/spf13/viper",
	} {
		out, err := exec.Command("go", "list", "-m", "-json", m).Output()
		var found struct{ Dir string }
		if err != nil || json.Unmarshal(out, &found) != nil || found.Dir == "" {
			t.Fatalf("module %s is not in the module cache: %v", m, err)
		}
		all[filepath.Base(m)] = found.Dir
	}
	return all
}

// pushSources pushes the files of a folder that are neither tests nor documentation, but those in without.
func pushSources(t *testing.T, r *rig, name, dir string, without []string) {
	t.Helper()
	w := filepath.Join(t.TempDir(), "w")
	r.run(t.TempDir(), "git", "init", "-q", "-b", "main", w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		switch {
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "test" || d.Name() == "docs" || d.Name() == ".git"):
			return fs.SkipDir
		case !d.Type().IsRegular() || strings.HasSuffix(rel, "_test.go") || slices.Contains(without, filepath.ToSlash(rel)):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) > 20<<20 {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(w, rel)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(w, rel), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.run(w, "git", "add", "-A")
	r.run(w, "git", "commit", "-q", "-m", "import "+name)
	if out, err := r.try(w, "git", "push", r.url("git", "app"), "HEAD:refs/heads/"+name); err != nil {
		t.Errorf("%s: %s", name, out)
	}
}
