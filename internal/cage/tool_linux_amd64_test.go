package cage_test

import "golang.org/x/sys/unix"

// olderModes are the calls of setModes that only this architecture has.
func olderModes(try func(string, uintptr, ...uintptr), name string, bits, tool uintptr, fresh func(string) uintptr) {
	try("chmod "+name, unix.SYS_CHMOD, tool, bits)
	try("open "+name, unix.SYS_OPEN, fresh("open"), unix.O_CREAT|unix.O_WRONLY, bits)
	try("creat "+name, unix.SYS_CREAT, fresh("creat"), bits)
	try("mknod "+name, unix.SYS_MKNOD, fresh("mknod"), unix.S_IFREG|bits, 0)
	try("mkdir "+name, unix.SYS_MKDIR, fresh("mkdir"), bits)
}
