package folder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"airlock/hostctl/pair/folder"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	must(t, os.MkdirAll(filepath.Join(from, "sub", "pairs"), 0o755))
	must(t, os.WriteFile(filepath.Join(from, "tool"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Chmod(filepath.Join(from, "tool"), 0o755|os.ModeSetuid))
	must(t, os.WriteFile(filepath.Join(from, "sub", "pairs", "ca.key"), []byte("key"), 0o600))
	must(t, os.WriteFile(filepath.Join(from, "sub", "read-only"), []byte("x"), 0o400))
	must(t, os.Symlink("/etc/shadow", filepath.Join(from, "link")))
	must(t, syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600))
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	must(t, os.Chtimes(filepath.Join(from, "tool"), old, old))
	must(t, os.Chmod(filepath.Join(from, "sub"), 0o555))
	defer os.Chmod(filepath.Join(from, "sub"), 0o755)
	defer folder.Remove(to)

	alias := filepath.Join(dir, "alias") // people name their folders by links
	must(t, os.Symlink(from, alias))
	must(t, folder.Copy(t.Context(), alias, to, filepath.Join(alias, "sub", "pairs")))

	info, err := os.Stat(filepath.Join(to, "tool"))
	must(t, err)
	if info.Mode() != 0o755 || !info.ModTime().Equal(old) {
		t.Errorf("mode %v, time %v", info.Mode(), info.ModTime())
	}
	if link, err := os.Readlink(filepath.Join(to, "link")); link != "/etc/shadow" {
		t.Errorf("link %q, %v", link, err)
	}
	for _, gone := range []string{"pipe", "sub/pairs"} {
		if _, err := os.Lstat(filepath.Join(to, gone)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s came along: %v", gone, err)
		}
	}
	if info, err := os.Stat(filepath.Join(to, "sub")); err != nil || info.Mode().Perm() != 0o555 {
		t.Errorf("sub: %v, %v", info, err)
	}
}

func TestCopyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := folder.Copy(ctx, t.TempDir(), filepath.Join(t.TempDir(), "to"), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRemoveTakesWhatNobodyMayOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	must(t, os.MkdirAll(filepath.Join(dir, "b", "c"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "b"), 0))
	must(t, folder.Remove(dir))
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	must(t, folder.Remove(dir))
}

func TestMakeReadable(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "sub", "f"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "tool"), nil, 0o700))
	must(t, folder.MakeReadable(dir))
	for name, want := range map[string]os.FileMode{"sub": 0o755, "sub/f": 0o644, "tool": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}
