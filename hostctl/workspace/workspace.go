// Package workspace is how hostctl handles folders of the host that an agent
// can write, or could have written: it finds, walks, copies and removes them.
//
// An agent may exchange files, folders and links at any moment, also in the
// middle of a walk. So nothing here is opened by its path: every step goes from
// one open folder to the next by descriptor, follows no link, opens nothing
// but folders and regular files, and never waits on one. What an agent puts in
// a folder leads nowhere else.
//
// Resolve turns the path that a person wrote into one without links; Open
// opens such a path; Walk is the only walk, and Copy, Remove, Give,
// MakeReadable and MakeWritable are made of it. CheckGit and CopyWithGit see to
// it that git works in a workspace; they read a repository's files themselves.
package workspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds how many links of the system one path may lead through.
const maxLinks = 16

// LinkError says that a part of a path is a symbolic link.
type LinkError struct {
	Path   string // the link
	Target string // what it says; may be empty
}

func (e *LinkError) Error() string {
	return fmt.Sprintf("%s is a symbolic link (to %q), which an agent may have put there; name the folder itself if that is the one you mean", e.Path, e.Target)
}

// Resolve returns the absolute path of a folder without any symbolic link in
// it. It follows links that only the system's administrator can have made:
// those directly in /, and those that belong to root and are in a folder of
// root's that the caller cannot write. Any other is a *LinkError.
func Resolve(path string) (string, error) {
	path = filepath.Clean(path)
	for range maxLinks {
		dir, err := Open(path)
		if err == nil {
			return path, dir.Close()
		}
		var link *LinkError
		if !errors.As(err, &link) || !systemLink(link.Path) {
			return "", err
		}
		target := link.Target
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link.Path), target)
		}
		path = filepath.Join(target, strings.TrimPrefix(path, link.Path))
	}
	return "", fmt.Errorf("opening the folder %s: it leads through more than %d links", path, maxLinks)
}

// systemLink reports whether nobody but root can have made the link. Root's
// own pairs write as root, so for root only links in / count.
func systemLink(path string) bool {
	parent := filepath.Dir(path)
	var link, dir unix.Stat_t
	if unix.Lstat(path, &link) != nil || unix.Lstat(parent, &dir) != nil || link.Uid != 0 || dir.Uid != 0 {
		return false
	}
	return parent == "/" || (os.Geteuid() != 0 && unix.Access(parent, unix.W_OK) != nil)
}

// Open opens the folder at an absolute path. No part of the path may be a
// symbolic link (*LinkError). The caller closes the file.
func Open(path string) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("opening the folder %s: %w", path, err) }
	if !filepath.IsAbs(path) {
		return fail(errors.New("want an absolute path"))
	}
	parts := strings.FieldsFunc(filepath.Clean(path), func(r rune) bool { return r == filepath.Separator })
	fd, err := unix.Open("/", passing|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	for i, name := range append(parts, ".") {
		flags := passing
		if i == len(parts) {
			flags = unix.O_RDONLY
		}
		next, err := openat(fd, name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			err = linkAt(fd, name, filepath.Join("/", filepath.Join(parts[:min(i+1, len(parts))]...)), err)
		}
		unix.Close(fd)
		if err != nil {
			return fail(err)
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Steps returns every path that the kernel passes when it follows an absolute
// path to its end: folders, links, and where the links lead. Whoever can write
// to one of their folders decides what is at the end.
func Steps(path string) ([]string, error) {
	var steps []string
	at, rest := "/", strings.Split(filepath.Clean(path), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return steps, err
		}
		steps = append(steps, next)
		if info.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 { // as the kernel has it
			return steps, &os.PathError{Op: "follow", Path: path, Err: unix.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return steps, err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return steps, nil
}

// linkAt makes a *LinkError of err where the name is a link.
func linkAt(dir int, name, path string, err error) error {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return err
	}
	target, _ := readlinkat(dir, name) // the path alone says enough
	return &LinkError{path, target}
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Identity names an open folder for a process on the same machine that has it
// mounted: file system, inode, and the boot of the kernel. It is empty where
// the kernel has no name for its boot.
func Identity(dir *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return fmt.Sprintf("%d:%d:%s", st.Dev, st.Ino, strings.TrimSpace(string(boot))), err
}

// SameFolder reports whether two identities are of one folder, or cannot be
// compared, because they are from different kernels.
func SameFolder(a, b string) bool {
	bootOf := func(s string) string { return s[strings.LastIndexByte(s, ':')+1:] }
	return a == b || bootOf(a) != bootOf(b)
}

// InState reports whether the folder at the path, which has no links, is a
// state folder of hostctl's or inside one: its own (state), or any folder that
// looks like one: named airlock, with a folder pairs for its owner alone.
func InState(path, state string) bool {
	var own unix.Stat_t
	known := unix.Stat(state, &own) == nil
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		if known && unix.Lstat(dir, &st) == nil && st.Dev == own.Dev && st.Ino == own.Ino {
			return true
		}
		if filepath.Base(dir) == "airlock" {
			if info, err := os.Lstat(filepath.Join(dir, "pairs")); err == nil && info.IsDir() && info.Mode().Perm() == 0o700 {
				return true
			}
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}
