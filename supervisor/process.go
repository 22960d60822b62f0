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

	"airlock/internal/handoff"
	"airlock/internal/logs"
	"airlock/internal/reap"
	"airlock/internal/secretmem"
)

// lastNews is how long after a process's end its link is read: it is empty
// much earlier, unless another process got hold of the other end.
const lastNews = 100 * time.Millisecond

// launch starts a daemon with its sockets, a link, and pipes for its output.
func (s *supervisor) launch(daemon string, generation int) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var ours, theirs [2]*os.File // stdout, stderr
	for i := range ours {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("making a pipe for %s: %w", daemon, err)
		}
		defer theirs[i].Close()
	}
	link, end, err := handoff.NewLink(s.opener(daemon))
	if err != nil {
		return nil, err
	}
	defer end.Close()
	files := []uintptr{null.Fd(), theirs[0].Fd(), theirs[1].Fd()}
	var names []string
	for _, sock := range s.sockets[daemon] {
		files = append(files, sock.file.Fd())
		names = append(names, sock.name)
	}
	env := append(s.environment(daemon),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"),
		"NOTIFY_FD="+strconv.Itoa(len(files)))
	files = append(files, end.Fd())
	purse, err := s.secrets.Share(func(name string) bool { return slots[daemon] != "" && strings.HasPrefix(name, slots[daemon]) })
	if err != nil {
		link.Close()
		return nil, err
	}
	if purse != nil {
		defer purse.Close()
		env = append(env, secretmem.Variable+"="+strconv.Itoa(len(files)))
		files = append(files, purse.Fd())
	}
	allowed := profile(daemon, s.dirs)
	makeRoom(daemon, allowed, s.dirs)
	var missing []string
	packed, ended := make(chan *box, 1), make(chan syscall.WaitStatus, 1)
	c, err := s.reaper.Start(reap.Command{
		Path: "/proc/self/exe", Argv: []string{daemon}, Group: true,
		Prepare: func() (err error) { missing, err = allowed.Apply(); return err },
		Attr: &syscall.ProcAttr{
			Env:   env,
			Files: files,
			Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
		},
		Exited: func(status syscall.WaitStatus) {
			(<-packed).unpack(status, func() {
				ended <- status
				time.AfterFunc(lastNews, func() { link.Close() }) // somebody else holds its end
			})
		},
	})
	if err != nil {
		for _, f := range ours {
			f.Close()
		}
		link.Close()
		return nil, err
	}
	b := s.pack(c.PID, daemon, generation)
	packed <- b
	s.readers.Go(func() { s.out.copy(daemon, "stdout", ours[0]) })
	s.readers.Go(func() { s.out.copy(daemon, "stderr", overheard{ours[1], b.said, b.read}) })
	s.readers.Go(func() {
		link.Listen(func(key, val string) { s.post(func() { s.heard(daemon, generation, key, val) }) })
		status := <-ended // what it said comes before its end
		s.post(func() { s.exited(daemon, generation, status) })
	})
	return &process{child: c, pid: c.PID, link: link, memory: b, isolation: isolationOf(missing, b)}, nil
}

// opener opens what a daemon that cannot open it itself may still read, and
// nothing else.
func (s *supervisor) opener(daemon string) func(path string) (*os.File, error) {
	return func(path string) (*os.File, error) {
		if !slices.Contains(lent(daemon, s.dirs), path) {
			return nil, fs.ErrPermission
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe in its place keeps nobody waiting
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

// inherited are the variables that every daemon gets, when they are set.
var inheritedVars = []string{"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE", logs.VarFormat}

// environment is what a daemon needs, and not what we have. Proxy variables
// reach nobody: the daemons dial for themselves.
func (s *supervisor) environment(daemon string) []string {
	env := append(s.dirs.Env(), "AIRLOCK_PAIR="+s.pair, logs.VarLevel+"="+cmp.Or(s.levels[daemon], os.Getenv(logs.VarLevel)))
	for _, name := range inheritedVars {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, "GOMEMLIMIT="+softLimit(s.limits[daemon]))
}
