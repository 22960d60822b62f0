package workspace_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"airlock/hostctl/workspace"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// folder is a fresh one, by a path without links.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func copyTree(ctx context.Context, from, to string, o workspace.CopyOptions) error {
	dir, err := workspace.Open(from)
	if err != nil {
		return err
	}
	defer dir.Close()
	return workspace.Copy(ctx, dir, to, o)
}

func TestResolve(t *testing.T) {
	dir := folder(t)
	must(t, os.MkdirAll(filepath.Join(dir, "real", "sub"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "real", "etc")))
	write(t, filepath.Join(dir, "file"), "")
	if got, err := workspace.Resolve(filepath.Join(dir, "real", ".", "sub")); err != nil || got != filepath.Join(dir, "real", "sub") {
		t.Errorf("expected the path itself, got %q, %v", got, err)
	}
	for path, at := range map[string]string{"link": "link", "link/sub": "link", "real/etc": "real/etc", "real/etc/ssl": "real/etc"} {
		var link *workspace.LinkError
		if _, err := workspace.Resolve(filepath.Join(dir, path)); !errors.As(err, &link) || link.Path != filepath.Join(dir, at) {
			t.Errorf("%s: expected an error that names the link %s, got %v", path, at, err)
		}
		if _, err := workspace.Open(filepath.Join(dir, path)); !errors.As(err, &link) {
			t.Errorf("%s: expected an error about a link from Open, got %v", path, err)
		}
	}
	for _, path := range []string{"file", "absent"} {
		if _, err := workspace.Resolve(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s: expected an error", path)
		}
	}
	if _, err := workspace.Open("relative"); err == nil {
		t.Error("expected an error for a relative path")
	}
	if target, err := os.Readlink("/bin"); err == nil && !filepath.IsAbs(target) {
		if got, err := workspace.Resolve("/bin"); err != nil || got != filepath.Join("/", target) {
			t.Errorf("expected the system's own link /bin to be followed, got %q, %v", got, err)
		}
	}
	if _, err := workspace.Resolve("/proc/self/cwd"); err == nil {
		t.Error("expected /proc/self/cwd to be refused")
	}
}

func TestInState(t *testing.T) {
	dir := folder(t)
	own, other := filepath.Join(dir, "mine"), filepath.Join(dir, "home", "airlock")
	for _, d := range []string{own, other + "/pairs/a/workspace", filepath.Join(dir, "code", "airlock", "src"), filepath.Join(dir, "code", "airlock", "pairs")} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, os.Chmod(filepath.Join(other, "pairs"), 0o700))
	for path, want := range map[string]bool{
		own: true, own + "/pairs/x": true, other: true, other + "/pairs/a/workspace": true,
		dir: false, filepath.Join(dir, "code", "airlock", "src"): false, filepath.Dir(other): false,
	} {
		if got := workspace.InState(path, own); got != want {
			t.Errorf("%s: expected %v, got %v", path, want, got)
		}
	}
}

