package workspace_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/hostctl/workspace"
)

// git runs the real git on a repository that the test has made.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q in %s: %v\n%s", args, dir, err, out)
	}
	return strings.TrimSpace(string(out))
}

// projects are a repository with a linked worktree, one as bare repository with
// a worktree, and one with a submodule.
func projects(t *testing.T) (root string) {
	t.Helper()
	root = folder(t)
	main := filepath.Join(root, "main")
	git(t, root, "init", "-q", "-b", "main", main)
	write(t, filepath.Join(main, "file"), "one\n")
	write(t, filepath.Join(main, "sub", "file"), "below\n")
	git(t, main, "add", ".")
	git(t, main, "commit", "-q", "-m", "first")
	git(t, main, "worktree", "add", "-q", "-b", "feature", filepath.Join(root, "linked"))
	git(t, root, "clone", "-q", "--bare", main, filepath.Join(root, "bare.git"))
	git(t, filepath.Join(root, "bare.git"), "worktree", "add", "-q", filepath.Join(root, "ofbare"), "main")
	git(t, root, "init", "-q", "-b", "main", filepath.Join(root, "super"))
	git(t, filepath.Join(root, "super"), "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", main, "part")
	git(t, filepath.Join(root, "super"), "commit", "-q", "-m", "with a part")
	git(t, root, "clone", "-q", "--separate-git-dir", filepath.Join(root, "separate.git"), main, filepath.Join(root, "separate"))
	return root
}

// TestGitWorksInACopy: the copy of a folder whose .git lies elsewhere is a
// repository by itself, with the folder's branch, index and history.
func TestGitWorksInACopy(t *testing.T) {
	root := projects(t)
	git(t, filepath.Join(root, "separate"), "config", "core.worktree", filepath.Join(root, "separate"))
	// What is staged, and what is changed, is of the worktree alone.
	write(t, filepath.Join(root, "linked", "staged"), "s\n")
	git(t, filepath.Join(root, "linked"), "add", "staged")
	write(t, filepath.Join(root, "linked", "file"), "two\n")
	for name, want := range map[string]string{
		"main":       "main",
		"linked":     "feature",
		"ofbare":     "main",
		"super":      "main",
		"super/part": "main",
		"separate":   "main",
	} {
		t.Run(name, func(t *testing.T) {
			from := filepath.Join(root, name)
			must(t, workspace.CheckGit(from, false))
			status, head := git(t, from, "status", "--porcelain=v1", "-b"), git(t, from, "log", "--format=%H %s")
			index, reflog := git(t, from, "ls-files", "-s"), git(t, from, "log", "-g", "--format=%H")
			to := filepath.Join(folder(t), "copy")
			must(t, workspace.CopyWithGit(t.Context(), from, to, workspace.CopyOptions{}))
			away := root + "-away"
			must(t, os.Rename(root, away)) // the pair has none of it
			defer func() { must(t, os.Rename(away, root)) }()
			if got := git(t, to, "rev-parse", "--abbrev-ref", "HEAD"); got != want {
				t.Errorf("expected the branch %s, got %s", want, got)
			}
			if got := git(t, to, "rev-parse", "--show-toplevel", "--absolute-git-dir"); got != to+"\n"+to+"/.git" {
				t.Errorf("expected the copy with its own git folder, got %q", got)
			}
			for _, c := range []struct{ what, got, want string }{
				{"status", git(t, to, "status", "--porcelain=v1", "-b"), status},
				{"log", git(t, to, "log", "--format=%H %s"), head},
				{"index", git(t, to, "ls-files", "-s"), index},
				{"reflog", git(t, to, "log", "-g", "--format=%H"), reflog},
				{"fsck", git(t, to, "fsck", "--full", "--no-dangling"), ""},
			} {
				if c.got != c.want {
					t.Errorf("%s: expected\n%s\ngot\n%s", c.what, c.want, c.got)
				}
			}
			write(t, filepath.Join(to, "new"), "n\n")
			git(t, to, "add", "-A")
			git(t, to, "commit", "-q", "-m", "in the copy")
			if got := git(t, to, "diff", "--stat", "HEAD"); got != "" {
				t.Errorf("expected no difference after the commit, got %s", got)
			}
			if got := git(t, to, "log", "-1", "--format=%s"); got != "in the copy" {
				t.Errorf("expected the new commit, got %s", got)
			}
		})
	}
}

