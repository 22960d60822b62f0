package supervisor

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/logs"
	"airlock/internal/reap"
	"airlock/internal/secretmem"
)

// linkDrainTime is how long the link of a process is read after the process has ended. The link is
// empty much earlier, unless another process holds the other end.
const linkDrainTime = 100 * time.Millisecond

// childFiles are the descriptors and the environment of a child, and the supervisor's ends of its pipes
// and its link.
type childFiles struct {
	files      []*os.File // in the order of the numbers in the child
	ownedFiles []*os.File // those of files that are closed once the child runs
	env        []string
	output     [2]*os.File // stdout, stderr
	link       *activation.Link
}

// prepareFiles collects the sockets, a link, pipes for the output, and the secrets of a child. On an
// error, g has what was opened until then.
func (s *supervisor) prepareFiles(daemon string) (g childFiles, err error) {
	add := func(f *os.File, err error) error {
		if f != nil {
			g.files, g.ownedFiles = append(g.files, f), append(g.ownedFiles, f)
		}
		return err
	}
	if err := add(os.Open(os.DevNull)); err != nil {
		return g, err
	}
	for i := range g.output {
		var end *os.File
		if g.output[i], end, err = os.Pipe(); err != nil {
			return g, fmt.Errorf("making a pipe for %s: %w", daemon, err)
		}
		_ = add(end, nil)
	}
	var names []string
	for _, sock := range s.sockets[daemon] {
		g.files, names = append(g.files, sock.file), append(names, sock.name)
	}
	g.env = append(s.environment(daemon),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"), "NOTIFY_FD="+strconv.Itoa(len(g.files)))
	var end *os.File
	if g.link, end, err = activation.NewLink(s.opener(daemon)); err != nil {
		return g, err
	}
	_ = add(end, nil)
	switch daemon {
	case bundle.Pipelock:
		g.link.OnPropose(s.proposeHeld(daemon), func(f func()) { s.readers.Go(f) })
	case bundle.GitGate:
		g.link.OnPropose(s.proposeGitAllow, func(f func()) { s.readers.Go(f) })
	}
	secretsFD, err := s.secrets.Share(func(name string) bool { return receives(daemon, name) })
	if secretsFD != nil {
		g.env = append(g.env, secretmem.Variable+"="+strconv.Itoa(len(g.files)))
	}
	return g, add(secretsFD, err)
}

// closeAll closes the supervisor's ends, for a child that is not started.
func (g childFiles) closeAll() {
	for _, f := range g.output {
		if f != nil {
			f.Close()
		}
	}
	if g.link != nil {
		g.link.Close()
	}
}

// launch starts a daemon on a thread that has been restricted to its profile.
func (s *supervisor) launch(daemon string, generation int) (*process, error) {
	g, err := s.prepareFiles(daemon)
	for _, f := range g.ownedFiles {
		defer f.Close()
	}
	if err != nil {
		g.closeAll()
		return nil, err
	}
	allowed := profile(daemon, s.dirs)
	createPaths(daemon, allowed, s.dirs)
	var missing []string
	limited, ended := make(chan *memLimit, 1), make(chan syscall.WaitStatus, 1)
	c, err := s.reaper.Start(reap.Command{
		Path: "/proc/self/exe", Argv: []string{daemon}, Group: true,
		Prepare: func() (err error) { missing, err = allowed.Apply(); return err },
		Attr: &syscall.ProcAttr{
			Env:   g.env,
			Files: fdsOf(g.files),
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		},
		Exited: func(status syscall.WaitStatus) {
			(<-limited).onExit(status, func() {
				ended <- status
				time.AfterFunc(linkDrainTime, func() { g.link.Close() }) // another process may hold the other end
			})
		},
	})
	if err != nil {
		g.closeAll()
		return nil, err
	}
	b := s.applyMemLimit(c.PID, daemon, generation)
	limited <- b
	s.readers.Go(func() { s.out.copy(daemon, "stdout", g.output[0]) })
	s.readers.Go(func() { s.out.copy(daemon, "stderr", oomTee{g.output[1], b.stderr, b.stderrDone}) })
	s.readers.Go(func() {
		g.link.Receive(func(key, val string) { s.post(func() { s.onNotify(daemon, generation, key, val) }) })
		status := <-ended // its notifications come before its exit
		s.post(func() { s.onExit(daemon, generation, status) })
	})
	return &process{child: c, pid: c.PID, link: g.link, memory: b, isolation: isolationStatus(missing, b)}, nil
}

// fdsOf returns the descriptors of files.
func fdsOf(files []*os.File) (fds []uintptr) {
	for _, f := range files {
		fds = append(fds, f.Fd())
	}
	return fds
}

// opener returns a function that opens the brokered files of a daemon and refuses all others.
func (s *supervisor) opener(daemon string) func(path string) (*os.File, error) {
	return func(path string) (*os.File, error) {
		if !slices.Contains(brokeredFiles(daemon, s.dirs), path) {
			return nil, fs.ErrPermission
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // does not block if the path is a FIFO
		if err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			f.Close()
			return nil, fs.ErrInvalid
		}
		return f, nil
	}
}

// inheritedVars are the environment variables that every child gets if they are set.
var inheritedVars = []string{"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE", logs.VarFormat}

// inherited returns the values of inheritedVars, as NAME=value.
func inherited() (env []string) {
	for _, name := range inheritedVars {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// environment returns the environment of a daemon: only what it needs. Proxy variables are not passed
// on, because the daemons dial directly.
func (s *supervisor) environment(daemon string) []string {
	level := cmp.Or(s.levels[daemon], os.Getenv(logs.VarLevel))
	env := append(s.dirs.Env(), "AIRLOCK_PAIR="+s.pair, logs.VarLevel+"="+level)
	env = append(env, inherited()...)
	return append(env, "GOMEMLIMIT="+softLimit(s.limits[daemon]), "GOGC="+cmp.Or(os.Getenv("GOGC"), daemonGOGC))
}
