package reap

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Command describes a child to start.
type Command struct {
	Path string
	Argv []string
	Attr *syscall.ProcAttr // Sys must not be nil; Start sets its PidFD

	// Group reports whether the process leads a process group (Setpgid or Setsid in Attr) whose
	// remaining members are killed when the leader ends.
	Group bool

	// Prepare runs on the thread that forks, before the fork. The child inherits the restrictions
	// (capabilities, files, system calls) that it puts on that thread. The thread is used for
	// nothing else. Prepare may be nil.
	Prepare func() error

	// Exited is called once with the status, on the goroutine of Run. It must not block. It may
	// be nil.
	Exited func(syscall.WaitStatus)
}

// Process is a child that Start has started.
type Process struct {
	PID int

	reaper *Reaper
	group  bool
	pidfd  int // -1 where the kernel gives none
	exited func(syscall.WaitStatus)
	status chan syscall.WaitStatus // gets the status when the process has been reaped
	reaped chan struct{}           // closed then
}

// Reaper owns every child of this process, started or adopted. No other code of the process may wait
// for children.
type Reaper struct {
	mu       sync.Mutex // held while forking, and from taking a status until its child is looked up
	children map[int]*Process
	sigchld  chan os.Signal
}

// New returns a reaper. Run must be running before the first Start.
func New() *Reaper {
	r := &Reaper{children: map[int]*Process{}, sigchld: make(chan os.Signal, 1)}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// Run reaps children. It does not return.
func (r *Reaper) Run() {
	for range r.sigchld {
		// A signal that comes during this loop stays in the channel, so no child is missed.
		for r.reapOne() {
		}
	}
}

// reapOne reaps one child that has ended, and reports whether there may be more.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	pid, err := peek()
	if err != nil || pid == 0 {
		r.mu.Unlock()
		return errors.Is(err, unix.EINTR)
	}
	p := r.children[pid]
	if p != nil && p.group {
		// The unreaped leader still occupies the number of its group, so no other group can be hit.
		_ = syscall.Kill(-pid, syscall.SIGKILL) // fails when the group is empty
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	delete(r.children, pid)
	if p != nil && p.pidfd >= 0 {
		_ = unix.Close(p.pidfd) // nothing was written to it
	}
	r.mu.Unlock()
	if p != nil && err == nil {
		p.deliver(status)
	}
	return err == nil
}

// siginfo is the beginning of siginfo_t for SIGCHLD on 64-bit machines.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// peek returns the pid of a child that has ended, without reaping it, or 0 if there is none. Adopted
// orphans count.
func peek() (int, error) {
	var info siginfo
	_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(info.pid), nil
}

// deliver hands the status to Wait and to Exited.
func (p *Process) deliver(status syscall.WaitStatus) {
	p.status <- status
	close(p.reaped)
	if p.exited != nil {
		p.exited(status)
	}
}

// Start forks and executes a command. The status cannot arrive before the pid is registered.
func (r *Reaper) Start(c Command) (*Process, error) {
	p := &Process{
		reaper: r, group: c.Group, pidfd: -1, exited: c.Exited,
		status: make(chan syscall.WaitStatus, 1), reaped: make(chan struct{}),
	}
	if c.Prepare == nil && c.Attr.Sys.Pdeathsig == 0 {
		return p, r.fork(p, c)
	}
	started := make(chan error, 1)
	go p.forkThread(c, started) // ends with the child
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// forkThread forks on a thread that is used for this child alone. With a parent-death signal it
// keeps the thread until the child is reaped, because the signal is sent when the forking thread
// ends, not when the process does. The thread stays locked, so it ends with the goroutine.
func (p *Process) forkThread(c Command, started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread is unsuitable: it cannot end, and /proc/PID shows its restrictions as
		// those of the whole process. While it is locked here, the next goroutine gets another.
		next := make(chan error)
		go p.forkThread(c, next)
		err := <-next
		runtime.UnlockOSThread()
		started <- err
		return
	}
	var err error
	if c.Prepare != nil {
		err = c.Prepare()
	}
	if err == nil {
		err = p.reaper.fork(p, c)
	}
	started <- err
	if err == nil && c.Attr.Sys.Pdeathsig != 0 {
		<-p.reaped
	}
}

// fork starts the command and registers its pid, both under the lock.
func (r *Reaper) fork(p *Process, c Command) error {
	c.Attr.Sys.PidFD = &p.pidfd
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(c.Path, c.Argv, c.Attr)
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.Argv[0], err)
	}
	p.PID = pid
	r.children[pid] = p
	return nil
}

// Wait returns the status once the process has been reaped. It must be called at most once.
func (p *Process) Wait() syscall.WaitStatus { return <-p.status }

// Signal sends a signal to the process. It does nothing once the process has been reaped.
func (p *Process) Signal(sig syscall.Signal) {
	p.ifUnreaped(func() {
		if p.pidfd >= 0 {
			err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
			if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
				return // sent, or the process has just ended
			}
		}
		_ = syscall.Kill(p.PID, sig) // not reaped, so the pid is not reused
	})
}

// SignalGroup sends a signal to the process group that the process leads. It does nothing once the
// process has been reaped.
func (p *Process) SignalGroup(sig syscall.Signal) {
	p.ifUnreaped(func() { _ = syscall.Kill(-p.PID, sig) })
}

// ifUnreaped runs f unless the process has been reaped: its pid may have been reused since. The lock
// keeps it from being reaped while f runs.
func (p *Process) ifUnreaped(f func()) {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if p.reaper.children[p.PID] == p {
		f()
	}
}

// StopAll sends SIGTERM to every process that this one may signal (for the PID 1 of a namespace: all
// others in it), and waits until no child is left or the time is over.
func (r *Reaper) StopAll(within time.Duration) {
	_ = syscall.Kill(-1, syscall.SIGTERM) // fails when there is no other process
	r.WaitAll(within)
}

// WaitAll waits until no child is left, started or adopted, and reports whether that happened in
// time.
func (r *Reaper) WaitAll(within time.Duration) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !NoChildren(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// NoChildren reports whether this process has no child, running or unreaped. Adopted orphans count.
func NoChildren() bool {
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD)
}

// ExitCode returns the exit code for a status, as a shell does: 128+n after signal n.
func ExitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
