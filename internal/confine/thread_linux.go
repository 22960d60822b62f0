package confine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoCore forbids core dumps for the whole process and what it starts.
func NoCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	return nil
}

// Hide keeps the memory of this process from others of the same user: no
// core, no ptrace, and /proc/PID/{mem,environ,maps,fd} are root's. It is to be
// called after the last exec, which takes it back.
func Hide() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding the memory of this process: %w", err)
	}
	return NoCore()
}

// DropCapabilities empties every set of the thread, the bounding one first,
// and sees to it that no later exec gives any back (no_new_privs).
func DropCapabilities() error {
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
