package confine

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Access is what Landlock may allow below a path: a sum of rights.
type Access uint64

// Kinds of access. Those beyond the first version of Landlock are left out
// where the kernel has an older one.
const (
	Read   Access = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	Run    Access = Read | unix.LANDLOCK_ACCESS_FS_EXECUTE
	Change Access = Read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	// Everything leaves out only device nodes.
	Everything Access = (abi1 | unix.LANDLOCK_ACCESS_FS_REFER | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV) &^
		(unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK)

	abi1 = 1<<13 - 1
	// forFiles are the rights that mean something for what is no folder.
	forFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// Rule allows an access to files, and to folders with all that is below them.
// Paths that do not exist or that the thread cannot reach are left out.
type Rule struct {
	Access Access
	Paths  []string
}

// Domain is what Landlock leaves to a thread: these rules and no others, no
// mounts, no ptrace out of the domain, and, where the kernel can say it, no
// signal and no abstract unix socket out of it.
type Domain struct {
	Rules []Rule
	NoTCP bool // neither bind nor connect, where the kernel can say it (version 4)
	Moves bool // files move from one folder to another: version 1 lets nobody do that
}

// LandlockVersion is the version of Landlock's interface that the kernel has:
// 0 for none, and where something around us refuses its calls.
func LandlockVersion() int {
	version, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return 0
	}
	return int(version)
}

// Apply puts the calling thread into the domain. The error is
// errors.ErrUnsupported where there is no Landlock, or one that is too old.
func (d Domain) Apply() error {
	version := LandlockVersion()
	if version == 0 || d.Moves && version < 2 {
		return errors.ErrUnsupported
	}
	attr := d.ruleset(version)
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return e
	}
	defer unix.Close(int(fd))
	for _, rule := range d.Rules {
		for _, path := range rule.Paths {
			if err := allowBeneath(int(fd), path, uint64(rule.Access)&attr.fs); err != nil {
				return fmt.Errorf("allowing %s: %w", path, err)
			}
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return e
	}
	return nil
}

// rulesetAttr is struct landlock_ruleset_attr.
type rulesetAttr struct{ fs, net, scoped uint64 }

// ruleset handles all that this kernel's Landlock knows of, up to the sixth
// version.
func (d Domain) ruleset(abi int) rulesetAttr {
	attr := rulesetAttr{fs: abi1}
	for _, right := range []struct {
		since int
		bit   uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if abi >= right.since {
			attr.fs |= right.bit
		}
	}
	if d.NoTCP && abi >= 4 {
		attr.net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 6 {
		attr.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr
}

func allowBeneath(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if slices.Contains([]error{unix.ENOENT, unix.ENOTDIR, unix.EACCES}, err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= forFiles
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
