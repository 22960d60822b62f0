package pid1

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// faults are the signals on which the Go runtime ends the process, whoever
// sends them, unless it was told of them; and told or not when they are sent
// with sigqueue.
var faults = []syscall.Signal{syscall.SIGILL, syscall.SIGTRAP, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGSTKFLT, syscall.SIGSYS}

// IgnoreFaults gives the signals of faults their default action. The kernel
// drops a signal with that action when a process of a pid namespace sends it
// to PID 1 of the namespace, so nobody inside can end PID 1 with one. A real
// fault of this process still ends it; it is no longer a panic.
func IgnoreFaults() error {
	var action [8]uintptr // struct sigaction of the kernel, of any architecture: SIG_DFL, no flags, an empty mask
	for _, s := range faults {
		if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); e != 0 {
			return fmt.Errorf("setting the action of %v: %w", s, e)
		}
	}
	return nil
}
