package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes what an agent may have left at a path in a folder of ours: a
// tree of any depth and in any mode, or anything else. What is absent is fine.
func Remove(ctx context.Context, path string) error {
	fail := func(err error) error {
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	defer parent.Close()
	dir, name := int(parent.Fd()), filepath.Base(path)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fail(unix.Unlinkat(dir, name, 0))
	}
	if st.Mode&0o700 != 0o700 {
		if err := chmodAt(dir, name, 0o700); err != nil {
			return fail(err)
		}
	}
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return fail(err)
	}
	root := os.NewFile(uintptr(fd), path)
	defer root.Close()
	err = Walk(ctx, root, Visitor{
		Force: true,
		File:  func(e *Entry) error { return unix.Unlinkat(e.Parent(), e.Name, 0) },
		Leave: func(e *Entry) error {
			if e.Name == "." {
				return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
			}
			return unix.Unlinkat(e.Parent(), e.Name, unix.AT_REMOVEDIR)
		},
	})
	return fail(err)
}

// Give makes the user the owner of dir, a folder of ours, and of everything
// in it. Only root can, and needs to: for others it does nothing.
func Give(ctx context.Context, dir string, uid, gid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	give := func(e *Entry) error {
		if int(e.Stat.Uid) == uid && int(e.Stat.Gid) == gid {
			return nil
		}
		return unix.Fchownat(e.Parent(), e.Name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	return walkOwn(ctx, dir, Visitor{Enter: give, File: give})
}

// MakeReadable lets every user read the files in dir, a folder of ours: the
// agent may be another user than the one who wrote them.
func MakeReadable(ctx context.Context, dir string) error { return addMode(ctx, dir, 0o444) }

// MakeWritable lets every user read and write in dir, a folder of ours.
func MakeWritable(ctx context.Context, dir string) error { return addMode(ctx, dir, 0o666) }

// addMode adds the bits, and with them the right to enter folders and to
// execute what somebody may execute.
func addMode(ctx context.Context, dir string, bits uint32) error {
	add := func(e *Entry) error {
		kind := uint32(e.Stat.Mode) & unix.S_IFMT
		if kind != unix.S_IFDIR && kind != unix.S_IFREG {
			return nil
		}
		mode := uint32(e.Stat.Mode)&0o777 | bits
		if kind == unix.S_IFDIR || mode&0o100 != 0 {
			mode |= 0o111
		}
		return chmodAt(e.Parent(), e.Name, mode)
	}
	return walkOwn(ctx, dir, Visitor{Enter: add, File: add})
}

func walkOwn(ctx context.Context, dir string, v Visitor) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	root := os.NewFile(uintptr(fd), dir)
	defer root.Close()
	return Walk(ctx, root, v)
}

// CheckBound returns an error when the user, an agent's on the host, could
// write a setuid or setgid program in the tree.
func CheckBound(ctx context.Context, root *os.File, uid, gid int) error {
	path, err := Privileged(ctx, root, uid, gid)
	if err != nil {
		return fmt.Errorf("looking at the workspace: %w", err)
	}
	if path != "" {
		return fmt.Errorf("the workspace holds a program with a setuid or setgid bit, %q, which the agent could rewrite for others to execute: remove the bit (chmod ug-s), or let the agent work on a copy", path)
	}
	return nil
}

// maxDoors bounds how many sockets and pipes of a workspace can be hidden.
const maxDoors = 100

// Doors returns the sockets and pipes in the tree, below root, with slashes.
// Through one in a bound workspace an agent could speak with a process of the
// host, whatever its network is.
func Doors(ctx context.Context, root *os.File) (paths []string, err error) {
	err = Walk(ctx, root, Visitor{Everywhere: true, File: func(e *Entry) error {
		if kind := e.Stat.Mode & unix.S_IFMT; kind == unix.S_IFSOCK || kind == unix.S_IFIFO {
			paths = append(paths, e.Path())
		}
		if len(paths) > maxDoors {
			return fmt.Errorf("the workspace holds more than %d sockets and pipes of the host: let the agent work on a copy", maxDoors)
		}
		return nil
	}})
	return paths, err
}

// Privileged returns the first setuid or setgid program in the tree that the
// user may write, if there is one. Whoever writes a program through a mapping
// of it changes what others execute with its owner's rights: the bits survive
// that.
func Privileged(ctx context.Context, root *os.File, uid, gid int) (path string, err error) {
	errFound := errors.New("found")
	err = Walk(ctx, root, Visitor{Everywhere: true, File: func(e *Entry) error {
		theirs := int(e.Stat.Uid) == uid || (int(e.Stat.Gid) == gid && e.Stat.Mode&0o020 != 0) || e.Stat.Mode&0o002 != 0
		if e.IsRegular() && theirs && (e.Stat.Mode&unix.S_ISUID != 0 || e.Stat.Mode&(unix.S_ISGID|0o010) == unix.S_ISGID|0o010) {
			path = e.Path()
			return errFound
		}
		return nil
	}})
	if errors.Is(err, errFound) {
		err = nil
	}
	return path, err
}
