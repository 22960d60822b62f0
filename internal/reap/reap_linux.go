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

// Command is what Start starts.
type Command struct {
	Path string
	Argv []string
	Attr *syscall.ProcAttr // its Sys is never nil; PidFD in it is Start's own

	// Group says that the process leads a group of its own (Setpgid or Setsid
	// in Attr) and that whatever is left in it when the leader ends is killed.
	Group bool

	// Prepare runs on the thread that forks, before it does: what it takes from
	// that thread (capabilities, files, system calls) the child does not have
	// either. The thread does nothing else, before or after. May be nil.
	Prepare func() error

	// Exited is called once, from the reaper, with the status. It must not
	// block. May be nil.
	Exited func(syscall.WaitStatus)
}

// Process is a child that Start has started.
type Process struct {
	PID int

	reaper *Reaper
	group  bool
	pidfd  int // -1 where the kernel gives none
	exited func(syscall.WaitStatus)
	status chan syscall.WaitStatus // has one element when the process has ended
	buried chan struct{}           // closed then
}

// Reaper owns every child of this process, those that it started and those
// that fell to it. There must be one at most, and nobody else may wait.
type Reaper struct {
	mu      sync.Mutex // held while forking, and while a status is taken and its owner looked up
	known   map[int]*Process
	changed chan os.Signal
}

// New makes a reaper; Run must be running before the first Start.
func New() *Reaper {
	r := &Reaper{known: map[int]*Process{}, changed: make(chan os.Signal, 1)}
	signal.Notify(r.changed, syscall.SIGCHLD)
	return r
}

// Run buries children. It does not return: it ends with the process.
func (r *Reaper) Run() {
	for range r.changed {
		// A signal that comes during the work stays in the channel: no child is
		// missed.
		for r.bury() {
		}
	}
}

// bury takes one dead child and tells whether there may be more.
func (r *Reaper) bury() bool {
	r.mu.Lock()
	pid, err := peek()
	if err != nil || pid == 0 {
		r.mu.Unlock()
		return errors.Is(err, unix.EINTR)
	}
	p := r.known[pid]
	if p != nil && p.group {
		// The dead leader still holds the number of its group: this cannot meet
		// strangers.
		_ = syscall.Kill(-pid, syscall.SIGKILL) // nobody may be left
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	delete(r.known, pid)
	if p != nil && p.pidfd >= 0 {
		_ = unix.Close(p.pidfd) // nothing was written to it
	}
	r.mu.Unlock()
	if p != nil && err == nil {
		p.bury(status)
	}
	return err == nil
}

// siginfo is the beginning of siginfo_t for SIGCHLD on 64-bit machines.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// peek is the pid of some child that has ended, which stays unburied; 0 when
// there is none. A child that nobody started (an orphan) counts, too.
func peek() (int, error) {
	var info siginfo
	_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(info.pid), nil
}

func (p *Process) bury(status syscall.WaitStatus) {
	p.status <- status
	close(p.buried)
	if p.exited != nil {
		p.exited(status)
	}
}

// Start forks and executes. No status can come before its pid is known.
func (r *Reaper) Start(c Command) (*Process, error) {
	p := &Process{reaper: r, group: c.Group, pidfd: -1, exited: c.Exited, status: make(chan syscall.WaitStatus, 1), buried: make(chan struct{})}
	if c.Prepare == nil && c.Attr.Sys.Pdeathsig == 0 {
		return p, r.fork(p, c)
	}
	started := make(chan error, 1)
	go p.ward(c, started) // ends with the child
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// ward forks on a thread that belongs to this child alone, and keeps it for
// as long as the child lives: the parent-death signal follows the thread, not
// the process. The thread is not given back; it ends with the goroutine.
func (p *Process) ward(c Command, started chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// Never the main thread: /proc shows what it has lost as the loss of the
		// whole process, and it cannot end. While it is locked here, the next
		// goroutine gets another one.
		next := make(chan error)
		go p.ward(c, next)
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
		<-p.buried
	}
}

func (r *Reaper) fork(p *Process, c Command) error {
	c.Attr.Sys.PidFD = &p.pidfd
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(c.Path, c.Argv, c.Attr)
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.Argv[0], err)
	}
	p.PID = pid
	r.known[pid] = p
	return nil
}

// Wait is the status, once the process has ended. It is called once.
func (p *Process) Wait() syscall.WaitStatus { return <-p.status }

// Signal sends a signal to the process; to nobody when it has been buried.
func (p *Process) Signal(sig syscall.Signal) {
	p.alive(func() {
		if p.pidfd >= 0 {
			err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
			if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
				return // sent, or it has ended in this moment
			}
		}
		_ = syscall.Kill(p.PID, sig) // not buried, so the number is its own
	})
}

// SignalGroup sends a signal to the process and to all others of its group,
// which it must lead.
func (p *Process) SignalGroup(sig syscall.Signal) {
	p.alive(func() { _ = syscall.Kill(-p.PID, sig) })
}

// alive runs f unless the process has been buried: its number may be
// another's by then.
func (p *Process) alive(f func()) {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if p.reaper.known[p.PID] == p {
		f()
	}
}

// StopAll sends SIGTERM to every process that we may signal, as the PID 1 of a
// namespace may, and waits until no child is left or the time is over.
func (r *Reaper) StopAll(within time.Duration) {
	_ = syscall.Kill(-1, syscall.SIGTERM) // nobody there: so much the better
	r.WaitAll(within)
}

// WaitAll waits until no child is left, started or adopted, and tells whether
// that came true in time.
func (r *Reaper) WaitAll(within time.Duration) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !Alone(); <-tick.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Alone tells whether this process has no child, dead or alive. Orphans that
// fell to it count.
func Alone() bool {
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD)
}

// Code is the exit code that a status stands for: 128+n after signal n.
func Code(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
