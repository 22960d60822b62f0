package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// plainHere are the calls that only this architecture has: older spellings of
// the others, and the register of thread-local storage.
var plainHere = []uint32{
	unix.SYS_ARCH_PRCTL, unix.SYS_NEWFSTATAT, unix.SYS_VFORK, unix.SYS_OPEN, unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS, unix.SYS_READLINK, unix.SYS_GETDENTS,
	unix.SYS_PIPE, unix.SYS_DUP2, unix.SYS_POLL, unix.SYS_SELECT, unix.SYS_EPOLL_CREATE, unix.SYS_EPOLL_WAIT, unix.SYS_EVENTFD, unix.SYS_INOTIFY_INIT,
	unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_UNLINK, unix.SYS_RENAME, unix.SYS_LINK, unix.SYS_CHMOD, unix.SYS_TIME, unix.SYS_GETPGRP,
}