func TestSteps(t *testing.T) {
	dir := folder(t)
	write(t, filepath.Join(dir, "real", "file"), "")
	must(t, os.MkdirAll(filepath.Join(dir, "theirs"), 0o755))
	must(t, os.Symlink("theirs/onward", filepath.Join(dir, "in")))
	must(t, os.Symlink("../real", filepath.Join(dir, "theirs", "onward")))
	steps, err := workspace.Steps(filepath.Join(dir, "in", ".", "file"))
	must(t, err)
	var got []string
	for _, s := range steps {
		if rest, ok := strings.CutPrefix(s, dir+"/"); ok {
			got = append(got, rest)
		}
	}
	if want := "in theirs theirs/onward real real/file"; strings.Join(got, " ") != want {
		t.Errorf("expected %q, got %q", want, got)
	}
	must(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	for _, path := range []string{"loop", "absent"} {
		if _, err := workspace.Steps(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s: expected an error", path)
		}
	}
}

func TestCopy(t *testing.T) {
	dir := folder(t)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, filepath.Join(from, "tool"), "#!/bin/sh\n")
	must(t, os.Chmod(filepath.Join(from, "tool"), 0o755|os.ModeSetuid))
	write(t, filepath.Join(from, "sub", "pairs", "ca.key"), "key")
	write(t, filepath.Join(from, "sub", "read-only"), "x")
	must(t, os.Chmod(filepath.Join(from, "sub", "read-only"), 0o400))
	must(t, os.Symlink("/etc/shadow", filepath.Join(from, "link")))
	must(t, syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600))
	old := time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)
	must(t, os.Chtimes(filepath.Join(from, "tool"), old, old))
	must(t, os.Chmod(filepath.Join(from, "sub"), 0o555|os.ModeSetgid))
	must(t, os.Chtimes(filepath.Join(from, "sub"), old, old))
	must(t, unix.Lutimes(filepath.Join(from, "link"), []unix.Timeval{{Sec: 7}, {Sec: 7}}))
	must(t, copyTree(t.Context(), from, to, workspace.CopyOptions{LeaveOut: filepath.Join(from, "sub", "pairs")}))
	for name, want := range map[string]fs.FileMode{"tool": 0o755, "sub": fs.ModeDir | 0o555, "sub/read-only": 0o400} {
		info, err := os.Lstat(filepath.Join(to, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: expected mode %v, got %v, %v", name, want, info.Mode(), err)
		}
		if name != "sub/read-only" && !info.ModTime().Equal(old) {
			t.Errorf("%s: expected the time %v, got %v", name, old, info.ModTime())
		}
	}
	if link, err := os.Readlink(filepath.Join(to, "link")); link != "/etc/shadow" {
		t.Errorf("expected the link as it is, got %q, %v", link, err)
	}
	if info, err := os.Lstat(filepath.Join(to, "link")); err != nil || info.ModTime().Unix() != 7 {
		t.Errorf("expected the link's own time, got %v, %v", info.ModTime(), err)
	}
	for _, gone := range []string{"pipe", "sub/pairs"} {
		if _, err := os.Lstat(filepath.Join(to, gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s came along: %v", gone, err)
		}
	}
	must(t, workspace.Remove(t.Context(), to))
	must(t, workspace.Remove(t.Context(), from))
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

func TestCopyKeepsHolesLinksAndAttributes(t *testing.T) {
	dir := folder(t)
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, filepath.Join(from, "a", "one"), "the same file")
	must(t, os.Mkdir(filepath.Join(from, "b"), 0o755))
	must(t, os.Link(filepath.Join(from, "a", "one"), filepath.Join(from, "b", "two")))
	f, err := os.Create(filepath.Join(from, "sparse"))
	must(t, err)
	must(t, f.Truncate(1<<30))
	for _, at := range []int64{0, 400 << 20, 1<<30 - 5} {
		_, err = f.WriteAt([]byte("data!"), at)
		must(t, err)
	}
	must(t, f.Close())
	xattr := unix.Setxattr(filepath.Join(from, "a", "one"), "user.note", []byte("kept"), 0)
	must(t, copyTree(t.Context(), from, to, workspace.CopyOptions{MaxBytes: 1 << 20})) // what is no data does not count
	one, two := stat(t, filepath.Join(to, "a", "one")), stat(t, filepath.Join(to, "b", "two"))
	if one.Ino != two.Ino || one.Nlink != 2 || one.Ino == stat(t, filepath.Join(from, "a", "one")).Ino {
		t.Errorf("expected one file with two names, apart from the original: inodes %d and %d, %d names", one.Ino, two.Ino, one.Nlink)
	}
	sparse := stat(t, filepath.Join(to, "sparse"))
	if sparse.Size != 1<<30 || sparse.Blocks*512 > 1<<20 {
		t.Errorf("expected 1 GiB with holes, got %d bytes of which %d are on the disk", sparse.Size, sparse.Blocks*512)
	}
	g, err := os.Open(filepath.Join(to, "sparse"))
	must(t, err)
	defer g.Close()
	for _, at := range []int64{0, 400 << 20, 1<<30 - 5} {
		got := make([]byte, 5)
		if _, err := g.ReadAt(got, at); err != nil || string(got) != "data!" {
			t.Errorf("at %d: expected the data, got %q, %v", at, got, err)
		}
	}
	if xattr == nil { // else this file system has none
		value := make([]byte, 16)
		n, err := unix.Getxattr(filepath.Join(to, "a", "one"), "user.note", value)
		if err != nil || string(value[:n]) != "kept" {
			t.Errorf("expected the attribute, got %q, %v", value[:max(n, 0)], err)
		}
	}
}

func TestCopyIsBounded(t *testing.T) {
	dir := folder(t)
	from := filepath.Join(dir, "from")
	write(t, filepath.Join(from, "a"), strings.Repeat("x", 1<<20))
	write(t, filepath.Join(from, "b"), strings.Repeat("x", 1<<20))
	var limit *workspace.LimitError
	if err := copyTree(t.Context(), from, filepath.Join(dir, "small"), workspace.CopyOptions{MaxBytes: 3 << 19}); !errors.As(err, &limit) {
		t.Errorf("expected a *LimitError, got %v", err)
	}
	must(t, copyTree(t.Context(), from, filepath.Join(dir, "enough"), workspace.CopyOptions{MaxBytes: 3 << 20}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyTree(ctx, from, filepath.Join(dir, "late"), workspace.CopyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("expected the context's error, got %v", err)
	}
}

// TestNothingExchangedIsFollowed copies, walks and removes again and again
// while files and folders are exchanged for links to a secret, for a FIFO, and
// back.
func TestNothingExchangedIsFollowed(t *testing.T) {
	dir := folder(t)
	from, outside := filepath.Join(dir, "from"), filepath.Join(dir, "outside")
	write(t, filepath.Join(outside, "id"), "the secret")
	write(t, filepath.Join(outside, "deep", "id"), "the secret")
	for i := range 20 {
		write(t, filepath.Join(from, fmt.Sprintf("d%02d", i), "deep", "id"), "harmless")
		write(t, filepath.Join(from, fmt.Sprintf("d%02d", i), "id"), "harmless")
	}
	swaps := filepath.Join(dir, "swaps")
	must(t, os.Mkdir(swaps, 0o755))
	must(t, os.Symlink(outside, filepath.Join(swaps, "folder")))
	must(t, os.Symlink(filepath.Join(outside, "deep"), filepath.Join(swaps, "deep")))
	must(t, os.Symlink(filepath.Join(outside, "id"), filepath.Join(swaps, "file")))
	must(t, syscall.Mkfifo(filepath.Join(swaps, "pipe"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	var agent sync.WaitGroup
	agent.Go(func() {
		for i := 0; ctx.Err() == nil; i = (i + 7) % 20 {
			d := filepath.Join(from, fmt.Sprintf("d%02d", i))
			for _, s := range [][2]string{{d, "folder"}, {d + "/deep", "deep"}, {d + "/id", "file"}, {d + "/deep/id", "pipe"}} {
				other := filepath.Join(swaps, s[1])
				if unix.Renameat2(unix.AT_FDCWD, s[0], unix.AT_FDCWD, other, unix.RENAME_EXCHANGE) == nil {
					_ = unix.Renameat2(unix.AT_FDCWD, s[0], unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
				}
			}
		}
	})
	for i := range 30 {
		to := filepath.Join(dir, fmt.Sprintf("to-%d", i))
		if err := copyTree(t.Context(), from, to, workspace.CopyOptions{}); err != nil && !errors.Is(err, workspace.ErrChanged) {
			t.Errorf("copying: %v", err)
		}
		must(t, filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if string(data) != "harmless" {
				t.Errorf("%s: expected what was in the tree, got %q", path, data)
			}
			return err
		}))
		must(t, workspace.Remove(t.Context(), to))
		if os.Getuid() == 0 {
			if err := workspace.Give(t.Context(), from, 12345, 12345); err != nil && !errors.Is(err, workspace.ErrChanged) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("giving: %v", err)
			}
		}
	}
	cancel()
	agent.Wait()
	for _, path := range []string{outside, outside + "/id", outside + "/deep/id"} {
		if st := stat(t, path); st.Uid == 12345 {
			t.Errorf("%s was given away", path)
		}
	}
}

// TestAnyDepth makes a tree that is deeper than paths can be long and than
// descriptors are allowed, and walks, copies and removes it.
func TestAnyDepth(t *testing.T) {
	const depth = 5_000 // a path of 10 kB
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 200
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	dir := folder(t)
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	fd, err := unix.Dup(int(root.Fd()))
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	for _, name := range []string{"d", "copy"} {
		tree, err := workspace.Open(filepath.Join(dir, name))
		must(t, err)
		entered, left := 0, 0
		must(t, workspace.Walk(t.Context(), tree, workspace.Visitor{
			Enter: func(*workspace.Entry) error { entered++; return nil },
			Leave: func(*workspace.Entry) error { left++; return nil },
		}))
		if entered != depth || left != depth {
			t.Errorf("%s: expected %d folders, entered %d and left %d", name, depth, entered, left)
		}
		if name == "d" {
			must(t, workspace.Copy(t.Context(), tree, filepath.Join(dir, "copy"), workspace.CopyOptions{}))
			must(t, unix.Fchmod(int(tree.Fd()), 0))
		}
		tree.Close()
	}
	for _, name := range []string{"d", "copy"} {
		must(t, workspace.Remove(t.Context(), filepath.Join(dir, name)))
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// TestACopyOfWhatIsWorkedOn: folders and files come and go, as in a build, and
// the copy is made all the same.
func TestACopyOfWhatIsWorkedOn(t *testing.T) {
	dir := folder(t)
	from := filepath.Join(dir, "from")
	write(t, filepath.Join(from, "stays", "file"), "kept")
	ctx, cancel := context.WithCancel(t.Context())
	var build sync.WaitGroup
	for i := range 3 {
		build.Go(func() {
			out := filepath.Join(from, fmt.Sprintf("out-%d", i))
			for ctx.Err() == nil {
				_ = os.MkdirAll(filepath.Join(out, "deep", "er"), 0o755)
				for _, name := range []string{"a", "deep/b", "deep/er/c"} {
					_ = os.WriteFile(filepath.Join(out, name), []byte("made"), 0o644)
				}
				_ = os.RemoveAll(out)
			}
		})
	}
	for i := range 50 {
		to := filepath.Join(dir, fmt.Sprintf("to-%d", i))
		if err := copyTree(t.Context(), from, to, workspace.CopyOptions{}); err != nil {
			t.Errorf("copy %d: %v", i, err)
		}
		if data, err := os.ReadFile(filepath.Join(to, "stays", "file")); string(data) != "kept" {
			t.Errorf("copy %d: expected what stays, got %q, %v", i, data, err)
		}
		must(t, workspace.Remove(t.Context(), to))
	}
	cancel()
	build.Wait()
}

func TestErrorsStayShort(t *testing.T) {
	dir := folder(t)
	path := dir
	for range 300 {
		path += "/folder"
	}
	must(t, os.MkdirAll(path, 0o755))
	tree, err := workspace.Open(dir)
	must(t, err)
	defer tree.Close()
	broken := errors.New("broken")
	err = workspace.Walk(t.Context(), tree, workspace.Visitor{Leave: func(*workspace.Entry) error { return broken }})
	if !errors.Is(err, broken) || len(err.Error()) > 300 {
		t.Errorf("expected a short error, got %d bytes: %v", len(err.Error()), err)
	}
}

func TestAFolderMovedAwayEndsTheWalk(t *testing.T) {
	dir := folder(t)
	must(t, os.MkdirAll(filepath.Join(dir, "tree", strings.Repeat("d/", 60)), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "elsewhere"), 0o755))
	tree, err := workspace.Open(filepath.Join(dir, "tree"))
	must(t, err)
	defer tree.Close()
	n := 0
	err = workspace.Walk(t.Context(), tree, workspace.Visitor{Enter: func(*workspace.Entry) error {
		if n++; n == 61 { // the deepest: what is above 32 folders is closed
			return os.Rename(filepath.Join(dir, "tree", strings.Repeat("d/", 20)), filepath.Join(dir, "elsewhere", "d"))
		}
		return nil
	}})
	if !errors.Is(err, workspace.ErrChanged) {
		t.Errorf("expected ErrChanged, got %v", err)
	}
}

func TestRemove(t *testing.T) {
	dir := folder(t)
	tree := filepath.Join(dir, "a")
	write(t, filepath.Join(tree, "b", "c", "f"), "x")
	must(t, os.Symlink(dir, filepath.Join(tree, "b", "up")))
	must(t, os.Chmod(filepath.Join(tree, "b"), 0))
	must(t, os.Chmod(tree, 0))
	must(t, workspace.Remove(t.Context(), tree))
	if _, err := os.Lstat(tree); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	must(t, workspace.Remove(t.Context(), tree))
	must(t, workspace.Remove(t.Context(), filepath.Join(dir, "no", "such", "folder")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "link")))
	must(t, workspace.Remove(t.Context(), filepath.Join(dir, "link")))
	if _, err := os.Lstat("/etc"); err != nil {
		t.Error(err)
	}
}

func TestMakeReadable(t *testing.T) {
	dir := folder(t)
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "f"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "tool"), nil, 0o700))
	must(t, os.Symlink("/etc/shadow", filepath.Join(dir, "link")))
	before := stat(t, "/etc/shadow").Mode
	must(t, workspace.MakeReadable(t.Context(), dir))
	for name, want := range map[string]os.FileMode{"sub": 0o755, "sub/f": 0o644, "tool": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: expected %v, got %v, %v", name, want, info.Mode(), err)
		}
	}
	if got := stat(t, "/etc/shadow").Mode; got != before {
		t.Errorf("expected what a link leads to to stay as it is, got mode %o", got)
	}
}