// TestGitThatWouldNotWorkIsRefused names each case with what its message says.
func TestGitThatWouldNotWorkIsRefused(t *testing.T) {
	root := projects(t)
	at := func(name string) string { return filepath.Join(root, name) }
	git(t, root, "clone", "-q", "--shared", at("main"), at("borrows"))
	git(t, root, "init", "-q", at("pointing"))
	git(t, at("pointing"), "config", "core.worktree", at("main"))
	must(t, os.MkdirAll(at("bylink"), 0o755))
	must(t, os.Symlink(at("main/.git"), at("bylink/.git")))
	git(t, root, "-C", at("main"), "worktree", "add", "-q", "-b", "moved", at("before"))
	must(t, os.Rename(at("before"), at("after")))
	git(t, at("super"), "worktree", "add", "-q", "-b", "parts", at("parts"))
	git(t, at("parts"), "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
	for name, want := range map[string]string{
		"main/sub":   "is a part of the repository in " + at("main"),
		"linked/sub": "is a part of the repository in " + at("linked"),
		"borrows":    "git repack -a -d",
		"pointing":   "core.worktree in its configuration is",
		"bylink":     "is a symbolic link to",
		"after":      "git worktree repair",
		"parts":      "submodules of its own",
		"separate":   "core.worktree " + at("separate"),
	} {
		for _, bound := range []bool{false, true} {
			err := workspace.CheckGit(at(name), bound)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "agent.workspace.git to none") {
				t.Errorf("%s, bound %v: expected an error with %q, got %v", name, bound, want, err)
			}
		}
	}
	for _, name := range []string{"linked", "ofbare", "super/part"} {
		if err := workspace.CheckGit(at(name), true); err == nil || !strings.Contains(err.Error(), "use mode copy") {
			t.Errorf("%s, bound: expected an error that says to use a copy, got %v", name, err)
		}
	}
	for _, name := range []string{"main", "super", "bare.git"} {
		must(t, workspace.CheckGit(at(name), true))
	}
}

// TestGitFileOfAnAgentsLeadsNowhere: an agent that had the folder has written
// what leads to a repository of the operator's that it never saw.
func TestGitFileOfAnAgentsLeadsNowhere(t *testing.T) {
	root := projects(t)
	work := filepath.Join(root, "work")
	private := filepath.Join(root, "main", ".git")
	for name, plant := range map[string]func(){
		"the git folder":       func() { write(t, filepath.Join(work, ".git"), "gitdir: "+private+"\n") },
		"of another worktree":  func() { write(t, filepath.Join(work, ".git"), "gitdir: "+private+"/worktrees/linked\n") },
		"of another submodule": func() { write(t, filepath.Join(work, ".git"), "gitdir: ../super/.git/modules/part\n") },
		"by a link":            func() { must(t, os.Symlink(private, filepath.Join(work, ".git"))) },
		"by a link in a link": func() {
			must(t, os.Symlink("..", filepath.Join(work, "up")))
			must(t, os.Symlink("up/main/.git", filepath.Join(work, ".git")))
		},
		"by a folder of its own":  func() { forge(t, work, private, "gitdir: "+filepath.Join(work, "own")) },
		"by a worktree of itself": func() { forge(t, filepath.Join(work, "w"), private, "gitdir: "+filepath.Join(work, "w", "own")) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, workspace.Remove(t.Context(), work))
			must(t, os.Mkdir(work, 0o755))
			plant()
			at := work
			if name == "by a worktree of itself" {
				at = filepath.Join(work, "w")
			}
			to := filepath.Join(folder(t), "copy")
			err := workspace.CopyWithGit(t.Context(), at, to, workspace.CopyOptions{})
			if err == nil {
				t.Errorf("expected a refusal, got a copy with %v", tree(t, to))
			}
			if _, err := os.Stat(to); err == nil {
				t.Error("expected no copy at all")
			}
		})
	}
}

// forge makes a worktree's git folder in the workspace that names the workspace
// and says that it shares a private one.
func forge(t *testing.T, work, private, file string) {
	t.Helper()
	write(t, filepath.Join(work, ".git"), file+"\n")
	write(t, filepath.Join(work, "own", "commondir"), private+"\n")
	write(t, filepath.Join(work, "own", "gitdir"), filepath.Join(work, ".git")+"\n")
	write(t, filepath.Join(work, "own", "HEAD"), "ref: refs/heads/main\n")
}

func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	return all
}

// TestCopyWithoutGitCopiesTheFolderAlone: what the person said needs no git.
func TestCopyWithoutGitCopiesTheFolderAlone(t *testing.T) {
	root := projects(t)
	to := filepath.Join(folder(t), "copy")
	must(t, workspace.CopyWithGit(t.Context(), filepath.Join(root, "linked"), to, workspace.CopyOptions{WithoutGit: true}))
	if info, err := os.Lstat(filepath.Join(to, ".git")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("expected the .git file as it is, got %v, %v", info, err)
	}
}

// TestTheLimitHoldsForTheGitFolder: both trees count.
func TestTheLimitHoldsForTheGitFolder(t *testing.T) {
	root := projects(t)
	err := workspace.CopyWithGit(t.Context(), filepath.Join(root, "linked"), filepath.Join(folder(t), "copy"), workspace.CopyOptions{MaxBytes: 8 << 10})
	if err == nil || !strings.Contains(err.Error(), "copying the git folder") || !strings.Contains(err.Error(), "which is the limit of a copy") {
		t.Errorf("expected the limit of a copy, got %v", err)
	}
}
