package local_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/hostctl/pair"
)

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %q in %s: %v\n%s", args, dir, err, out)
	}
}

// TestGitWorksInThePair uses git as an agent does, on a whole repository, a
// linked worktree and a submodule.
func TestGitWorksInThePair(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	at := func(name string) string { return filepath.Join(root, name) }
	git(t, root, "init", "-q", "-b", "main", "whole")
	must(t, os.WriteFile(at("whole/file"), []byte("one\n"), 0o644))
	git(t, at("whole"), "add", "file")
	git(t, at("whole"), "commit", "-q", "-m", "first")
	git(t, at("whole"), "worktree", "add", "-q", "-b", "side", at("linked"))
	git(t, root, "init", "-q", "super")
	git(t, at("super"), "submodule", "--quiet", "add", at("whole"), "part")
	s := suite(t)
	for _, c := range []struct {
		name, folder string
		mode         pair.Mode
	}{
		{"whole", "whole", pair.Copy},
		{"linked", "linked", pair.Copy},
		{"part", "super/part", pair.Copy},
		{"bound", "whole", pair.Bind},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.Plan(t, "git-"+c.name, "sleep", "1000")
			p.Agent.Workspace = pair.Workspace{Path: at(c.folder), Mode: c.mode}
			s.Create(t, p)
			script := `set -e
git config --global user.name agent; git config --global user.email agent@example.com
git status --porcelain; git log --format=%s; echo two >>file; git diff --numstat
git commit -qam second; git log -1 --format=%s; git rev-parse --show-toplevel`
			want := "first\n1\t0\tfile\nsecond\n/workspace"
			if code, got := s.Sh(t, p.Name, script); code != 0 || got != want {
				t.Errorf("expected %q, got code %d, %q", want, code, got)
			}
		})
	}
	log, err := exec.CommandContext(t.Context(), "git", "-C", at("linked"), "log", "--format=%s").Output()
	if err != nil || strings.TrimSpace(string(log)) != "first" {
		t.Errorf("expected the original worktree as it was, got %q, %v", log, err)
	}
}
