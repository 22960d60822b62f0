package workspace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrChanged says that an entry was exchanged again and again while the walk
// looked at it, or that a folder was moved away under it.
var ErrChanged = errors.New("it changes while it is read")

const (
	maxOpen  = 32 // folders that a walk keeps open, whatever the depth
	attempts = 8  // how often an entry is looked at that changes
)

// Visitor is what a walk calls. Each function may be nil. An error ends the
// walk, but fs.SkipDir from Enter, which leaves the folder out.
type Visitor struct {
	Enter func(*Entry) error // a folder, before what is in it
	File  func(*Entry) error // whatever is no folder
	Leave func(*Entry) error // a folder that was entered, after what is in it

	// Everywhere enters other file systems, too, and the ones below them.
	Everywhere bool

	// Force makes a folder accessible for its owner where it is not. Only for
	// a tree that is to be removed or given away.
	Force bool
}

// Entry is what a walk has met. It is valid until the function returns.
type Entry struct {
	Name string      // in its folder; "." for the root of the walk
	Stat unix.Stat_t // of the entry itself; in Enter and Leave, of the open folder
	w    *walker
	fd   int // of the open folder, in Enter; else -1
}

// Path is the entry's place below the root, with slashes; for messages and
// comparisons, not for opening anything.
func (e *Entry) Path() string { return e.w.path(e.Name) }

// Parent is the descriptor of the folder that holds the entry; of the root's
// own folder, for the root.
func (e *Entry) Parent() int { return e.w.parent() }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// IsLink reports whether the entry is a symbolic link.
func (e *Entry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// Readlink returns what a link says. It fails with ErrChanged when there is no
// link any more.
func (e *Entry) Readlink() (string, error) {
	target, err := readlinkat(e.Parent(), e.Name)
	if errors.Is(err, unix.EINVAL) {
		return "", ErrChanged
	}
	return target, changed(err)
}

// Open opens a regular file for reading and updates Stat. It does not wait,
// and fails with ErrChanged when a regular file is no longer there.
func (e *Entry) Open() (*os.File, error) {
	fd, err := openat(e.Parent(), e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, changed(err)
	}
	if err := unix.Fstat(fd, &e.Stat); err != nil || !e.IsRegular() || !e.w.has(e.Stat) {
		unix.Close(fd)
		return nil, cmp.Or(err, ErrChanged)
	}
	// O_NONBLOCK means nothing to a regular file, and much to the Go runtime.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.Name), nil
}

// changed makes ErrChanged of what the kernel says about an entry that is no
// more, or is no longer what it was.
func changed(err error) error {
	if err != nil && !errors.Is(err, ErrChanged) && isChange(err) {
		return fmt.Errorf("%w (%w)", ErrChanged, err)
	}
	return err
}

func isChange(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO)
}

// Walk visits the folder root and what is below it on the same file system
// (unless Everywhere), in the order of names, folders before what is in them.
// Folders of another file system are left out. What vanishes meanwhile is left out; what turns
// into something else is looked at again. It keeps at most 32 descriptors,
// however deep the tree is. Root stays open, and the caller's.
func Walk(ctx context.Context, root *os.File, v Visitor) error {
	w := &walker{ctx: ctx, v: v}
	defer w.dirs.close()
	return w.run(root)
}

type walker struct {
	ctx    context.Context
	v      Visitor
	dirs   dirStack
	levels []level
	device uint64
}

// level is one open folder: what is still to be visited in it.
type level struct {
	name  string
	names []string // sorted, last first
	stat  unix.Stat_t
}

func (w *walker) path(name string) string {
	var parts []string
	for _, l := range w.levels[min(1, len(w.levels)):] {
		parts = append(parts, l.name)
	}
	return strings.Join(append(parts, name), "/")
}

// has reports whether the walk goes where the entry is.
func (w *walker) has(st unix.Stat_t) bool { return w.v.Everywhere || uint64(st.Dev) == w.device }

func (w *walker) parent() int { return w.dirs.top() }

