// Package folder is what the backends do with folders of the host on behalf
// of an agent: copy its workspace, hand files over to another user, remove what
// an agent left. It follows no link.
package folder

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// MakeReadable lets every user read the files below dir: the agent may be
// another user than the one who wrote them.
func MakeReadable(dir string) error { return open(dir, 0o444) }

// MakeWritable lets every user read and write below dir.
func MakeWritable(dir string) error { return open(dir, 0o666) }

// open adds the bits, and with them the right to enter folders and to execute
// what somebody may execute.
func open(dir string, bits fs.FileMode) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | bits
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// Give makes the user the owner of everything below dir. Only root can, and
// needs to: for others it does nothing.
func Give(dir string, uid, gid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// Copy copies a tree. Links in it stay links; setuid bits and special files
// stay behind, and so does the folder leaveOut, wherever it lies.
func Copy(ctx context.Context, from, to, leaveOut string) (err error) {
	c := copier{to: to}
	if c.from, err = filepath.EvalSymlinks(from); err != nil {
		return err
	}
	if c.leaveOut, err = filepath.EvalSymlinks(leaveOut); err != nil {
		c.leaveOut = "" // it is not there: nothing to leave out
	}
	return c.run(ctx)
}

type copier struct{ from, to, leaveOut string }

type stamp struct {
	path string
	info fs.FileInfo
}

func (c copier) run(ctx context.Context) error {
	var dirs []stamp // their times are set last: filling them changes them
	err := filepath.WalkDir(c.from, func(path string, d fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if path == c.leaveOut {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(c.from, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(c.to, rel)
		if info.IsDir() {
			dirs = append(dirs, stamp{target, info})
		}
		return entry(path, target, info)
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = os.Chmod(dirs[i].path, dirs[i].info.Mode().Perm())
		err = errors.Join(err, os.Chtimes(dirs[i].path, dirs[i].info.ModTime(), dirs[i].info.ModTime()))
	}
	return err
}

func entry(path, target string, info fs.FileInfo) error {
	var err error
	switch {
	case info.IsDir():
		err = os.Mkdir(target, 0o700)
	case info.Mode()&fs.ModeSymlink != 0:
		var link string
		if link, err = os.Readlink(path); err == nil {
			err = os.Symlink(link, target)
		}
	case info.Mode().IsRegular():
		err = copyFile(path, target, info)
	default:
		return nil
	}
	return err
}

func copyFile(path, target string, info fs.FileInfo) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(info.Mode().Perm()), out.Close())
	return errors.Join(err, os.Chtimes(target, info.ModTime(), info.ModTime()))
}

// Remove removes what an agent may have left in any mode.
func Remove(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700) // the second attempt says what is wrong
		}
		return nil
	})
	return os.RemoveAll(dir)
}
