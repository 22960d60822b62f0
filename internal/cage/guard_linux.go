package cage

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard puts a container's process under this package's filter, beside what
// the engine does: engines before 23 let a container open AF_VSOCK, which no
// network closes. As PID 1 it stays as an init, so that no process of the
// container is without the filter; else it becomes the command.
//
// The file that it is executed from should not be readable for the agent:
// then the kernel lets nobody of the container trace it before the filter is
// on.
func guard(args []string) error {
	runtime.LockOSThread()
	if err := noCore(); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := applySeccomp(); err != nil {
		return fmt.Errorf("applying seccomp: %w", err)
	}
	if os.Getpid() == 1 {
		err := unix.Exec("/proc/self/exe", append([]string{"sidecars", "cage", "-guard-init"}, args...), os.Environ())
		return fmt.Errorf("starting the init: %w", err)
	}
	path, err := findCommand(args)
	if err == nil {
		err = unix.Exec(path, args, os.Environ())
	}
	return cannotStart(args, err)
}

func findCommand(args []string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return lookPath(request{Argv: args, Env: os.Environ(), Dir: dir})
}

func cannotStart(args []string, err error) error {
	return &startError{fmt.Sprintf("starting %s: %v", args[0], err), startCode(err)}
}

// guardInit is PID 1 of a container: it starts the command, passes signals on
// to it, buries orphans, and ends with the command's exit code.
func guardInit(args []string) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the init undumpable: %w", err)
	}
	path, err := findCommand(args)
	if err != nil {
		return cannotStart(args, err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	r := newReaper()
	go r.run() // as long as the process
	pid, status, err := r.start(path, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return cannotStart(args, err)
	}
	for {
		select {
		case s := <-signals:
			forward(pid, s.(syscall.Signal))
		case s := <-status:
			os.Exit(exitCode(s)) // an init ends as its command did: there is nothing to say
		}
	}
}

// forward leaves alone what a terminal sends: its whole foreground group, to
// which the command belongs, gets that anyhow.
func forward(pid int, s syscall.Signal) {
	if _, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == nil && s != syscall.SIGTERM && s != syscall.SIGUSR1 && s != syscall.SIGUSR2 {
		return
	}
	_ = syscall.Kill(pid, s) // gone already: its status is on the way
}