// TestOtherFileSystems: a copy leaves them out, and a search for what is
// dangerous to show an agent does not.
func TestOtherFileSystems(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting takes root")
	}
	dir := folder(t)
	write(t, filepath.Join(dir, "tree", "file"), "x")
	mount := filepath.Join(dir, "tree", "mount")
	must(t, os.Mkdir(mount, 0o755))
	must(t, unix.Mount("tmpfs", mount, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(mount, unix.MNT_DETACH)) }()
	write(t, filepath.Join(mount, "tool"), "x")
	must(t, os.Chmod(filepath.Join(mount, "tool"), 0o755|os.ModeSetuid))
	must(t, syscall.Mkfifo(filepath.Join(mount, "pipe"), 0o600))
	must(t, copyTree(t.Context(), filepath.Join(dir, "tree"), filepath.Join(dir, "copy"), workspace.CopyOptions{}))
	if _, err := os.Lstat(filepath.Join(dir, "copy", "mount")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("expected the other file system to stay behind, got %v", err)
	}
	tree, err := workspace.Open(filepath.Join(dir, "tree"))
	must(t, err)
	defer tree.Close()
	if got, err := workspace.Privileged(t.Context(), tree, os.Getuid(), os.Getgid()); err != nil || got != "mount/tool" {
		t.Errorf("expected mount/tool, got %q, %v", got, err)
	}
	if got, err := workspace.Doors(t.Context(), tree); err != nil || len(got) != 1 || got[0] != "mount/pipe" {
		t.Errorf("expected mount/pipe, got %q, %v", got, err)
	}
}

