package pid1

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/config"
	"airlock/internal/reap"
)

// lastGrace is how long we wait for what the command left behind, after
// SIGTERM. When PID 1 ends, the kernel kills the rest.
const lastGrace = time.Second

// forwarded are the signals that reach the command. SIGURG and SIGPROF are the
// runtime's own, SIGCHLD is ours, faults (SIGSEGV and its like) are about this
// process, and SIGPIPE comes from our own writing. As PID 1 this process takes
// no signal of faults: see IgnoreFaults.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM,
	syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGWINCH, syscall.SIGIO, syscall.SIGPWR, syscall.SIGSYS,
	syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGSTKFLT, syscall.SIGTRAP, syscall.SIGABRT,
}

// Exit is how a command ended. It has nothing to say: the command has.
type Exit int

func (e Exit) Error() string { return "" }

// ExitCode is the command's own code, or 128+n after signal n.
func (e Exit) ExitCode() int { return int(e) }

// startError says why there is no command to watch.
type startError struct {
	command string
	err     error
}

func (e *startError) Error() string { return fmt.Sprintf("starting %s: %v", e.command, e.err) }
func (e *startError) Unwrap() error { return e.err }

// ExitCode is what a shell exits with when it cannot start a command: 127
// when there is none, else 126.
func (e *startError) ExitCode() int {
	if errors.Is(e.err, os.ErrNotExist) || errors.Is(e.err, exec.ErrNotFound) {
		return 127
	}
	return 126
}

// Main is the applet init.
func Main(_ context.Context, args []string, _, stderr io.Writer) error {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	flags.SetOutput(stderr)
	single := flags.Bool("single", false, "pass signals to the command alone, not to its process group, and leave it in our session")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return config.Usagef("init: %v", err)
	}
	if flags.NArg() == 0 {
		return config.Usagef("init: a command was wanted: init [-single] -- COMMAND [ARGUMENT...]")
	}
	return Run(flags.Args(), *single)
}

// initProcess watches one command.
type initProcess struct {
	single  bool
	command *reap.Process
	skip    map[os.Signal]bool // signals of which the next one is not meant
}

// Run starts the command and returns an Exit when it has ended, or why it
// could not be started. The command leads a session of its own, and gets the
// terminal if we have one, unless single. It must be alone in its process: it
// waits for every child there is.
func Run(argv []string, single bool) error {
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("becoming the reaper of orphans: %w", err)
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		var of *exec.Error
		if errors.As(err, &of) {
			err = of.Err // the name stands before it
		}
		return &startError{argv[0], err}
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded...)
	if os.Getpid() == 1 {
		if err := IgnoreFaults(); err != nil {
			return err
		}
	}
	r := reap.New()
	go r.Run() // for as long as the process lives
	i := &initProcess{single: single, skip: map[os.Signal]bool{}}
	ended := make(chan syscall.WaitStatus, 1)
	i.command, err = r.Start(reap.Command{
		Path: path, Argv: argv, Exited: func(s syscall.WaitStatus) { ended <- s },
		Attr: &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: i.session()},
	})
	if err != nil {
		return &startError{argv[0], errors.Unwrap(err)}
	}
	_ = os.Chdir("/") // so as to keep no file system busy; it is a comfort
	for {
		select {
		case sig := <-signals:
			i.forward(sig.(syscall.Signal))
		case status := <-ended:
			i.leave(r)
			return Exit(reap.ExitCode(status))
		}
	}
}

// session decides where the command runs. A session leader that gives up its
// terminal is told so by SIGHUP and SIGCONT, which are not for the command.
func (i *initProcess) session() *syscall.SysProcAttr {
	if i.single {
		return &syscall.SysProcAttr{}
	}
	tty := unix.IoctlSetInt(0, unix.TIOCNOTTY, 0) == nil
	if sid, err := unix.Getsid(0); tty && err == nil && sid == os.Getpid() {
		i.skip[syscall.SIGHUP], i.skip[syscall.SIGCONT] = true, true
	}
	return &syscall.SysProcAttr{Setsid: true, Setctty: tty}
}

// forward passes a signal on. A stop by the terminal stops this process, too,
// so that the shell which started it sees a stopped job; the command, which
// has no terminal's shell above it in its own session, is stopped for sure.
func (i *initProcess) forward(sig syscall.Signal) {
	if i.skip[sig] {
		i.skip[sig] = false
		return
	}
	stop := sig == syscall.SIGTSTP || sig == syscall.SIGTTIN || sig == syscall.SIGTTOU
	switch {
	case i.single:
		i.command.Signal(sig)
	case stop:
		i.command.SignalGroup(syscall.SIGSTOP)
	default:
		i.command.SignalGroup(sig)
	}
	if stop {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) // PID 1 cannot be stopped from within
	}
}

// leave ends what the command left behind, and buries what ends in time: the
// next reaper above us may be a worse one.
func (i *initProcess) leave(r *reap.Reaper) {
	if i.single {
		return
	}
	if os.Getpid() == 1 {
		r.StopAll(lastGrace)
		return
	}
	// Its group may live on without it. While one of it does, the number is taken.
	_ = syscall.Kill(-i.command.PID, syscall.SIGTERM)
	r.WaitAll(lastGrace)
}
