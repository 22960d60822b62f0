// Package pairtest is the contract that every backend of hostctl keeps, as
// tests that run against a real one. It is imported by tests only.
package pairtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"airlock/hostctl/pair"
	"airlock/internal/ca"
)

// Backend is what hostctl asks of one.
type Backend interface {
	Create(ctx context.Context, p pair.Plan) error
	Start(ctx context.Context, name string) error
	Attach(ctx context.Context, name string, streams pair.IO) (int, error)
	Exec(ctx context.Context, name string, argv []string, streams pair.IO) (int, error)
	Ctl(ctx context.Context, name string, argv []string, streams pair.IO) (int, error)
	Logs(ctx context.Context, name string, follow bool, w io.Writer) error
	List(ctx context.Context) ([]pair.Status, error)
	Delete(ctx context.Context, name string) error
}

// Secret is the value that must be found nowhere.
const Secret = "sesame-0f3b9c77d1e84a52"

// Suite is one backend and what its pairs are made of.
type Suite struct {
	Backend  Backend
	Root     string // folder of the pairs
	Sidecars string // the real binary
	Image    string // the agent's; it must have a POSIX shell with the usual tools
}

// Plan is a whole pair with a small, valid policy.
func (s Suite) Plan(t *testing.T, name string, command ...string) pair.Plan {
	t.Helper()
	p := pair.Plan{
		Name: name, Dir: filepath.Join(s.Root, name), Sidecars: s.Sidecars,
		Secrets: map[string]string{"EGRESS_TOKEN_0": Secret},
		Agent: pair.Agent{
			Image: s.Image, Command: command, Stdin: true,
			Env: map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": pair.HomeDir, "GREETING": "good morning"},
		},
	}
	cert, key, err := ca.New(name, time.Now())
	must(t, err)
	for file, text := range map[string]string{
		"etc/egress.yaml": "version: 1\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\n" +
			"routes:\n  - {host: api.ok.test, auth: {type: bearer, slot: EGRESS_TOKEN_0}}\n",
		"etc/pipelock.yaml":  "version: 1\nallow: [api.ok.test]\n",
		"etc/git-gate.yaml":  "version: 1\nrepos: {}\n",
		"etc/supervise.yaml": "version: 1\n",
		"etc/ca/ca.crt":      string(cert),
		"etc/ca/ca.key":      string(key),
		"agent/ca.crt":       string(cert),
	} {
		path := filepath.Join(p.Dir, file)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Create makes the pair and deletes it when the test is over.
func (s Suite) Create(t *testing.T, p pair.Plan) {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Backend.Delete(context.Background(), p.Name); err != nil {
			t.Errorf("deleting %s: %v", p.Name, err)
		}
	})
	must(t, s.Backend.Create(t.Context(), p))
}

// Run is the whole contract.
func (s Suite) Run(t *testing.T) {
	t.Run("a pair and its commands", s.commands)
	t.Run("the agent's own command", s.ownCommand)
	t.Run("terminal", s.terminal)
	t.Run("workspaces", s.workspaces)
	t.Run("a start that fails leaves nothing", s.failedStart)
	t.Run("what is absent", s.absent)
}

// Sh runs a script in the agent and returns its code and output.
func (s Suite) Sh(t *testing.T, name, script string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	code, err := s.Backend.Exec(t.Context(), name, []string{"sh", "-c", script}, pair.IO{Stdout: &out, Stderr: &out})
	must(t, err)
	return code, strings.TrimSpace(out.String())
}

func (s Suite) status(t *testing.T, name string) pair.Status {
	t.Helper()
	all, err := s.Backend.List(t.Context())
	must(t, err)
	for _, st := range all {
		if st.Name == name {
			return st
		}
	}
	return pair.Status{}
}

