package cage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"airlock/hostctl/pair"
)

// stopGrace is how long an attached process may go on after SIGTERM, when
// the caller's context ends.
const stopGrace = 3 * time.Second

// Command is a process to start in a cage.
type Command struct {
	Argv []string
	Env  []string // complete
	Dir  string
	Main bool // the agent's own command: one at a time, and Status tells of it
	Tied bool // the whole cage ends when the caller of Exec ends before the command
}

// Status tells what became of the agent's command.
type Status struct {
	Started, Exited bool
	Exit            int
}

// startError carries the exit code that a shell would give.
type startError struct {
	message string
	code    int
}

func (e *startError) Error() string { return e.message }

// ExitCode is 127 for a command that was not found, 126 for one that cannot
// be executed.
func (e *startError) ExitCode() int { return e.code }

// Ask returns what became of the agent's command in the cage with that run
// folder.
func Ask(run string) (Status, error) {
	c, err := dial(run)
	if err != nil {
		return Status{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // a socket can
	if err := c.send(request{Op: opStatus}); err != nil {
		return Status{}, fmt.Errorf("asking the cage: %w", err)
	}
	r, err := c.answer()
	return Status{Started: r.Started, Exited: r.Exited, Exit: r.Exit}, err
}

// Stop asks every process in the cage to end and returns when they have, or
// after two seconds. The cage stays.
func Stop(run string) error {
	c, err := dial(run)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(stopAllGrace + time.Second)) // a socket can
	if err := c.send(request{Op: opStop}); err != nil {
		return fmt.Errorf("asking the cage: %w", err)
	}
	_, err = c.answer()
	return err
}

// Detach starts the command and leaves it to itself; its output goes into
// the cage's log.
func Detach(run string, cmd Command) error {
	c, err := dial(run)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.send(cmd.request(true)); err != nil {
		return fmt.Errorf("asking the cage: %w", err)
	}
	_, err = c.answer()
	return err
}

// Exec runs the command with the caller's streams and returns its exit code.
// When ctx ends the command gets SIGTERM, and SIGKILL three seconds later;
// when this process ends, it gets SIGKILL at once.
func Exec(ctx context.Context, run string, cmd Command, io pair.IO) (int, error) {
	c, err := dial(run)
	if err != nil {
		return 1, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = c.send(signalling{int(syscall.SIGTERM)}) // gone already: the receiver notices
		_ = c.SetReadDeadline(time.Now().Add(stopGrace))
	})
	defer stop()
	if io.TTY != nil {
		return c.attachTTY(cmd, io)
	}
	return c.attach(cmd, io)
}

func (cmd Command) request(detach bool) request {
	return request{Op: opRun, Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, Main: cmd.Main, Tied: cmd.Tied, Detach: detach}
}

// answer receives one reply that brings no descriptors.
func (c conn) answer() (reply, error) {
	var r reply
	files, err := c.receive(&r)
	closeAll(files)
	if err != nil {
		return reply{}, lost(err)
	}
	return r, r.err()
}

func (r reply) err() error {
	if r.Err == "" {
		return nil
	}
	return &startError{r.Err, r.Code}
}

func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return errors.New("the cage is gone")
	}
	return fmt.Errorf("waiting for the cage: %w", err)
}

// attach relays over pipes: the caller's own files are not handed in, for a
// descriptor can be opened again with more rights through /proc.
func (c conn) attach(cmd Command, streams pair.IO) (int, error) {
	p, err := newPipes()
	if err != nil {
		return 1, err
	}
	defer p.closeOurs()
	err = c.send(cmd.request(false), p.theirs...)
	closeAll(p.theirs)
	if err != nil {
		return 1, fmt.Errorf("asking the cage: %w", err)
	}
	if _, err := c.answer(); err != nil {
		return codeOf(err), err
	}
	go feed(p.in, streams.Stdin) // not waited for: a read of the caller's input cannot be cut short
	var relays sync.WaitGroup
	var one sync.Mutex // the caller may have given the same writer twice
	relays.Go(func() { relay(lockedWriter{&one, streams.Stdout}, p.out) })
	relays.Go(func() { relay(lockedWriter{&one, streams.Stderr}, p.err) })
	r, err := c.answer()
	p.processEnded()
	relays.Wait()
	if err != nil {
		return codeOf(err), err
	}
	return r.Exit, nil
}

