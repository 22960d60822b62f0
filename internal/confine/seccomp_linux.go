package confine

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

// newest is the last call that the lists of this package and of its callers
// were checked against. A younger one does not exist for who is confined,
// whatever it may do.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// Namespaces are the clone flags that make one.
const Namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// Filter is a seccomp program. It judges one call after the other; whatever
// it is asked about that no line speaks of gets Otherwise.
type Filter struct {
	Calls     []Call
	Otherwise bpf.Instruction // Allow, or Fail
}

// Call is what becomes of one system call, by number. The body must end in
// a return when it has loaded something else than the number.
type Call struct {
	Nr   uint32
	Body []bpf.Instruction
}

// Each gives every one of the calls the same body.
func Each(nrs []uint32, body ...bpf.Instruction) []Call {
	calls := make([]Call, len(nrs))
	for i, nr := range nrs {
		calls[i] = Call{nr, body}
	}
	return calls
}

// Allow lets a call pass.
var Allow bpf.Instruction = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}

// Fail refuses a call. The errors to choose are those that programs know how
// to fall back from.
func Fail(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

// program is the filter as instructions.
func (f Filter) program() []bpf.Instruction {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
		bpf.LoadAbsolute{Off: offNr, Size: 4},
		// This takes x32's numbers along, which begin at 1<<30.
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: newest, SkipTrue: 1},
		Fail(unix.ENOSYS),
	}
	for _, c := range f.Calls {
		p = append(p, when(c.Nr, c.Body...)...)
	}
	return append(p, f.Otherwise)
}

// when runs the body for one value of what is loaded.
func when(val uint32, body ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: val, SkipTrue: uint8(len(body))}}, body...)
}

// NoneOf fails when the argument has one of the bits.
func NoneOf(arg int, bits uint32, e unix.Errno) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArg(arg), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipFalse: 1},
		Fail(e),
		Allow,
	}
}

// IfAny goes on with the body when the argument has one of the bits, and lets
// the call pass when it has none of them.
func IfAny(arg int, bits uint32, body ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArg(arg), Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipTrue: 1},
		Allow,
	}, body...)
}

// NotIn fails when the argument is one of the values.
func NotIn(arg int, e unix.Errno, values ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(arg), Size: 4}}
	for _, v := range values {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: v, SkipTrue: 1}, Fail(e))
	}
	return append(p, Allow)
}

// In fails unless the argument is one of the values.
func In(arg int, e unix.Errno, values ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(arg), Size: 4}}
	for _, v := range values {
		p = append(p, when(v, Allow)...)
	}
	return append(p, Fail(e))
}

// Sockets allows stream and datagram sockets of the internet where asked, any
// local one where asked, and asking the kernel for routes and interfaces.
// AF_VSOCK above all would reach past every network namespace, to the machine
// that hosts this one.
func Sockets(families ...int) []bpf.Instruction {
	inet := append(typeIs(unix.SOCK_STREAM, unix.SOCK_DGRAM),
		In(2, unix.EPROTONOSUPPORT, 0, unix.IPPROTO_ICMP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMPV6)...)
	bodies := map[int][]bpf.Instruction{
		unix.AF_UNIX: {Allow}, unix.AF_INET: inet, unix.AF_INET6: inet,
		unix.AF_NETLINK: In(2, unix.EPROTONOSUPPORT, unix.NETLINK_ROUTE),
	}
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(0), Size: 4}}
	for _, f := range slices.Sorted(slices.Values(families)) {
		if body, ok := bodies[f]; ok {
			p = append(p, when(uint32(f), body...)...)
		}
	}
	return append(p, Fail(unix.EAFNOSUPPORT))
}

// typeIs goes on when the socket's type, without its flags, is one of them.
func typeIs(types ...uint32) []bpf.Instruction {
	p := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg(1), Size: 4}, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf}}
	for i, t := range types {
		p = append(p, bpf.JumpIf{Cond: bpf.JumpEqual, Val: t, SkipTrue: uint8(len(types) - i)})
	}
	return append(p, Fail(unix.EPERM))
}

// Apply puts the filter on the calling thread, which has no_new_privs. The
// error is errors.ErrUnsupported where the kernel has no seccomp.
func (f Filter) Apply() error {
	if auditArch == 0 {
		return errors.ErrUnsupported
	}
	raw, err := bpf.Assemble(f.program())
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
