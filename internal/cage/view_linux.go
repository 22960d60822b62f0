package cage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"airlock/hostctl/workspace"
)

// Binary is where the sidecars binary lies in the view: the init and the
// probe are executed from there, through a mount that nobody can write.
const Binary = "/run/airlock/sidecars"

// Folders of the system that the agent sees, where the host has them. A link
// (/bin → usr/bin) stays a link.
var systemDirs = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix"}

// systemFiles are what programs need of /etc. Nothing that names people,
// machines, networks or credentials.
var systemFiles = []string{
	"/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/ca-trust/extracted", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives",
	"/etc/localtime", "/etc/timezone", "/etc/os-release", "/etc/debian_version", "/etc/locale.alias", "/etc/locale.conf",
	"/etc/mime.types", "/etc/services", "/etc/protocols", "/etc/magic", "/etc/terminfo", "/etc/inputrc", "/etc/fonts",
	"/etc/profile", "/etc/profile.d", "/etc/bash.bashrc", "/etc/bash_completion.d", "/etc/shells", "/etc/skel",
	"/etc/perl", "/etc/python3*", "/etc/java-*", "/etc/maven", "/etc/vim",
}

var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// Parts of /proc that tell about the whole machine more than a program needs.
var hiddenProc = []string{"/proc/keys", "/proc/key-users", "/proc/kcore", "/proc/timer_list", "/proc/sched_debug", "/proc/sysrq-trigger"}

const (
	readOnly = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	private  = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	device   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
)

// tree is a copy of a host's mount, not yet anywhere.
type tree struct {
	fd     int
	target string
	dir    bool
	link   string // set: no mount but this link
}

// enterView replaces the host's file system by the agent's view of it.
//
// It happens in two steps, because root's folders can be opened only before
// we become the agent's user, and the new file system belongs to that user:
// first every source is opened, then the view is put together.
func (s Spec) enterView() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private (does the system let user namespaces mount?): %w", err)
	}
	trees, err := s.gather()
	if err != nil {
		return err
	}
	if err := becomeAgent(); err != nil {
		return fmt.Errorf("becoming the agent's user: %w", err)
	}
	// A session keyring would come along with the user's keys.
	_, _ = unix.KeyctlJoinSessionKeyring("")
	unix.Umask(0o022)
	if err := unix.Sethostname([]byte(s.Pair)); err != nil {
		return fmt.Errorf("setting the host name: %w", err)
	}
	// Nothing of the host is looked up any more, so any folder of it will do
	// as the place of the new root until the pivot.
	if err := mountNew("tmpfs", "/usr", 0, "mode=755", "size=16m"); err != nil {
		return err
	}
	if err := unix.Chdir("/usr"); err != nil {
		return err
	}
	if err := s.populate(trees); err != nil {
		return err
	}
	return pivot()
}

func (s Spec) gather() ([]tree, error) {
	g := gatherer{}
	for _, path := range systemDirs {
		if link, err := os.Readlink(path); err == nil {
			g.trees = append(g.trees, tree{target: path, link: link})
		} else if _, err := os.Lstat(path); err == nil {
			g.take(path, path, readOnly)
		}
	}
	for _, pattern := range systemFiles {
		found, _ := filepath.Glob(pattern) // the patterns are constant and good
		for _, path := range found {
			g.take(path, path, readOnly)
		}
	}
	for _, path := range devices {
		g.take(path, path, device)
	}
	for _, path := range hiddenProc {
		if _, err := os.Lstat(path); err == nil {
			g.take("/dev/null", path, device)
		}
	}
	g.take("/proc/self/exe", Binary, readOnly)
	if s.Files != "" {
		g.take(s.Files, "/etc/airlock", readOnly)
	}
	switch {
	case s.Mapped:
		unix.CloseOnExec(fdMapped)
		g.trees = append(g.trees, tree{fd: fdMapped, target: "/workspace", dir: true})
	case s.Workspace != "":
		g.takeWorkspace(s.Workspace)
	}
	for _, path := range s.Hidden {
		g.take("/dev/null", "/workspace/"+path, device)
	}
	return g.trees, errors.Join(g.errs...)
}

type gatherer struct {
	trees []tree
	errs  []error
}

func (g *gatherer) take(source, target string, attr uint64) {
	t, err := openTree(source, target, attr)
	if err != nil {
		g.errs = append(g.errs, fmt.Errorf("opening %s for the view: %w", source, err))
		return
	}
	g.trees = append(g.trees, t)
}

