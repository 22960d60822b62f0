package cage_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tool is what the tests run inside the cage: the test binary itself.
func tool(args []string) int {
	switch args[0] {
	case "dial":
		conn, err := net.Dial("tcp", args[1])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		_, _ = io.Copy(os.Stdout, conn)
	case "call":
		if e := calls[args[1]](); e != 0 {
			fmt.Println(e)
		} else {
			fmt.Println("ok")
		}
	case "signals":
		return queueSignals(1, 64)
	case "signals-of-faults":
		for _, s := range []int{4, 5, 7, 8, 11, 16, 31} {
			if code := queueSignals(s, s); code != 0 {
				return code
			}
		}
	case "modes":
		return setModes()
	case "control":
		conn, err := net.Dial("unixpacket", args[1])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		fmt.Printf("%s\n", buf[:n])
	}
	return 0
}

func socket(domain, typ, proto int) func() syscall.Errno {
	return call(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(proto))
}

func call(nr uintptr, args ...uintptr) func() syscall.Errno {
	var a [6]uintptr
	copy(a[:], args)
	return func() syscall.Errno {
		_, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		return e
	}
}

var pad [256]byte

func ptr() uintptr { return uintptr(unsafe.Pointer(&pad)) }

var calls = map[string]func() syscall.Errno{
	"vsock":         socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"packet":        socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"raw":           socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP),
	"raw6":          socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
	"sctp":          socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
	"netlink-audit": socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
	"netlink-route": socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE),
	"tcp":           socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP),
	"udp6":          socket(unix.AF_INET6, unix.SOCK_DGRAM, 0),
	"unix":          socket(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0),
	"clone-user":    call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
	"clone3":        call(unix.SYS_CLONE3, 0, 0),
	"unshare-net":   call(unix.SYS_UNSHARE, unix.CLONE_NEWNET),
	"unshare-files": call(unix.SYS_UNSHARE, unix.CLONE_FILES),
	"setns":         call(unix.SYS_SETNS, 0, 0),
	"io_uring":      call(unix.SYS_IO_URING_SETUP, 1, ptr()),
	"bpf":           call(unix.SYS_BPF, 0, ptr(), 64),
	"keyctl":        call(unix.SYS_KEYCTL, 0, 0),
	"tiocsti":       call(unix.SYS_IOCTL, 0, unix.TIOCSTI, ptr()),
	"tioclinux":     call(unix.SYS_IOCTL, 0, unix.TIOCLINUX, ptr()),
	"tiocgwinsz":    call(unix.SYS_IOCTL, 0, unix.TIOCGWINSZ, ptr()),
	"open-handle":   call(unix.SYS_OPEN_BY_HANDLE_AT, 0, ptr(), 0),
	"future":        call(1000),
	"x32":           call(0x40000000 + unix.SYS_GETPID),
	"ptrace-init":   call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 1, 0, 0),
}

// at is a path as a system call takes it.
func at(path string) uintptr {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		panic(err)
	}
	kept = append(kept, p)
	return uintptr(unsafe.Pointer(p))
}

var kept []*byte // paths whose addresses were taken

// setModes tries every call that sets a mode, in /workspace, and prints what
// came of each.
func setModes() int {
	const dir = "/workspace/"
	f, err := os.Create(dir + "tool")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fd, cwd := f.Fd(), ^uintptr(99) // AT_FDCWD
	try := func(what string, nr uintptr, args ...uintptr) {
		fmt.Println(what, call(nr, args...)())
	}
	for name, bits := range map[string]uintptr{"setuid": 0o4755, "setgid": 0o2755, "both": 0o6000} {
		tool, fresh := at(dir+"tool"), func(by string) uintptr { return at(dir + by + "-" + name) }
		olderModes(try, name, bits, tool, fresh)
		try("fchmod "+name, unix.SYS_FCHMOD, fd, bits)
		try("fchmodat "+name, unix.SYS_FCHMODAT, cwd, tool, bits)
		try("fchmodat2 "+name, unix.SYS_FCHMODAT2, cwd, tool, bits, 0)
		try("openat "+name, unix.SYS_OPENAT, cwd, fresh("openat"), unix.O_CREAT|unix.O_WRONLY, bits)
		try("tmpfile "+name, unix.SYS_OPENAT, cwd, at("/workspace"), unix.O_TMPFILE|unix.O_WRONLY, bits)
		how := unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: uint64(bits)}
		try("openat2 "+name, unix.SYS_OPENAT2, cwd, fresh("openat2"), uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow)
		try("mknodat "+name, unix.SYS_MKNODAT, cwd, fresh("mknodat"), unix.S_IFREG|bits, 0)
		try("mkdirat "+name, unix.SYS_MKDIRAT, cwd, fresh("mkdirat"), bits)
	}
	// VFS_CAP_REVISION_3 with cap_setuid, effective, for a root of its own namespace.
	caps := []byte{1, 0, 0, 3, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0}
	for _, n := range []int{20, 24} {
		caps[3] = map[int]byte{20: 2, 24: 3}[n]
		fmt.Println("setxattr capability", unix.Setxattr(dir+"tool", "security.capability", caps[:n], 0))
	}
	return 0
}

// queueSignals sends PID 1 the signals as sigqueue does: the receiver cannot
// see that a process sent them.
func queueSignals(first, last int) int {
	for s := first; s <= last; s++ {
		info := [32]int32{int32(s), 0, -1} // SI_QUEUE
		if _, _, e := syscall.RawSyscall(unix.SYS_RT_SIGQUEUEINFO, 1, uintptr(s), uintptr(unsafe.Pointer(&info))); e != 0 {
			fmt.Println(s, e)
			return 1
		}
	}
	fmt.Println("sent")
	return 0
}
