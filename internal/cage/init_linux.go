package cage

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"airlock/internal/logs"
	"airlock/internal/pid1"
	"airlock/internal/reap"
)

// stopAllGrace is how long processes may take to end after SIGTERM.
const stopAllGrace = 2 * time.Second

// maxLog bounds the agent's log in bytes.
const maxLog = 32 << 20

// The states of the agent's command, as hostctl is told them.
const (
	mainCreated = iota
	mainRunning
	mainExited
)

// initServer is PID 1 of the cage.
type initServer struct {
	reaper *reap.Reaper
	log    *logs.Bounded

	mu    sync.Mutex
	state int
	exit  int
}

// initMain serves until it is killed, and with it everything in the cage.
func initMain() error {
	// The agent runs as the same user: nobody looks into this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the init undumpable: %w", err)
	}
	for fd := fdControl; fd <= fdLog; fd++ {
		unix.CloseOnExec(fd)
	}
	file := os.NewFile(fdControl, "control")
	l, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("taking over the control socket: %w", err)
	}
	file.Close()
	// What the agent sends to PID 1 changes nothing: it goes into a channel
	// that nobody reads. Ignoring the signals would make the children ignore
	// them, too. hostctl uses SIGKILL.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGABRT, syscall.SIGTTOU, syscall.SIGTTIN, syscall.SIGTSTP, syscall.SIGXCPU, syscall.SIGXFSZ)
	if err := pid1.IgnoreFaults(); err != nil {
		return err
	}
	s := &initServer{reaper: reap.New(), log: logs.NewBounded(os.NewFile(fdLog, "log"), maxLog)}
	go s.reaper.Run() // as long as the process: nothing to wait for
	return s.serve(l)
}

func (s *initServer) serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accepting on the control socket: %w", err)
		}
		go s.handle(conn{c.(*net.UnixConn)}) // ends with the connection; the process ends by being killed
	}
}

func (s *initServer) handle(c conn) {
	defer c.Close()
	if err := fromOutside(c); err != nil {
		_ = c.send(reply{Err: err.Error()})
		return
	}
	var r request
	files, err := c.receive(&r)
	if err != nil {
		return
	}
	defer closeAll(files)
	switch r.Op {
	case opStatus:
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = c.send(reply{Started: s.state != mainCreated, Exited: s.state == mainExited, Exit: s.exit})
	case opRun:
		s.run(c, r, files)
	case opStop:
		s.reaper.StopAll(stopAllGrace)
		_ = c.send(reply{})
	default:
		_ = c.send(reply{Err: "unknown operation"})
	}
}

// fromOutside refuses a peer of our own pid namespace: a process that is not
// in it has no number here.
func fromOutside(c conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Pid != 0 {
		return errors.New("refused: only the host may ask")
	}
	return nil
}

// run starts one process and stays with it until it ends or hostctl goes
// away, whichever comes first; a detached one it leaves to itself.
func (s *initServer) run(c conn, r request, files []*os.File) {
	if r.Main && !s.claim() {
		_ = c.send(reply{Err: "the agent's command runs already", Code: 1})
		return
	}
	p, master, err := s.start(r, files)
	closeAll(files) // the process has its own
	if err != nil {
		if r.Main {
			s.finish(startCode(err))
		}
		_ = c.send(reply{Err: fmt.Sprintf("starting %s: %v", r.Argv[0], err), Code: startCode(err)})
		return
	}
	if r.Detach {
		_ = c.send(reply{Started: true})
		s.wait(r, p)
		return
	}
	if master != nil {
		err = c.send(reply{Started: true}, master)
		master.Close()
	} else {
		err = c.send(reply{Started: true})
	}
	done := make(chan struct{})
	var ended atomic.Bool
	go func() { // ends when hostctl hangs up or we close the connection
		s.follow(c, p)
		if r.Tied && !ended.Load() {
			os.Exit(1) // and the kernel kills everything in the cage
		}
		close(done)
	}()
	code := s.wait(r, p)
	ended.Store(true)
	if err == nil {
		_ = c.send(reply{Exited: true, Exit: code})
	}
	c.CloseRead()
	<-done
}

// follow passes signals on; when hostctl goes away, the process goes too.
func (s *initServer) follow(c conn, p *reap.Process) {
	for {
		var m signalling
		files, err := c.receive(&m)
		closeAll(files)
		if err != nil {
			p.SignalGroup(syscall.SIGKILL)
			return
		}
		p.SignalGroup(syscall.Signal(m.Signal))
	}
}

func (s *initServer) wait(r request, p *reap.Process) int {
	code := reap.ExitCode(p.Wait())
	if r.Main {
		s.finish(code)
	}
	return code
}

func (s *initServer) claim() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == mainRunning {
		return false
	}
	s.state = mainRunning
	return true
}

func (s *initServer) finish(code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.exit = mainExited, code
}

// start forks the process in a session of its own.
func (s *initServer) start(r request, files []*os.File) (p *reap.Process, master *os.File, err error) {
	if len(r.Argv) == 0 {
		return nil, nil, errors.New("no command")
	}
	path, err := lookPath(r)
	if err != nil {
		return nil, nil, err
	}
	attr := &syscall.ProcAttr{Dir: r.Dir, Env: r.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: r.TTY}}
	stdio, master, done, err := s.stdio(r, files)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	for _, f := range stdio {
		attr.Files = append(attr.Files, f.Fd())
	}
	p, err = s.reaper.Start(reap.Command{Path: path, Argv: r.Argv, Attr: attr})
	if err != nil && master != nil {
		master.Close()
	}
	return p, master, err
}

// stdio are the three streams of the process; done closes our side of what
// was made for it.
func (s *initServer) stdio(r request, files []*os.File) (stdio []*os.File, master *os.File, done func(), err error) {
	switch {
	case r.TTY:
		master, slave, err := pty.Open()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("opening a terminal: %w", err)
		}
		if r.Rows > 0 && r.Cols > 0 {
			_ = pty.Setsize(master, &pty.Winsize{Rows: r.Rows, Cols: r.Cols}) // a wrong size is no reason to refuse
		}
		return []*os.File{slave, slave, slave}, master, func() { slave.Close() }, nil
	case r.Detach:
		return s.logged()
	case len(files) != 3:
		return nil, nil, nil, errors.New("three descriptors were wanted")
	}
	return files, nil, func() {}, nil
}

// logged is empty input, and output that goes into the agent's log. The
// process gets a pipe: the file is the host's.
func (s *initServer) logged() ([]*os.File, *os.File, func(), error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		null.Close()
		return nil, nil, nil, err
	}
	go func() { // ends when the last process that holds the pipe does
		_, _ = io.Copy(s.log, r)
		r.Close()
	}()
	return []*os.File{null, w, w}, nil, func() { null.Close(); w.Close() }, nil
}

// lookPath finds the command as a shell would: by the PATH of the request,
// not by ours.
func lookPath(r request) (string, error) {
	name := r.Argv[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(r.Dir, name)
		}
		return name, executable(name)
	}
	result := error(syscall.ENOENT)
	for _, dir := range filepath.SplitList(pathOf(r.Env)) {
		path := filepath.Join(dir, name)
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, syscall.EACCES) {
			result = syscall.EACCES
		}
	}
	return "", result
}

func pathOf(env []string) string {
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			return path
		}
	}
	return "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	if info.IsDir() {
		return syscall.EACCES
	}
	return unix.Access(path, unix.X_OK)
}

// startCode is what a shell exits with when it cannot start a command.
func startCode(err error) int {
	if errors.Is(err, syscall.ENOENT) {
		return 127
	}
	return 126
}