// takeWorkspace follows no link on the way: an agent could have put it there.
func (g *gatherer) takeWorkspace(path string) {
	dir, err := workspace.Open(path)
	if err != nil {
		g.errs = append(g.errs, err)
		return
	}
	defer dir.Close()
	fd, err := cloneTree(int(dir.Fd()), private)
	if err != nil {
		g.errs = append(g.errs, fmt.Errorf("opening %s for the view: %w", path, err))
		return
	}
	g.trees = append(g.trees, tree{fd: fd, target: "/workspace", dir: true})
}

// cloneTree copies the mounts at and below an open folder.
func cloneTree(dir int, attr uint64) (fd int, err error) {
	fd, err = unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, err
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func openTree(source, target string, attr uint64) (tree, error) {
	info, err := os.Stat(source)
	if err != nil {
		return tree{}, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return tree{}, err
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr})
	return tree{fd: fd, target: target, dir: info.IsDir()}, err
}

// becomeAgent changes this thread alone; the others end with the exec.
func becomeAgent() error {
	if os.Getuid() == agentUID && os.Getgid() == agentGID {
		return nil // an ordinary user: there is one id in the namespace, and no group can be dropped
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, agentGID, agentGID, agentGID); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, agentUID, agentUID, agentUID); e != 0 {
		return e
	}
	return nil
}

// populate fills the new root, which is the working directory.
func (s Spec) populate(trees []tree) error {
	if err := s.memory(); err != nil {
		return err
	}
	// Shortest target first: /etc before /etc/ssl.
	slices.SortStableFunc(trees, func(a, b tree) int { return strings.Count(a.target, "/") - strings.Count(b.target, "/") })
	for _, t := range trees {
		if err := t.attach(); err != nil {
			return fmt.Errorf("mounting %s: %w", t.target, err)
		}
	}
	return s.writeEtc()
}

// memory mounts what lives in memory, and the kernel's own file systems.
func (s Spec) memory() error {
	size := "size=2g"
	if s.Memory > 0 {
		size = "size=" + strconv.FormatInt(s.Memory, 10)
	}
	mounts := []struct {
		fs, target string
		attr       int
		options    []string
	}{
		{"proc", "proc", private | unix.MOUNT_ATTR_NOEXEC, nil},
		{"tmpfs", "tmp", private, []string{"mode=1777", size}},
		{"tmpfs", "home/agent", private, []string{"mode=755", size}},
		{"tmpfs", "dev", device, []string{"mode=755", "size=64k"}},
		{"devpts", "dev/pts", device, []string{"ptmxmode=0666", "mode=0620"}},
		{"tmpfs", "dev/shm", private, []string{"mode=1777", size}},
	}
	for _, m := range mounts {
		if err := mountNew(m.fs, m.target, m.attr, m.options...); err != nil {
			return err
		}
	}
	if s.Workspace == "" {
		if err := mountNew("tmpfs", "workspace", private, "mode=755", size); err != nil {
			return err
		}
	}
	return links()
}

func links() error {
	for _, l := range [][2]string{
		{"pts/ptmx", "dev/ptmx"}, {"/proc/self/fd", "dev/fd"},
		{"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
		{"/tmp", "var/tmp"}, {"/run", "var/run"},
	} {
		if err := os.MkdirAll(filepath.Dir(l[1]), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}

// mountNew mounts a fresh file system of the type at the target, which is
// made where it is missing.
func mountNew(fs, target string, attr int, options ...string) error {
	fail := func(err error) error { return fmt.Errorf("mounting %s at %s: %w", fs, target, err) }
	fd, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return fail(err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return fail(err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fail(err)
	}
	if !filepath.IsAbs(target) {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fail(err)
		}
	}
	if err := move(mount, target); err != nil {
		return fail(err)
	}
	return nil
}

func (t tree) attach() error {
	path := "." + t.target
	if t.link != "" {
		return os.Symlink(t.link, path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := t.makeTarget(path); err != nil {
		return err
	}
	return move(t.fd, path)
}

// makeTarget leaves alone what is there: the entries of /proc are.
func (t tree) makeTarget(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if t.dir {
		return os.Mkdir(path, 0o755)
	}
	return os.WriteFile(path, nil, 0o444)
}

func move(fd int, target string) error {
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// pivot makes the working directory the root, lets go of the host's file
// system, and makes the root itself read-only.
func pivot() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the host's file system: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for _, path := range []string{"/", "/dev"} {
		if err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("making %s read-only: %w", path, err)
		}
	}
	return nil
}
