package supervisor

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// exit is the end of a child of ours.
type exit struct {
	pid    int
	status syscall.WaitStatus
}

// reaper is the one place that forks and the one that waits. Forking and
// waiting take turns on one thread, so no status can come before its pid is
// known; that thread never ends, so the death signal of the children is tied
// to the whole process. Children that nobody here started (orphans that fell
// to PID 1) are buried without a word.
type reaper struct {
	forks   chan forkRequest
	exits   chan exit
	known   map[int]bool
	changed chan os.Signal
}

type forkRequest struct {
	argv   []string
	attr   *syscall.ProcAttr
	answer chan<- forkAnswer
}

type forkAnswer struct {
	pid int
	err error
}

func newReaper() *reaper {
	return &reaper{
		forks:   make(chan forkRequest),
		exits:   make(chan exit, 64),
		known:   map[int]bool{},
		changed: make(chan os.Signal, 1),
	}
}

// run never returns: it is started once, by Run, and ends with the process.
func (r *reaper) run() {
	runtime.LockOSThread()
	signal.Notify(r.changed, syscall.SIGCHLD)
	for {
		select {
		case f := <-r.forks:
			pid, err := syscall.ForkExec("/proc/self/exe", f.argv, f.attr)
			if err == nil {
				r.known[pid] = true
			}
			f.answer <- forkAnswer{pid, err}
		case <-r.changed:
			r.reap()
		}
	}
}

func (r *reaper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid == 0:
			return
		case r.known[pid]:
			delete(r.known, pid)
			r.exits <- exit{pid, status}
		}
	}
}

// fork starts this very binary under another name.
func (r *reaper) fork(argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	answer := make(chan forkAnswer)
	r.forks <- forkRequest{argv, attr, answer}
	a := <-answer
	if a.err != nil {
		return 0, fmt.Errorf("starting %s: %w", argv[0], a.err)
	}
	return a.pid, nil
}

// code is the exit code that a status stands for: 128+n after signal n.
func code(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
