package cage

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper owns every child of PID 1, its own and adopted ones. Processes are
// started under its lock, so that no status can come before somebody waits
// for it; os/exec beside a wait for any child would lose statuses.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
	wake    chan os.Signal
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan syscall.WaitStatus{}, wake: make(chan os.Signal, 1)}
	signal.Notify(r.wake, syscall.SIGCHLD)
	return r
}

// start forks and returns where the status will come, once.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	status := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = status
	return pid, status, nil
}

// run buries children for ever.
func (r *reaper) run() {
	for range r.wake {
		for r.bury() {
		}
	}
}

// bury takes one dead child and tells whether there may be more. A signal
// that comes while it works stays in the channel, so none is missed.
func (r *reaper) bury() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if waiting, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		waiting <- status
	}
	return true
}

// signal reaches the process group that pid leads, unless pid was buried: its
// number may be another's by now.
func (r *reaper) signal(pid int, sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; ok {
		_ = syscall.Kill(-pid, sig) // gone already: nothing to do
	}
}

// stopAllGrace is how long processes may take to end after SIGTERM.
const stopAllGrace = 2 * time.Second

// stopAll asks every process of the namespace to end and waits until all have,
// or the time is over.
func (r *reaper) stopAll(within time.Duration) {
	_ = syscall.Kill(-1, syscall.SIGTERM) // nobody there: so much the better
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); <-tick.C {
		if alone() {
			return
		}
	}
}

// alone tells whether PID 1 has no child, dead or alive. Orphans are its
// children, too.
func alone() bool {
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD)
}

// exitCode is the status as a shell says it.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
