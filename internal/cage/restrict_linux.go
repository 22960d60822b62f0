package cage

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// restrict takes every privilege from the calling thread, which is to execute
// the init: the init, the agent, and all that they start inherit it. It
// returns the layers that the kernel lacks, or an error when one of them may
// not be missing.
func (s Spec) restrict() (missing []string, err error) {
	if err := s.setLimits(); err != nil {
		return nil, err
	}
	if err := dropCapabilities(); err != nil {
		return nil, err
	}
	for _, layer := range []struct {
		name  string
		apply func() error
	}{{"landlock", func() error { return applyLandlock([]string{"/"}, writable) }}, {"seccomp", applySeccomp}} {
		err := layer.apply()
		switch {
		case errors.Is(err, errors.ErrUnsupported) && slices.Contains(s.Missing, layer.name):
			missing = append(missing, layer.name)
		case errors.Is(err, errors.ErrUnsupported):
			return nil, fmt.Errorf("this kernel has no %s, and the plan does not allow it to be missing", layer.name)
		case err != nil:
			return nil, fmt.Errorf("applying %s: %w", layer.name, err)
		}
	}
	return missing, nil
}

func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}

// setLimits bounds processes and threads, together. Memory it does not bound:
// RLIMIT_DATA and RLIMIT_AS count what is reserved, and sanitizers and virtual
// machines reserve terabytes.
func (s Spec) setLimits() error {
	if err := noCore(); err != nil {
		return err
	}
	if s.Pids == 0 {
		return nil
	}
	n := uint64(s.Pids)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		return fmt.Errorf("bounding processes to %d: %w", n, err)
	}
	return nil
}

// dropCapabilities empties every set of the thread, the bounding one first,
// and sees to it that no later exec gives any back.
func dropCapabilities() error {
	if err := dropBounding(); err != nil {
		return fmt.Errorf("dropping the capability bounding set: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}

// dropBounding needs CAP_SETPCAP. An ordinary process has not got it, and the
// set means nothing to it once no_new_privs is set.
func dropBounding() error {
	for c := 0; c < 64; c++ {
		held, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel knows no more of them
		}
		if err == nil && held == 0 {
			continue
		}
		err = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0)
		if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Landlock's rights: to read, those that make sense for a file, all of the
// first version, and to write.
const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockFile  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	landlockABI1  = 1<<13 - 1
	landlockWrite = landlockABI1 &^ (unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK)
)

// writable are the only places of the view that can be written: Landlock says
// it a second time, beside the read-only mounts.
var writable = []string{"/workspace", "/home/agent", "/tmp", "/dev", "/proc"}

// applyLandlock confines the thread to a domain: no mounts, no ptrace and no
// signal out of it, and only these files and folders, to read and execute or
// to write, too. Those that do not exist are left out.
func applyLandlock(read, write []string) error {
	abi, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if e != 0 {
		return errors.ErrUnsupported
	}
	attr, extra := landlockRuleset(int(abi))
	fd, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if e != 0 {
		return e
	}
	defer unix.Close(int(fd))
	for _, rule := range []struct {
		paths  []string
		access uint64
	}{{read, landlockRead}, {write, landlockWrite | extra}} {
		for _, path := range rule.paths {
			if err := allowBeneath(int(fd), path, rule.access); err != nil {
				return fmt.Errorf("allowing %s: %w", path, err)
			}
		}
	}
	if _, _, e := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); e != 0 {
		return e
	}
	return nil
}

// rulesetAttr is struct landlock_ruleset_attr. Ports are left alone: the only
// network is loopback, and it is the agent's own.
type rulesetAttr struct{ fs, net, scoped uint64 }

// landlockRuleset handles all that this kernel's Landlock knows of, up to the
// sixth version; extra are the rights beyond the first one.
func landlockRuleset(abi int) (attr rulesetAttr, extra uint64) {
	for _, right := range []struct {
		since int
		bit   uint64
	}{{2, unix.LANDLOCK_ACCESS_FS_REFER}, {3, unix.LANDLOCK_ACCESS_FS_TRUNCATE}, {5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV}} {
		if abi >= right.since {
			extra |= right.bit
		}
	}
	attr.fs = landlockABI1 | extra
	if abi >= 6 {
		attr.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return attr, extra
}

func allowBeneath(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
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
		access &= landlockFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, e := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
