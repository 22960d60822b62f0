package cage

import (
	"golang.org/x/sys/unix"

	"airlock/internal/confine"
)

// refusedHere are the calls that only this architecture has.
var refusedHere = []uint32{
	unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_USTAT, unix.SYS_SYSFS, unix.SYS_USELIB,
	unix.SYS__SYSCTL, unix.SYS_CREATE_MODULE, unix.SYS_GET_KERNEL_SYMS, unix.SYS_QUERY_MODULE,
}

// modesHere are the older forms of modes, which only this architecture has.
var modesHere = []confine.Call{
	{Nr: unix.SYS_CHMOD, Body: confine.NoneOf(1, setID, unix.EPERM)},
	{Nr: unix.SYS_CREAT, Body: confine.NoneOf(1, setID, unix.EPERM)},
	{Nr: unix.SYS_MKDIR, Body: confine.NoneOf(1, setID, unix.EPERM)},
	{Nr: unix.SYS_MKNOD, Body: confine.NoneOf(1, setID, unix.EPERM)},
	{Nr: unix.SYS_OPEN, Body: creation(1, 2)},
}