func (s Suite) commands(t *testing.T) {
	p := s.Plan(t, "contract", "sleep", "1000")
	s.Create(t, p)
	if st := s.status(t, p.Name); st.State != pair.Created || st.Agent == "" || time.Since(st.Created).Abs() > time.Minute {
		t.Errorf("status %+v", st)
	}
	if err := s.Backend.Create(t.Context(), p); !errors.Is(err, pair.ErrExists) {
		t.Errorf("a second pair of that name: %v", err)
	}
	must(t, s.Backend.Start(t.Context(), p.Name))
	for script, want := range map[string]string{
		"pwd":                         pair.WorkspaceDir,
		"echo $GREETING":              "good morning",
		"id -u":                       "1000",
		"head -1 /etc/airlock/ca.crt": "-----BEGIN CERTIFICATE-----",
		"echo x > /workspace/f && cat /workspace/f":                                  "x",
		"echo y > ~/f && cat ~/f":                                                    "y",
		"touch /etc/airlock/f 2>/dev/null || echo refused":                           "refused",
		"touch /usr/f 2>/dev/null || echo refused":                                   "refused",
		"env | grep -i -c airlock_; env | grep -c TOKEN":                             "0\n0",
		"awk '/^CapEff|^CapBnd|^NoNewPrivs|^Seccomp:/ {print $2}' /proc/self/status": "0000000000000000\n0000000000000000\n1\n2",
	} {
		if _, got := s.Sh(t, p.Name, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	var out, errs bytes.Buffer
	code, err := s.Backend.Exec(t.Context(), p.Name, []string{"sh", "-c", "cat; echo oops >&2; exit 9"}, pair.IO{Stdin: strings.NewReader("piped in"), Stdout: &out, Stderr: &errs})
	if err != nil || code != 9 || out.String() != "piped in" || errs.String() != "oops\n" {
		t.Errorf("code %d, %v, output %q, errors %q", code, err, &out, &errs)
	}
	s.control(t, p)
	s.noSecret(t, p)
}

// control speaks to the sidecars.
func (s Suite) control(t *testing.T, p pair.Plan) {
	t.Helper()
	var out bytes.Buffer
	code, err := s.Backend.Ctl(t.Context(), p.Name, []string{"status", "--json"}, pair.IO{Stdout: &out})
	if err != nil || code != 0 || !strings.Contains(out.String(), `"name":"egress"`) {
		t.Errorf("ctl status: code %d, %v, %s", code, err, &out)
	}
	var errs bytes.Buffer
	code, err = s.Backend.Ctl(t.Context(), p.Name, []string{"no-such-command"}, pair.IO{Stderr: &errs})
	if err != nil || code != 2 || errs.Len() == 0 {
		t.Errorf("wrong ctl: code %d, %v, %s", code, err, &errs)
	}
}

// noSecret looks where a credential would be if it were not in memory alone.
func (s Suite) noSecret(t *testing.T, p pair.Plan) {
	t.Helper()
	look := "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; grep -rh " + Secret[:10] + " /etc /tmp /home /workspace /run /var 2>/dev/null"
	if _, got := s.Sh(t, p.Name, look); strings.Contains(got, Secret) {
		t.Error("the agent can see the secret")
	}
	err := filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(Secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	must(t, err)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		for _, file := range []string{"cmdline", "environ"} {
			data, _ := os.ReadFile(filepath.Join(dir, file)) // gone, or another's
			name, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			if bytes.Contains(data, []byte(Secret)) && !bytes.Contains(name, []byte("egress")) {
				t.Errorf("the secret is in %s of %q", file, name)
			}
		}
	}
}

func (s Suite) ownCommand(t *testing.T) {
	p := s.Plan(t, "contract-own", "sh", "-c", "echo from the agent; mkfifo /tmp/gate; read x </tmp/gate; echo it is $x; exit 5")
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	if st := s.status(t, p.Name); st.State != pair.Running {
		t.Errorf("status %+v", st)
	}
	if err := s.Backend.Start(t.Context(), p.Name); err == nil {
		t.Error("the agent's command was started twice")
	}
	Eventually(t, func() bool { code, _ := s.Sh(t, p.Name, "test -p /tmp/gate"); return code == 0 })
	s.Sh(t, p.Name, "echo open >/tmp/gate")
	Eventually(t, func() bool {
		st := s.status(t, p.Name)
		return st.State == pair.Exited && st.Exit != nil && *st.Exit == 5
	})
	var logs bytes.Buffer
	Eventually(t, func() bool {
		logs.Reset()
		must(t, s.Backend.Logs(t.Context(), p.Name, false, &logs))
		return strings.Contains(logs.String(), "it is open")
	})
	if !strings.Contains(logs.String(), "from the agent") || !strings.Contains(logs.String(), "egress") {
		t.Errorf("logs:\n%s", &logs)
	}
	q := s.Plan(t, "contract-attach", "sh", "-c", "read line; echo got $line; exit 3")
	s.Create(t, q)
	var out bytes.Buffer
	code, err := s.Backend.Attach(t.Context(), q.Name, pair.IO{Stdin: strings.NewReader("a line\n"), Stdout: &out, Stderr: &out})
	if err != nil || code != 3 || out.String() != "got a line\n" {
		t.Errorf("code %d, %v, %q", code, err, &out)
	}
	must(t, s.Backend.Delete(t.Context(), q.Name))
	if st := s.status(t, q.Name); st.Name != "" {
		t.Errorf("it is still there: %+v", st)
	}
}

// terminal attaches through a terminal of 100 columns and types into it.
func (s Suite) terminal(t *testing.T) {
	p := s.Plan(t, "contract-tty", "sh", "-c", `test -t 0 && test -t 1 && echo terminal; read x; stty size; echo "[$x]"; exit 4`)
	p.Agent.TTY = true
	s.Create(t, p)
	master, slave, err := pty.Open()
	must(t, err)
	defer master.Close()
	defer slave.Close()
	must(t, pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 100}))
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := s.Backend.Attach(t.Context(), p.Name, pair.IO{TTY: slave})
		done <- result{code, err}
	}()
	// A reader of a terminal cannot be given a deadline: it is closed instead.
	defer time.AfterFunc(time.Minute, func() { master.Close() }).Stop()
	// What is typed arrives after the size: an engine tells the size only once
	// the command runs, so the command may look only after it has read.
	seen := readUntil(t, master, "terminal")
	_, err = io.WriteString(master, "typed\r")
	must(t, err)
	seen += readUntil(t, master, "[typed]")
	if r := <-done; r.err != nil || r.code != 4 {
		t.Errorf("code %d, %v", r.code, r.err)
	}
	if !strings.Contains(seen, "terminal\r\n") || !strings.Contains(seen, "33 100\r\n") {
		t.Errorf("it was no terminal of that size: %q", seen)
	}
}