func TestPrivileged(t *testing.T) {
	dir := folder(t)
	me, group := os.Getuid(), os.Getgid()
	write(t, filepath.Join(dir, "sub", "tool"), "x")
	tree, err := workspace.Open(dir)
	must(t, err)
	defer tree.Close()
	for _, tt := range []struct {
		mode     os.FileMode
		uid, gid int
		want     string
	}{
		{0o755, me, group, ""},
		{0o755 | os.ModeSetuid, me, group, "sub/tool"},
		{0o755 | os.ModeSetgid, me, group, "sub/tool"},
		{0o745 | os.ModeSetgid, me, group, ""}, // not executable for the group: a mark for locks
		{0o755 | os.ModeSetuid, me + 1, group, ""},
		{0o775 | os.ModeSetuid, me + 1, group, "sub/tool"},
		{0o757 | os.ModeSetuid, me + 1, group + 1, "sub/tool"},
	} {
		must(t, os.Chmod(filepath.Join(dir, "sub", "tool"), tt.mode))
		if got, err := workspace.Privileged(t.Context(), tree, tt.uid, tt.gid); err != nil || got != tt.want {
			t.Errorf("%v for %d:%d: expected %q, got %q, %v", tt.mode, tt.uid, tt.gid, tt.want, got, err)
		}
	}
}
