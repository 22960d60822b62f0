package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// plainHere are the calls that have another name on this architecture.
var plainHere = []uint32{unix.SYS_FSTATAT}