func readUntil(t *testing.T, r io.Reader, want string) string {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(seen.String(), want) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
	return seen.String()
}

// linkedWorktree checks that the copy of a worktree of git has the whole repository. The agent's image may lack git, so the test looks at files.
func (s Suite) linkedWorktree(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	whole, linked := filepath.Join(root, "whole"), filepath.Join(root, "linked")
	for _, args := range [][]string{
		{"init", "-q", "-b", "main", whole},
		{"-C", whole, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "first"},
		{"-C", whole, "worktree", "add", "-q", "-b", "side", linked},
	} {
		if out, err := exec.CommandContext(t.Context(), "git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	p := s.Plan(t, "contract-worktree", "sleep", "1000")
	p.Agent.Workspace = pair.Workspace{Path: linked, Mode: pair.Copy}
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	id, err := os.ReadFile(filepath.Join(whole, ".git/refs/heads/main"))
	must(t, err)
	commit := strings.TrimSpace(string(id))
	want := "ref: refs/heads/side\n" + commit + "\nfound"
	script := "cat .git/HEAD .git/refs/heads/side && test -s .git/objects/" + commit[:2] + "/" + commit[2:] + " && echo found"
	if code, got := s.Sh(t, p.Name, script); code != 0 || got != want {
		t.Errorf("expected %q, got code %d, %q", want, code, got)
	}
}

func (s Suite) workspaces(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Chmod(dir, 0o777)) // the agent is another user
	must(t, os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\necho runs\n"), 0o755))
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	must(t, os.Symlink("run.sh", filepath.Join(dir, "link")))
	t.Run("copy", func(t *testing.T) {
		p := s.Plan(t, "contract-copy", "sleep", "1000")
		p.Agent.Workspace = pair.Workspace{Path: dir, Mode: pair.Copy}
		s.Create(t, p)
		must(t, s.Backend.Start(t.Context(), p.Name))
		if code, got := s.Sh(t, p.Name, "./link && echo new >sub/file && rm run.sh && ls"); code != 0 || got != "runs\nlink\nsub" {
			t.Errorf("code %d, %q", code, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "run.sh")); err != nil {
			t.Error("the original was touched")
		}
	})
	t.Run("copy of a linked worktree", s.linkedWorktree)
	t.Run("through a link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(dir, link))
		for _, mode := range []pair.Mode{pair.Copy, pair.Bind} {
			p := s.Plan(t, "contract-link", "true")
			p.Agent.Workspace = pair.Workspace{Path: link, Mode: mode}
			err := s.Backend.Create(t.Context(), p)
			if err == nil {
				t.Cleanup(func() { _ = s.Backend.Delete(context.Background(), p.Name) })
			}
			if err == nil || !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("%s: expected an error about the link, got %v", mode, err)
			}
		}
	})
	t.Run("a setuid program", func(t *testing.T) {
		tool := filepath.Join(dir, "tool")
		must(t, os.WriteFile(tool, []byte("x"), 0o755))
		must(t, os.Chmod(tool, 0o777|os.ModeSetuid))
		defer os.Remove(tool)
		p := s.Plan(t, "contract-setuid", "sleep", "1000")
		p.Agent.Workspace = pair.Workspace{Path: dir, Mode: pair.Bind}
		err := s.Backend.Create(t.Context(), p)
		if err == nil {
			t.Cleanup(func() { _ = s.Backend.Delete(context.Background(), p.Name) })
		}
		if err == nil || !strings.Contains(err.Error(), `"tool"`) {
			t.Errorf("expected an error that names the program, got %v", err)
		}
		p.Agent.Workspace.Mode = pair.Copy
		s.Create(t, p)
		must(t, s.Backend.Start(t.Context(), p.Name))
		if code, got := s.Sh(t, p.Name, "stat -c %a tool"); code != 0 || got != "777" {
			t.Errorf("expected a copy without the bit, got code %d, %q", code, got)
		}
	})
	t.Run("bind", func(t *testing.T) {
		host, err := net.Listen("unix", filepath.Join(dir, "sub", "host.sock"))
		must(t, err)
		defer host.Close()
		must(t, os.Chmod(filepath.Join(dir, "sub", "host.sock"), 0o777))
		must(t, syscall.Mkfifo(filepath.Join(dir, "sub", "pipe"), 0o666))
		p := s.Plan(t, "contract-bind", "sleep", "1000")
		p.Agent.Workspace = pair.Workspace{Path: dir, Mode: pair.Bind}
		s.Create(t, p)
		must(t, s.Backend.Start(t.Context(), p.Name))
		if code, got := s.Sh(t, p.Name, "./link && echo new >file && cat file"); code != 0 || got != "runs\nnew" {
			t.Errorf("code %d, %q", code, got)
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error("the original was not touched")
		}
		// What leads to a process of the host is hidden.
		if code, got := s.Sh(t, p.Name, "test -c sub/host.sock && test -c sub/pipe && ! test -S sub/host.sock && ls sub | wc -l"); code != 0 || got != "2" {
			t.Errorf("expected the null device in the place of the host's socket and pipe, got code %d, %q", code, got)
		}
		code, got := s.Sh(t, p.Name, "chmod 4755 file; chmod 2755 file; chmod g+s .; chmod 700 file")
		info, err := os.Stat(filepath.Join(dir, "file"))
		must(t, err)
		if code != 0 || info.Mode() != 0o700 {
			t.Errorf("expected mode 0700 and no right of its owner, got %v (code %d, %q)", info.Mode(), code, got)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("expected no set-group folder, got %v, %v", info.Mode(), err)
		}
	})
}