func (w *walker) run(root *os.File) error {
	fd, err := openat(int(root.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	w.device = uint64(st.Dev)
	w.push(".", fd, st)
	if w.v.Enter != nil {
		if err := w.v.Enter(&Entry{Name: ".", Stat: st, w: w, fd: fd}); errors.Is(err, fs.SkipDir) {
			return nil
		} else if err != nil {
			return err
		}
	}
	if err := w.fill(); err != nil {
		return err
	}
	for len(w.levels) > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// step visits the next entry of the deepest folder, or leaves it.
func (w *walker) step() error {
	top := &w.levels[len(w.levels)-1]
	if len(top.names) == 0 {
		return w.leave()
	}
	name := top.names[len(top.names)-1]
	top.names = top.names[:len(top.names)-1]
	err := error(nil)
	for range attempts {
		if err = w.visit(name); !errors.Is(err, ErrChanged) {
			break
		}
	}
	if err != nil && !errors.Is(err, fs.SkipDir) {
		return fmt.Errorf("%s: %w", shorten(w.path(name)), err)
	}
	return nil
}

// shorten keeps an error readable when an agent has nested thousands of
// folders.
func shorten(path string) string {
	const most = 200
	if len(path) <= most {
		return path
	}
	return path[:most/2] + "…" + path[len(path)-most/2:]
}

// visit looks at one entry. A nil error without a visit: it has vanished.
func (w *walker) visit(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(w.parent(), name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if w.v.File == nil {
			return nil
		}
		return w.v.File(&Entry{Name: name, Stat: st, w: w, fd: -1})
	}
	if !w.has(st) {
		return nil
	}
	if w.v.Force && st.Mode&0o700 != 0o700 {
		if err := chmodAt(w.parent(), name, uint32(st.Mode)&0o7777|0o700); err != nil {
			return changed(err)
		}
	}
	fd, err := openat(w.parent(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return changed(err)
	}
	if err := unix.Fstat(fd, &st); err != nil || !w.has(st) {
		unix.Close(fd)
		return err // another file system: left out
	}
	return w.enter(name, fd, st)
}

// enter takes the descriptor over.
func (w *walker) enter(name string, fd int, st unix.Stat_t) error {
	if w.v.Enter != nil {
		if err := w.v.Enter(&Entry{Name: name, Stat: st, w: w, fd: fd}); err != nil {
			unix.Close(fd)
			return err
		}
	}
	w.push(name, fd, st)
	return w.fill()
}

func (w *walker) push(name string, fd int, st unix.Stat_t) {
	w.dirs.push(fd, st)
	w.levels = append(w.levels, level{name: name, stat: st})
}

// fill reads the names in the folder that was entered last.
func (w *walker) fill() error {
	names, err := namesIn(w.dirs.top())
	if err != nil && !errors.Is(err, unix.ENOENT) { // that one was removed after it was opened: it is empty
		return err
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	w.levels[len(w.levels)-1].names = names
	return nil
}

// namesIn lists a folder through a descriptor of its own, which os.File closes.
func namesIn(dir int) ([]string, error) {
	fd, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}

func (w *walker) leave() error {
	last := w.levels[len(w.levels)-1]
	w.levels = w.levels[:len(w.levels)-1]
	e := &Entry{Name: last.name, Stat: last.stat, w: w, fd: -1}
	if len(w.levels) > 0 { // the parent of the root is not ours
		if err := w.dirs.pop(); err != nil {
			return fmt.Errorf("%s: %w", shorten(e.Path()), err)
		}
	}
	if w.v.Leave == nil {
		return nil
	}
	if err := w.v.Leave(e); err != nil {
		return fmt.Errorf("%s: %w", shorten(e.Path()), err)
	}
	return nil
}

// dirStack is a chain of open folders of any depth that keeps few descriptors:
// those of the upper folders are closed on the way down and found again by
// ".." on the way up, where they must be the same folders as before.
type dirStack struct {
	dirs []heldDir
	open int // how many are open: the deepest ones
}

type heldDir struct {
	fd       int // -1: closed
	dev, ino uint64
}

func (s *dirStack) top() int { return s.dirs[len(s.dirs)-1].fd }

// push takes the descriptor over.
func (s *dirStack) push(fd int, st unix.Stat_t) {
	s.dirs = append(s.dirs, heldDir{fd, uint64(st.Dev), st.Ino})
	s.open++
	if s.open > maxOpen {
		d := &s.dirs[len(s.dirs)-s.open]
		unix.Close(d.fd)
		d.fd = -1
		s.open--
	}
}

// pop closes the deepest folder and sees to it that the one above is open.
func (s *dirStack) pop() error {
	last := s.dirs[len(s.dirs)-1]
	s.dirs = s.dirs[:len(s.dirs)-1]
	s.open--
	defer unix.Close(last.fd)
	if len(s.dirs) == 0 || s.top() >= 0 {
		return nil
	}
	above := &s.dirs[len(s.dirs)-1]
	fd, err := openat(last.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return changed(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || uint64(st.Dev) != above.dev || st.Ino != above.ino {
		unix.Close(fd)
		return cmp.Or(err, ErrChanged)
	}
	above.fd = fd
	s.open++
	return nil
}

func (s *dirStack) close() {
	for _, d := range s.dirs {
		if d.fd >= 0 {
			unix.Close(d.fd)
		}
	}
	s.dirs, s.open = nil, 0
}
