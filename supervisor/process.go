package supervisor

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one run of a daemon.
type process struct {
	daemon     string
	pid        int
	generation int
	since      time.Time
	ready      bool
	told       bool // that it should end: its exit is no fault
	late       *time.Timer
}

// news is what a process said over its notify pipe.
type news struct {
	pid int
	key string
	val string
}

// spawn starts a daemon with its sockets, a pipe for its news, and pipes for
// its output.
func (s *supervisor) spawn(daemon string, generation int) (*process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var ours, theirs [3]*os.File // stdout, stderr, notify
	for i := range ours {
		if ours[i], theirs[i], err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("making a pipe for %s: %w", daemon, err)
		}
		defer theirs[i].Close()
	}
	files := []uintptr{null.Fd(), theirs[0].Fd(), theirs[1].Fd()}
	var names []string
	for _, sock := range s.sockets[daemon] {
		files = append(files, sock.file.Fd())
		names = append(names, sock.name)
	}
	env := append(s.environment(daemon),
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"),
		"NOTIFY_FD="+strconv.Itoa(len(files)))
	pid, err := s.reaper.fork([]string{daemon}, &syscall.ProcAttr{
		Env:   env,
		Files: append(files, theirs[2].Fd()),
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		for _, f := range ours {
			f.Close()
		}
		return nil, err
	}
	s.readers.Go(func() { s.out.copy(daemon, ours[0]) })
	s.readers.Go(func() { s.out.copy(daemon, ours[1]) })
	s.readers.Go(func() { s.listenTo(pid, ours[2]) })
	return &process{daemon: daemon, pid: pid, generation: generation, since: time.Now()}, nil
}

// listenTo passes a process's news on to the loop.
func (s *supervisor) listenTo(pid int, pipe *os.File) {
	defer pipe.Close()
	lines := bufio.NewScanner(pipe)
	for lines.Scan() {
		key, val, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			continue
		}
		select {
		case s.news <- news{pid, key, val}:
		case <-s.over:
			return
		}
	}
}

// signal tells a process, or with it all that it started.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(p.pid, sig) // it may have ended in this moment
}

func (p *process) kill() {
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it leads a group of its own
}

// inherited are the variables that every daemon gets, when they are set.
var inheritedVars = []string{"PATH", "HOME", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR", "GORACE"}

// slots says which secrets a daemon gets, by the beginning of their names.
var slots = map[string]string{"egress": "EGRESS_TOKEN_", "git-gate": "GIT_TOKEN_", "pipelock": "EGRESS_DIGEST_"}

// environment is what a daemon needs, and not what we have. Proxy variables
// reach nobody: the daemons dial for themselves.
func (s *supervisor) environment(daemon string) []string {
	env := append(s.dirs.Env(), "AIRLOCK_PAIR="+s.pair)
	for _, name := range inheritedVars {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if prefix, ok := slots[daemon]; ok {
		for name, value := range s.secrets {
			if strings.HasPrefix(name, prefix) {
				env = append(env, name+"="+value)
			}
		}
	}
	return env
}