func (s Suite) failedStart(t *testing.T) {
	p := s.Plan(t, "contract-fail", "true")
	must(t, os.WriteFile(filepath.Join(p.Etc(), "egress.yaml"), []byte("version: 1\nrouts: []\n"), 0o600))
	err := s.Backend.Create(t.Context(), p)
	if err == nil {
		t.Cleanup(func() { _ = s.Backend.Delete(context.Background(), p.Name) })
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "routs") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
	if st := s.status(t, p.Name); st.Name != "" {
		t.Errorf("it is still there: %+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backend.Create(ctx, s.Plan(t, "contract-fail", "true")); err == nil {
		t.Error("a start whose context had ended succeeded")
	}
	if st := s.status(t, p.Name); st.Name != "" {
		t.Errorf("it is still there: %+v", st)
	}
	s.Create(t, s.Plan(t, "contract-fail", "true")) // nothing is in the way
}

func (s Suite) absent(t *testing.T) {
	ctx, name := t.Context(), "contract-absent"
	must(t, s.Backend.Delete(ctx, name))
	_, execErr := s.Backend.Exec(ctx, name, []string{"true"}, pair.IO{})
	_, attachErr := s.Backend.Attach(ctx, name, pair.IO{})
	_, ctlErr := s.Backend.Ctl(ctx, name, []string{"status"}, pair.IO{})
	for what, err := range map[string]error{"exec": execErr, "attach": attachErr, "ctl": ctlErr,
		"start": s.Backend.Start(ctx, name), "logs": s.Backend.Logs(ctx, name, false, io.Discard)} {
		if !errors.Is(err, pair.ErrAbsent) {
			t.Errorf("%s: %v, want %v", what, err, pair.ErrAbsent)
		}
	}
}

// Eventually waits for what another process does in its own time.
func Eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass within 15 s")
		}
	}
}