func codeOf(err error) int {
	var s *startError
	if errors.As(err, &s) && s.code != 0 {
		return s.code
	}
	return 1
}

type pipes struct {
	in, out, err *os.File
	theirs       []*os.File
}

func newPipes() (*pipes, error) {
	var all []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("making pipes: %w", err)
		}
		all = append(all, r, w)
	}
	return &pipes{in: all[1], out: all[2], err: all[4], theirs: []*os.File{all[0], all[3], all[5]}}, nil
}

func (p *pipes) closeOurs() { closeAll([]*os.File{p.in, p.out, p.err}) }

// processEnded lets the relays take what lies in the pipes and then end,
// though a grandchild may still hold the other side.
func (p *pipes) processEnded() {
	_ = p.out.SetReadDeadline(time.Unix(1, 0)) // a pipe can
	_ = p.err.SetReadDeadline(time.Unix(1, 0))
}

func feed(dst *os.File, src io.Reader) {
	if src != nil {
		_, _ = io.Copy(dst, src) // it ends when the process stops reading
	}
	dst.Close()
}

// relay copies until the end of src or, after a deadline was set, until
// nothing lies in it any more.
func relay(dst io.Writer, src *os.File) {
	_, err := io.Copy(dst, onlyReader{src})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = src.SetReadDeadline(time.Time{})
		_, _ = io.Copy(dst, present{src})
	}
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer // nil: nobody wants it
}

func (l lockedWriter) Write(p []byte) (int, error) {
	if l.w == nil {
		return len(p), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

type onlyReader struct{ io.Reader }

// present reads what is there and never waits.
type present struct{ f *os.File }

func (p present) Read(buf []byte) (n int, err error) {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Read(func(fd uintptr) bool {
		n, _ = unix.Read(int(fd), buf)
		return true
	})
	if err == nil && n <= 0 {
		return 0, io.EOF
	}
	return n, err
}

// attachTTY gives the process a terminal of its own and makes the caller's
// the window to it.
func (c conn) attachTTY(cmd Command, streams pair.IO) (int, error) {
	r := cmd.request(false)
	r.TTY = true
	if size, err := pty.GetsizeFull(streams.TTY); err == nil {
		r.Rows, r.Cols = size.Rows, size.Cols
	}
	if err := c.send(r); err != nil {
		return 1, fmt.Errorf("asking the cage: %w", err)
	}
	master, err := c.terminal()
	if err != nil {
		return codeOf(err), err
	}
	defer master.Close()
	state, err := term.MakeRaw(int(streams.TTY.Fd()))
	if err != nil {
		return 1, fmt.Errorf("making the terminal raw: %w", err)
	}
	defer func() { _ = term.Restore(int(streams.TTY.Fd()), state) }()
	defer followSize(streams.TTY, master)()
	in, out := io.Reader(streams.TTY), io.Writer(streams.TTY)
	if streams.Stdin != nil {
		in = streams.Stdin
	}
	if streams.Stdout != nil {
		out = streams.Stdout
	}
	go func() { _, _ = io.Copy(onlyWriter{master}, in) }() // not waited for, as in attach
	var relays sync.WaitGroup
	relays.Go(func() { relay(out, master) })
	ended, err := c.answer()
	_ = master.SetReadDeadline(time.Unix(1, 0)) // a terminal can
	relays.Wait()
	if err != nil {
		return codeOf(err), err
	}
	return ended.Exit, nil
}

type onlyWriter struct{ io.Writer }

// terminal receives the master of the process's terminal.
func (c conn) terminal() (*os.File, error) {
	var r reply
	files, err := c.receive(&r)
	if err != nil {
		return nil, lost(err)
	}
	if err := r.err(); err != nil || len(files) != 1 {
		closeAll(files)
		return nil, errors.Join(err, errIf(err == nil, "the cage sent no terminal"))
	}
	defer files[0].Close()
	// Only a descriptor that does not block gets deadlines.
	fd, err := unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("taking the terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("taking the terminal: %w", err)
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

func errIf(wrong bool, message string) error {
	if wrong {
		return errors.New(message)
	}
	return nil
}

// followSize passes changes of the window on until the function it returns
// is called.
func followSize(from, to *os.File) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	var following sync.WaitGroup
	following.Go(func() {
		for range changes {
			_ = pty.InheritSize(from, to) // a wrong size hurts nobody
		}
	})
	return func() {
		signal.Stop(changes)
		close(changes)
		following.Wait()
	}
}
