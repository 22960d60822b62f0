package cage

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"airlock/internal/confine"
)

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

// setID are the bits of a file's mode that give the process that executes the file the
// rights of its owner or group.
const setID = unix.S_ISUID | unix.S_ISGID

// modes are the calls that set the mode of a file. None may set a setuid or
// setgid bit: in a bound workspace the file belongs to a user of the host, and
// any other user of the host could execute it with that user's rights. The
// kernel refuses file capabilities by itself, for the agent has none to give.
var modes = []confine.Call{
	{Nr: unix.SYS_FCHMOD, Body: confine.NoneOf(1, setID, unix.EPERM)},
	{Nr: unix.SYS_FCHMODAT, Body: confine.NoneOf(2, setID, unix.EPERM)},
	{Nr: unix.SYS_FCHMODAT2, Body: confine.NoneOf(2, setID, unix.EPERM)},
	{Nr: unix.SYS_MKDIRAT, Body: confine.NoneOf(2, setID, unix.EPERM)},
	{Nr: unix.SYS_MKNODAT, Body: confine.NoneOf(2, setID, unix.EPERM)},
	{Nr: unix.SYS_OPENAT, Body: creation(2, 3)},
	// Its mode lies in memory, where a filter cannot look: programs fall back to openat.
	{Nr: unix.SYS_OPENAT2, Body: []bpf.Instruction{confine.Fail(unix.ENOSYS)}},
}

// creation judges the mode of an open call that can make a file. Without such
// a flag the kernel ignores the mode, and programs may pass anything.
func creation(flags, mode int) []bpf.Instruction {
	return confine.IfAny(flags, unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY, confine.NoneOf(mode, setID, unix.EPERM)...)
}

// filter lets everything pass but that.
var filter = confine.Filter{
	Calls: slices.Concat(
		confine.Each(slices.Concat(refused, refusedHere), confine.Fail(unix.EPERM)),
		modes, modesHere,
		[]confine.Call{
			// Its flags lie in memory, where a filter cannot look: libc falls back to clone.
			{Nr: unix.SYS_CLONE3, Body: []bpf.Instruction{confine.Fail(unix.ENOSYS)}},
			{Nr: unix.SYS_CLONE, Body: confine.NoneOf(0, confine.Namespaces, unix.EPERM)},
			{Nr: unix.SYS_UNSHARE, Body: confine.NoneOf(0, confine.Namespaces|unix.CLONE_NEWTIME, unix.EPERM)},
			{Nr: unix.SYS_IOCTL, Body: confine.NotIn(1, unix.EPERM, unix.TIOCSTI, unix.TIOCLINUX)},
			{Nr: unix.SYS_SOCKET, Body: confine.Sockets(unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK)},
		}),
	Otherwise: confine.Allow,
}
