package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// chunk is how many bytes of a file are copied between two looks at ctx.
const chunk = 16 << 20

// CopyOptions bound a copy.
type CopyOptions struct {
	LeaveOut string // a folder that stays behind wherever it lies in the tree; empty: none
	MaxBytes int64  // of the files' data, holes not counted; 0: no bound

	// WithoutGit makes CopyWithGit copy no more than Copy does.
	WithoutGit bool
}

// LimitError says that a tree is larger than a copy of it may be.
type LimitError struct{ MaxBytes int64 }

func (e *LimitError) Error() string {
	return fmt.Sprintf("it holds more than %d bytes, which is the limit of a copy", e.MaxBytes)
}

// Copy copies the folder from, which stays open, to the path to, where
// nothing may be yet. Folders, regular files and links are copied, with their
// permissions, times and attributes of the name space user; hard links within
// the tree stay hard links, and holes stay holes. Data is shared with the
// original where the file system can do that. Setuid and setgid bits, other
// attributes and owners do not come along; sockets, pipes, devices and what
// lies on another file system stay behind. After an error what was copied is
// still there.
func Copy(ctx context.Context, from *os.File, to string, o CopyOptions) error {
	_, err := copyTree(ctx, from, to, o, tree{})
	return err
}

// tree says how one of several trees becomes a part of a copy.
type tree struct {
	copied int64                  // bytes of the trees before it
	merge  bool                   // folders may be there already
	skip   func(path string) bool // nil: nothing; of a folder, all that is in it
}

// copyTree is Copy. It returns the bytes of the trees so far.
func copyTree(ctx context.Context, from *os.File, to string, o CopyOptions, t tree) (copied int64, err error) {
	parent, err := os.Open(filepath.Dir(to))
	if err != nil {
		return t.copied, err
	}
	defer parent.Close()
	c := &copier{ctx: ctx, parent: parent, name: filepath.Base(to), o: o, tree: t, links: map[inode]string{}, bytes: t.copied}
	defer c.dirs.close()
	if o.LeaveOut != "" {
		var st unix.Stat_t
		if unix.Stat(o.LeaveOut, &st) == nil {
			c.leaveOut = inodeOf(st)
		}
	}
	err = Walk(ctx, from, Visitor{Enter: c.enter, File: c.file, Leave: c.leave})
	return c.bytes, err
}

type inode struct{ dev, ino uint64 }

func inodeOf(st unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} }

type copier struct {
	ctx      context.Context
	parent   *os.File // of the copy
	name     string   // of the copy in it
	o        CopyOptions
	tree     tree
	leaveOut inode
	dirs     dirStack         // of the copy
	links    map[inode]string // where the copy of a file with several names is
	bytes    int64
}

// at is where an entry belongs in the copy.
func (c *copier) at(e *Entry) (dir int, name string) {
	if len(c.dirs.dirs) == 0 {
		return int(c.parent.Fd()), c.name
	}
	return c.dirs.top(), e.Name
}

func (c *copier) enter(e *Entry) error {
	if inodeOf(e.Stat) == c.leaveOut || c.skips(e) {
		return fs.SkipDir
	}
	dir, name := c.at(e)
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !(c.tree.merge && errors.Is(err, unix.EEXIST)) {
		return err
	}
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = copyAttributes(fd, e.fd)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	c.dirs.push(fd, st)
	return nil
}

func (c *copier) skips(e *Entry) bool {
	return c.tree.skip != nil && len(c.dirs.dirs) > 0 && c.tree.skip(e.Path())
}

// leave sets what filling the folder would have changed or prevented.
func (c *copier) leave(e *Entry) error {
	if err := c.dirs.pop(); err != nil {
		return err
	}
	dir, name := c.at(e)
	return errors.Join(chmodAt(dir, name, uint32(e.Stat.Mode)&0o1777), setTimes(dir, name, e.Stat))
}

func setTimes(dir int, name string, st unix.Stat_t) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func (c *copier) file(e *Entry) error {
	if c.skips(e) {
		return nil
	}
	dir, name := c.at(e)
	switch {
	case e.IsLink():
		target, err := e.Readlink()
		if err != nil {
			return err
		}
		return errors.Join(unix.Symlinkat(target, dir, name), setTimes(dir, name, e.Stat))
	case e.IsRegular():
		return c.regular(e, dir, name)
	}
	return nil
}

func (c *copier) regular(e *Entry, dir int, name string) error {
	in, err := e.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if e.Stat.Nlink > 1 {
		first, known := c.links[inodeOf(e.Stat)]
		if known && unix.Linkat(int(c.parent.Fd()), first, dir, name, 0) == nil {
			return nil
		}
		c.links[inodeOf(e.Stat)] = filepath.Join(c.name, filepath.FromSlash(e.Path()))
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), name)
	err = c.data(out, in, e.Stat)
	if err == nil {
		err = errors.Join(copyAttributes(fd, int(in.Fd())), out.Chmod(fs.FileMode(e.Stat.Mode&0o777)))
	}
	return errors.Join(err, out.Close(), setTimes(dir, name, e.Stat))
}

// data copies as much as the file held when it was opened: it may grow all
// the while.
func (c *copier) data(out, in *os.File, st unix.Stat_t) error {
	held := min(st.Size, st.Blocks*512)
	if err := c.count(held); err != nil {
		return err
	}
	if clone(out, in) {
		return nil
	}
	counted := held
	for offset := int64(0); offset < st.Size; {
		from, to := dataAt(in, offset, st.Size)
		if from >= st.Size {
			break
		}
		to = min(to, from+chunk)
		if counted -= to - from; counted < 0 { // it was filled after it was opened, or the file system compresses
			if err := c.count(-counted); err != nil {
				return err
			}
			counted = 0
		}
		if err := c.piece(out, in, from, to); errors.Is(err, io.EOF) {
			break // it was cut meanwhile
		} else if err != nil {
			return err
		}
		offset = to
	}
	return out.Truncate(st.Size)
}

func (c *copier) piece(out, in *os.File, from, to int64) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	for _, f := range []*os.File{out, in} {
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			return err
		}
	}
	_, err := io.CopyN(out, in, to-from)
	return err
}

func (c *copier) count(n int64) error {
	if c.bytes += n; c.o.MaxBytes > 0 && c.bytes > c.o.MaxBytes {
		return &LimitError{c.o.MaxBytes}
	}
	return nil
}
