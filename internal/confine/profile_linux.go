package confine

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Layers that Apply puts on, by the names under which they are reported.
const (
	LayerPrivileges = "no_new_privs" // and no capability
	LayerLandlock   = "landlock"
	LayerSeccomp    = "seccomp"
)

// Layers lists them in the order in which they are put on.
func Layers() []string { return []string{LayerPrivileges, LayerLandlock, LayerSeccomp} }

// Profile is what is left to a network daemon that is a static Go program.
// The zero value reads no file, creates no socket and connects nowhere.
type Profile struct {
	Read   []string // files, and folders with all that is below them
	Change []string // files to read and write, and folders in which files and folders may be made and removed
	Write  []string // devices like /dev/null

	Unix    bool // may make local sockets, and connect them
	Inet    bool // may make TCP and UDP sockets, and connect them
	Moves   bool // moves files between the folders that it may change
	Dynamic bool // the binary is linked with libraries: they are mapped for execution
}

// Apply restricts the calling OS thread, which then executes this very binary
// (/proc/self/exe). missing are the layers that this kernel lacks, or that
// something around us refuses; an error leaves the thread half restricted, and
// nothing may be started from it.
func (p Profile) Apply() (missing []string, err error) {
	if err := DropCapabilities(); err != nil {
		return nil, err
	}
	for _, layer := range []struct {
		name  string
		apply func() error
	}{{LayerLandlock, p.domain().Apply}, {LayerSeccomp, p.filter().Apply}} {
		switch err := layer.apply(); {
		case errors.Is(err, errors.ErrUnsupported):
			missing = append(missing, layer.name)
		case err != nil:
			return nil, fmt.Errorf("applying %s: %w", layer.name, err)
		}
	}
	return missing, nil
}

func (p Profile) domain() Domain {
	run := []string{"/proc/self/exe"}
	if p.Dynamic {
		run = append(run, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
	}
	return Domain{
		NoTCP: !p.Inet,
		Moves: p.Moves,
		Rules: []Rule{{Run, run}, {Read, p.Read}, {Change, p.Change}, {unix.LANDLOCK_ACCESS_FS_WRITE_FILE, p.Write}},
	}
}

// fastOpen makes a connection in passing. connect is judged by itself.
const fastOpen = unix.MSG_FASTOPEN

// filter allows what is listed and fails everything else.
func (p Profile) filter() Filter {
	calls := Each(slices.Concat(plain, plainHere, plainInRace), Allow)
	families := []int{}
	if p.Unix {
		families = append(families, unix.AF_UNIX)
	}
	if p.Inet {
		families = append(families, unix.AF_INET, unix.AF_INET6)
		// The Go network stack binds sockets to find out what the machine has.
		calls = append(calls, Call{unix.SYS_BIND, []bpf.Instruction{Allow}})
	}
	if p.Inet && p.Dynamic {
		families = append(families, unix.AF_NETLINK) // the C library's resolver asks for our addresses
	}
	if p.Unix || p.Inet {
		calls = append(calls, Call{unix.SYS_CONNECT, []bpf.Instruction{Allow}})
	}
	calls = append(calls,
		Call{unix.SYS_SOCKET, Sockets(families...)},
		Call{unix.SYS_SENDTO, NoneOf(3, fastOpen, unix.EPERM)},
		Call{unix.SYS_SENDMSG, NoneOf(2, fastOpen, unix.EPERM)},
		// The flags of clone3 lie in memory, where a filter cannot look.
		Call{unix.SYS_CLONE3, []bpf.Instruction{Fail(unix.ENOSYS)}},
		Call{unix.SYS_CLONE, NoneOf(0, Namespaces, unix.EPERM)},
		Call{unix.SYS_PRLIMIT64, In(0, unix.EPERM, 0)}, // its own limits, not those of others
		Call{unix.SYS_IOCTL, In(1, unix.ENOTTY, unix.TCGETS, unix.TIOCGWINSZ, unix.TIOCINQ)},
		Call{unix.SYS_PRCTL, In(0, unix.EPERM, unix.PR_SET_PDEATHSIG, unix.PR_SET_DUMPABLE, unix.PR_GET_DUMPABLE, unix.PR_SET_NAME,
			unix.PR_SET_VMA, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_CAPBSET_READ)},
	)
	if p.Dynamic {
		calls = append(calls, Each([]uint32{unix.SYS_MMAP, unix.SYS_MPROTECT}, Allow)...)
	} else {
		// No code but the binary's own.
		calls = append(calls, Each([]uint32{unix.SYS_MMAP, unix.SYS_MPROTECT}, NoneOf(2, unix.PROT_EXEC, unix.EPERM)...)...)
	}
	return Filter{Calls: calls, Otherwise: Fail(unix.EPERM)}
}

// plain are the calls that pass whatever their arguments are: those that the
// Go runtime, its standard library and the libraries of the daemons make, and
// what the C library (of binaries built with the race detector) makes instead.
// It is the union of what was seen with strace and of their rarer paths. Not
// among them: listen (sockets are inherited), kill and its kin but tgkill,
// whose targets Landlock bounds, ptrace, everything that needs a capability.
var plain = []uint32{
	// files
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV,
	unix.SYS_CLOSE, unix.SYS_CLOSE_RANGE, unix.SYS_LSEEK, unix.SYS_OPENAT, unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
	unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD, unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2,
	unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE, unix.SYS_FADVISE64, unix.SYS_FSTATFS, unix.SYS_STATFS,
	unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT, unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_UTIMENSAT, unix.SYS_UMASK,
	unix.SYS_SENDFILE, unix.SYS_SPLICE, unix.SYS_TEE, unix.SYS_COPY_FILE_RANGE,
	unix.SYS_INOTIFY_INIT1, unix.SYS_INOTIFY_ADD_WATCH, unix.SYS_INOTIFY_RM_WATCH,
	// memory
	unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK, unix.SYS_MLOCK, unix.SYS_MLOCK2, unix.SYS_MUNLOCK, unix.SYS_MSYNC, unix.SYS_MEMBARRIER,
	// threads, time, signals to oneself
	unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_SET_TID_ADDRESS, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETCPU,
	unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_NANOSLEEP, unix.SYS_GETTIMEOFDAY,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SIGALTSTACK, unix.SYS_TGKILL, unix.SYS_RESTART_SYSCALL,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	// waiting
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2, unix.SYS_EVENTFD2, unix.SYS_PPOLL, unix.SYS_PSELECT6,
	// who and where we are
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETPGID, unix.SYS_GETSID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_GETRESUID, unix.SYS_GETRESGID, unix.SYS_GETGROUPS, unix.SYS_UNAME, unix.SYS_SYSINFO, unix.SYS_GETRUSAGE, unix.SYS_TIMES, unix.SYS_GETRLIMIT,
	unix.SYS_GETRANDOM,
	// sockets that are there
	unix.SYS_ACCEPT, unix.SYS_ACCEPT4, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN,
	unix.SYS_RECVFROM, unix.SYS_RECVMSG,
	// the fork and the exec through which the restricted thread starts us
	unix.SYS_EXECVE, unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_SETPGID,
}
