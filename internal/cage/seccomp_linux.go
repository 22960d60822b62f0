package cage

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data. Only the low half of an argument is looked
// at: every argument that is judged is a 32-bit one for the kernel too.
const (
	offNr   = 0
	offArch = 4
)

func offArg(i int) uint32 { return uint32(16 + 8*i) } // little-endian: low half first

// newest is the last call that this list was checked against. A younger one
// does not exist for the agent, whatever it may do.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// namespaces are the clone flags that make one.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// refused are the calls that an agent has no business with. Most need a
// capability that it has not got, too: this is the second lock, and it keeps
// the kernel's rarely used parts out of reach. ptrace is allowed, for
// debuggers: it reaches the agent's own processes only.
var refused = []uint32{
	// mounts and namespaces
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS,
	unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG,
	unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_LISTNS,
	// keys of the host's user
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// large, young or rarely needed parts of the kernel
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_FANOTIFY_INIT, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	// files by handle pass the view by; descriptors of others
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP,
	// the machine
	unix.SYS_KEXEC_LOAD, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_NFSSERVCTL,
	unix.SYS_KEXEC_FILE_LOAD,
}

// program is the filter as instructions. Errors are the ones that programs
// know how to fall back from.
func program() []bpf.Instruction {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: offNr, Size: 4},
		// This takes x32's numbers along, which begin at 1<<30.
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: newest, SkipTrue: 1},
		fail(unix.ENOSYS),
	}
	for _, nr := range slices.Concat(refused, refusedHere) {
		p = append(p, when(nr, fail(unix.EPERM))...)
	}
	// Its flags lie in memory, where a filter cannot look: libc falls back to clone.
	p = append(p, when(unix.SYS_CLONE3, fail(unix.ENOSYS))...)
	p = append(p, when(unix.SYS_CLONE, flags(0, namespaces, unix.EPERM)...)...)
	p = append(p, when(unix.SYS_UNSHARE, flags(0, namespaces|unix.CLONE_NEWTIME, unix.EPERM)...)...)
	p = append(p, when(unix.SYS_IOCTL, oneOf(1, unix.EPERM, unix.TIOCSTI, unix.TIOCLINUX)...)...)
	p = append(p, when(unix.SYS_SOCKET, sockets()...)...)
	return append(p, allow)
}

var allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

func fail(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

// when runs the body for one call. The body must end in a return when it has
// loaded something else than the number.
func when(nr uint32, body ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: uint8(len(body))}}, body...)
}

// flags fails when the argument has one of the bits.
func flags(arg int, bits uint32, e unix.Errno) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArg(arg), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipFalse: 1},
		fail(e),
		allow,
	}
}

// oneOf fails when the argument is one of the values.
func oneOf(arg int, e unix.Errno, values ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(arg), Size: 4}}
	for _, v := range values {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1}, fail(e))
	}
	return append(p, allow)
}

// sockets allows local ones, TCP and UDP, and asking the kernel for routes
// and interfaces. AF_VSOCK above all would reach past every network
// namespace, to the machine that hosts this one.
func sockets() []bpf.Instruction {
	inet := append(typeIs(unix.SOCK_STREAM, unix.SOCK_DGRAM),
		oneOfOnly(2, unix.EPROTONOSUPPORT, 0, unix.IPPROTO_ICMP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMPV6)...)
	netlink := oneOfOnly(2, unix.EPROTONOSUPPORT, unix.NETLINK_ROUTE)
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(0), Size: 4}}
	p = append(p, when(unix.AF_UNIX, allow)...)
	p = append(p, when(unix.AF_INET, inet...)...)
	p = append(p, when(unix.AF_INET6, inet...)...)
	p = append(p, when(unix.AF_NETLINK, netlink...)...)
	return append(p, fail(unix.EAFNOSUPPORT))
}

// typeIs goes on when the socket's type, without its flags, is one of them.
func typeIs(types ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(1), Size: 4}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}}
	for i, t := range types {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: t, SkipTrue: uint8(len(types) - i)})
	}
	return append(p, fail(unix.EPERM))
}

// oneOfOnly fails unless the argument is one of the values.
func oneOfOnly(arg int, e unix.Errno, values ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(arg), Size: 4}}
	for _, v := range values {
		p = append(p, when(v, allow)...)
	}
	return append(p, fail(e))
}

// applySeccomp puts the filter on the calling thread.
func applySeccomp() error {
	if auditArch == 0 {
		return errors.ErrUnsupported
	}
	raw, err := bpf.Assemble(program())
	if err != nil {
		return fmt.Errorf("assembling the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if e == unix.ENOSYS || e == unix.EINVAL {
		return errors.ErrUnsupported
	}
	if e != 0 {
		return e
	}
	return nil
}
