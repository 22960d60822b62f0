package cage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/hostctl/pair"
	"airlock/internal/cage"
	"airlock/internal/lab"
)

// The test binary is the sidecars binary, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "cage" {
		if err := cage.Main(context.Background(), os.Args[2:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "cage:", err)
			var coded interface{ ExitCode() int }
			if errors.As(err, &coded) {
				os.Exit(coded.ExitCode())
			}
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "tool" {
		os.Exit(tool(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// caged is one running cage.
type caged struct {
	t       *testing.T
	run     string
	log     string
	started *cage.Started
}

func start(t *testing.T, change func(*cage.Spec)) *caged {
	t.Helper()
	dir := t.TempDir()
	c := &caged{t: t, run: filepath.Join(dir, "run"), log: filepath.Join(dir, "agent.log")}
	for _, d := range []string{"run", "files", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "files", "hello"), []byte("from the host\n"), 0o644))
	spec := cage.Spec{
		Pair: "test", HostUID: os.Getuid(), HostGID: os.Getgid(), Pids: 200,
		Files: filepath.Join(dir, "files"), Workspace: filepath.Join(dir, "work"),
		Listeners: []cage.Listener{{Name: "egress", Port: 9099}, {Name: "git", Port: 9418}},
	}
	if os.Getuid() == 0 {
		spec.HostUID, spec.HostGID = 0x70000001, 0x70000001
		must(t, os.Chown(spec.Workspace, spec.HostUID, spec.HostGID))
	}
	if change != nil {
		change(&spec)
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	must(t, err)
	defer log.Close()
	exe, err := os.Executable()
	must(t, err)
	c.started, err = cage.Start(t.Context(), exe, spec, c.run, log, func(int) error { return nil })
	if err != nil {
		text, _ := os.ReadFile(c.log)
		t.Fatalf("%v\n%s", err, text)
	}
	t.Cleanup(func() {
		_ = c.started.Process.Kill()
		_, _ = c.started.Process.Wait()
		for _, l := range c.started.Listeners {
			l.Close()
		}
	})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/agent"}

// exec runs a command in the cage and returns its exit code and output.
func (c *caged) exec(stdin string, argv ...string) (int, string) {
	c.t.Helper()
	var out bytes.Buffer
	code, err := cage.Exec(c.t.Context(), c.run, cage.Command{Argv: argv, Env: env, Dir: "/workspace"},
		pair.IO{Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &out})
	if err != nil {
		text, _ := os.ReadFile(c.log)
		c.t.Fatalf("%s: %v\n%s%s", argv, err, &out, text)
	}
	return code, strings.TrimSpace(out.String())
}

func (c *caged) sh(script string) (int, string) {
	c.t.Helper()
	return c.exec("", "sh", "-c", script)
}

// tool runs the test binary. The race detector would wait a second at its end.
func (c *caged) tool(args ...string) string {
	c.t.Helper()
	_, out := c.exec("", append([]string{"env", "GORACE=atexit_sleep_ms=0", "/run/airlock/sidecars", "tool"}, args...)...)
	return out
}

// TestView says what the agent sees, as scripts whose output is compared.
func TestView(t *testing.T) {
	c := start(t, nil)
	for name, tt := range map[string]struct{ script, want string }{
		"user":                {"id -u; id -g; id -un; whoami", "1000\n1000\nagent\nagent"},
		"host name":           {"uname -n", "test"},
		"files":               {"cat /etc/airlock/hello", "from the host"},
		"files are read-only": {"touch /etc/airlock/x 2>/dev/null || echo refused", "refused"},
		"system":              {"touch /usr/x /etc/x /x /opt/x /run/x /dev/x 2>/dev/null; ls /usr/x /etc/x /x /run/x /dev/x 2>/dev/null | wc -l", "0"},
		"workspace":           {"echo a >/workspace/f && cat /workspace/f", "a"},
		"home":                {"echo b >~/f && cat /home/agent/f", "b"},
		"tmp":                 {"echo c >/tmp/f && mv /tmp/f /tmp/g && cat /var/tmp/g", "c"},
		"no host folders":     {"ls -d /root /srv /boot /sys /mnt /media /var/lib /etc/shadow /etc/ssh 2>/dev/null", ""},
		"pid 1 is the init":   {"cat /proc/1/cmdline | tr '\\0' ' '", "sidecars cage -init"},
		"few processes":       {"ls -d /proc/[0-9]* | wc -l | awk '{print ($1<8)}'", "1"},
		"interfaces":          {"tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo"},
		"no route":            {"tail -n +2 /proc/net/route | wc -l", "0"},
		"names":               {"getent ahostsv4 egress | head -1 | cut -d' ' -f1", "127.0.0.1"},
		"its own name":        {"getent ahostsv4 $(uname -n) | head -1 | cut -d' ' -f1; getent hosts localhost | head -1 | cut -d' ' -f1", "127.0.0.1\n::1"},
		"no dns":              {"getent hosts example.com; echo $?", "2"},
		"null device":         {"echo x >/dev/null && head -c 4 /dev/zero | wc -c", "4"},
		"shm":                 {"echo x >/dev/shm/f && cat /dev/shm/f", "x"},
		"environment":         {"env | sort | grep -v '^_=\\|^PWD='", "HOME=/home/agent\nPATH=" + strings.TrimPrefix(env[0], "PATH=")},
		"no capability":       {"grep -h '^Cap' /proc/self/status | awk '{print $2}' | sort -u", "0000000000000000"},
		"no new privileges":   {"awk '/NoNewPrivs|Seccomp:/ {print $2}' /proc/self/status", "1\n2"},
		"descriptors":         {"ls /proc/self/fd | sort -n | tail -1", "3"}, // ls's own
		"no mount":            {"mount -t tmpfs x /tmp 2>/dev/null || echo refused", "refused"},
		"no unshare":          {"unshare -U true 2>/dev/null || echo refused", "refused"},
		"init's environment":  {"cat /proc/1/environ /proc/1/maps 2>/dev/null || echo refused", "refused"},
		"init's files":        {"ls /proc/1/fd /proc/1/root/ 2>/dev/null || echo refused", "refused"},
		"kill the init":       {"kill -TERM 1; kill -KILL 1; kill -ABRT 1; echo alive", "alive"},
		"hidden":              {"wc -c </proc/keys", "0"},
		"umask":               {"umask", "0022"},
		"no core":             {"ulimit -c", "0"},
		"setuid is dead":      {"su -c id </dev/null >/dev/null 2>&1; echo $(( $? != 0 ))", "1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := *c
			c.t = t
			if _, got := c.sh(tt.script); got != tt.want {
				t.Errorf("%s\n got %q\nwant %q", tt.script, got, tt.want)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	c := start(t, nil)
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137, "kill -TERM $$": 143} {
		if got, _ := c.sh(script); got != want {
			t.Errorf("%q: exit code %d, want %d", script, got, want)
		}
	}
	for name, want := range map[string]int{"no-such-command": 127, "/etc/passwd": 126, "/usr": 126, "/no/such": 127} {
		code, err := cage.Exec(t.Context(), c.run, cage.Command{Argv: []string{name}, Env: env, Dir: "/"}, pair.IO{})
		if code != want || err == nil {
			t.Errorf("%s: code %d and error %v, want %d and an error", name, code, err, want)
		}
	}
}

func TestStreams(t *testing.T) {
	c := start(t, nil)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if _, got := c.exec(big, "cat"); got != big {
		t.Errorf("%d bytes came back of %d", len(got), len(big))
	}
	var out, errs bytes.Buffer
	cmd := cage.Command{Argv: []string{"sh", "-c", "echo out; echo err >&2; sleep 1000 & exit 3"}, Env: env, Dir: "/"}
	code, err := cage.Exec(t.Context(), c.run, cmd, pair.IO{Stdout: &out, Stderr: &errs})
	if err != nil || code != 3 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("code %d, error %v, output %q, errors %q: a grandchild that holds the pipe must not hold us", code, err, &out, &errs)
	}
}

func TestNoStatusIsLost(t *testing.T) {
	c := start(t, nil)
	results := make(chan error, 40)
	for i := range cap(results) {
		go func() {
			want := i % 7
			// Orphans die all the while: they are the init's, too.
			cmd := cage.Command{Argv: []string{"sh", "-c", fmt.Sprintf("(true & true &); (true &); exit %d", want)}, Env: env, Dir: "/"}
			code, err := cage.Exec(t.Context(), c.run, cmd, pair.IO{})
			if err == nil && code != want {
				err = fmt.Errorf("exit code %d, want %d", code, want)
			}
			results <- err
		}()
	}
	for range cap(results) {
		if err := lab.Receive(t, results, "a result comes"); err != nil {
			t.Error(err)
		}
	}
	if _, got := c.sh("grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"); got != "0" {
		t.Errorf("%s zombies are left", got)
	}
}

func TestCancelledContextEndsTheProcess(t *testing.T) {
	c := start(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		code, _ := cage.Exec(ctx, c.run, cage.Command{Argv: []string{"sh", "-c", "echo up; exec sleep 1000"}, Env: env, Dir: "/"}, pair.IO{Stdout: w})
		done <- code
	}()
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if code := lab.Receive(t, done, "what runs beside the test ends"); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
}

func TestMainCommand(t *testing.T) {
	c := start(t, nil)
	status := func() cage.Status {
		t.Helper()
		s, err := cage.Ask(c.run)
		must(t, err)
		return s
	}
	if s := status(); s != (cage.Status{}) {
		t.Fatalf("before: %+v", s)
	}
	main := cage.Command{Argv: []string{"sh", "-c", "echo to the log; read x </tmp/fifo; exit 5"}, Env: env, Dir: "/", Main: true}
	c.sh("mkfifo /tmp/fifo")
	must(t, cage.Detach(c.run, main))
	if s := status(); s != (cage.Status{Started: true}) {
		t.Fatalf("running: %+v", s)
	}
	if err := cage.Detach(c.run, main); err == nil {
		t.Fatal("the agent's command was started twice")
	}
	c.sh("echo go >/tmp/fifo")
	eventually(t, func() bool { return status() == cage.Status{Started: true, Exited: true, Exit: 5} })
	eventually(t, func() bool { text, _ := os.ReadFile(c.log); return string(text) == "to the log\n" })
}

// eventually waits for what another process does in its own time.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass within 10 s")
		}
	}
}

func TestListenersAreInsideAndServedFromOutside(t *testing.T) {
	c := start(t, nil)
	l, err := net.FileListener(c.started.Listeners[0])
	must(t, err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(conn, "from outside\n")
			conn.Close()
		}
	}()
	if got := c.tool("dial", "egress:9099"); got != "from outside" {
		t.Errorf("got %q", got)
	}
	if conn, err := net.DialTimeout("tcp", "127.0.0.1:9099", time.Second); err == nil {
		conn.Close()
		t.Error("the socket is open on the host, too")
	}
}

// TestRefusedCalls makes the calls themselves, past every tool.
func TestRefusedCalls(t *testing.T) {
	c := start(t, nil)
	for name, want := range map[string]string{
		"vsock":         "address family not supported by protocol",
		"packet":        "address family not supported by protocol",
		"raw":           "operation not permitted",
		"raw6":          "operation not permitted",
		"sctp":          "protocol not supported",
		"netlink-audit": "protocol not supported",
		"netlink-route": "ok",
		"tcp":           "ok",
		"udp6":          "ok",
		"unix":          "ok",
		"clone-user":    "operation not permitted",
		"clone3":        "function not implemented",
		"unshare-net":   "operation not permitted",
		"unshare-files": "ok",
		"setns":         "operation not permitted",
		"io_uring":      "operation not permitted",
		"bpf":           "operation not permitted",
		"keyctl":        "operation not permitted",
		"tiocsti":       "operation not permitted",
		"tioclinux":     "operation not permitted",
		"tiocgwinsz":    "inappropriate ioctl for device",
		"open-handle":   "operation not permitted",
		"future":        "function not implemented",
		"x32":           "function not implemented",
		"ptrace-init":   "operation not permitted",
	} {
		if got := c.tool("call", name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestNoFileGetsTheRightsOfItsOwner: in a bound workspace, a setuid file of the
// agent's would be one of a user of the host.
func TestNoFileGetsTheRightsOfItsOwner(t *testing.T) {
	var workspace string
	c := start(t, func(s *cage.Spec) { workspace = s.Workspace })
	out := c.tool("modes")
	lines := strings.Split(out, "\n")
	if len(lines) < 3*8+2 {
		t.Fatalf("expected a line for each call, got %d:\n%s", len(lines), out)
	}
	for _, line := range lines {
		want := "operation not permitted"
		if strings.HasPrefix(line, "openat2 ") {
			want = "function not implemented"
		}
		if !strings.HasSuffix(line, want) {
			t.Errorf("expected %q, got %q", want, line)
		}
	}
	// What tools do by themselves.
	for _, script := range []string{"chmod 4755 tool", "chmod g+s .", "chmod u+s tool", "install -m 6755 tool other", "mkdir -m 2777 team"} {
		if code, out := c.sh(script); code == 0 {
			t.Errorf("%s succeeded: %s", script, out)
		}
	}
	if code, out := c.sh("chmod 1777 . && chmod 755 tool && install -m 755 tool copy && mkdir -m 1777 sticky && tar cf - tool copy | (cd sticky && tar xpf -) && stat -c %a sticky/copy"); code != 0 || out != "755" {
		t.Errorf("ordinary modes: code %d, %q", code, out)
	}
	must(t, filepath.WalkDir(workspace, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s has mode %v on the host", path, info.Mode())
		}
		return err
	}))
}

// TestTheInitOutlivesEverySignal: from the agent's place, as kill and sigqueue
// send them.
func TestTheInitOutlivesEverySignal(t *testing.T) {
	c := start(t, nil)
	if got := c.tool("signals"); got != "sent" {
		t.Fatalf("expected every signal to be sent, got %q", got)
	}
	if _, got := c.sh("for s in 4 5 6 7 8 11 14 16 24 25 30 31; do kill -$s 1; done; echo alive"); got != "alive" {
		t.Errorf("expected the init to serve, got %q", got)
	}
	if _, err := cage.Ask(c.run); err != nil {
		t.Errorf("expected the init to answer, got %v", err)
	}
}

func TestProcessesAreBounded(t *testing.T) {
	c := start(t, func(s *cage.Spec) { s.Pids = 40 })
	_, got := c.sh("i=0; while [ $i -lt 100 ]; do sleep 100 & i=$((i+1)); done 2>&1; true")
	if !strings.Contains(got, "fork") && !strings.Contains(got, "Resource") {
		t.Errorf("a hundred processes were possible where 40 are allowed: %q", got)
	}
}

func TestTheInitRefusesItsOwnPeers(t *testing.T) {
	var socket string
	c := start(t, func(s *cage.Spec) { socket = s.Workspace })
	// Give the agent what it never has: a way to the control socket.
	must(t, os.Link(filepath.Join(c.run, "cage.sock"), filepath.Join(socket, "cage.sock")))
	must(t, os.Chmod(filepath.Join(socket, "cage.sock"), 0o666))
	if got := c.tool("control", "/workspace/cage.sock"); !strings.Contains(got, "only the host may ask") {
		t.Errorf("the agent was answered %q", got)
	}
}

func TestKilledStarterLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	exe, err := os.Executable()
	must(t, err)
	var pid int
	spec := cage.Spec{Pair: "x", HostUID: os.Getuid(), HostGID: os.Getgid()}
	_, err = cage.Start(t.Context(), exe, spec, dir, log, func(p int) error { pid = p; return errors.New("no room to write it down") })
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Fatalf("got %v", err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is left over: %v", err)
	}
}

func TestMissingFolderIsNamed(t *testing.T) {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	exe, err := os.Executable()
	must(t, err)
	spec := cage.Spec{Pair: "x", HostUID: os.Getuid(), HostGID: os.Getgid(), Workspace: "/no/such/folder"}
	_, err = cage.Start(t.Context(), exe, spec, dir, log, func(int) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "/no/such/folder") {
		t.Fatalf("got %v", err)
	}
}

// TestAsOrdinaryUser runs the other tests again as one, when we are root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("we are one")
	}
	exe, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	binary := filepath.Join(dir, "sidecars")
	data, err := os.ReadFile(exe)
	must(t, err)
	must(t, os.WriteFile(binary, data, 0o755))
	tmp := filepath.Join(dir, "tmp")
	must(t, os.Mkdir(tmp, 0o700))
	must(t, os.Chown(tmp, 1001, 1001))
	cmd := exec.CommandContext(t.Context(), binary, "-test.v", "-test.skip=TestAsOrdinaryUser")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1001, Gid: 1001}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestGuard is what a container of an engine runs: PID 1 of a pid namespace,
// and one more process beside it.
func TestGuard(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a pid namespace of its own takes root")
	}
	exe, err := os.Executable()
	must(t, err)
	for script, want := range map[string]int{
		"exit 7":                     7,
		"kill -9 $$":                 137,
		"(true &); (true &); exit 0": 0,
		"for s in 4 5 7 8 11 16 31; do kill -$s 1; done; exec " + exe + " tool signals-of-faults": 0,
		"cd $(mktemp -d) && echo >f && ! chmod 4755 f && ! chmod g+s . && chmod 755 f":            0,
		`test "$$" != 1 && awk '/^Seccomp:/ {exit $2 != 2}' /proc/self/status`:                    0,
		"no-such-command": 127,
	} {
		cmd := exec.CommandContext(t.Context(), exe, "cage", "-guard", "sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: code %d, want %d (%v, %s)", script, got, want, err, out)
		}
	}
	cmd := exec.CommandContext(t.Context(), exe, "cage", "-guard", exe, "tool", "call", "vsock")
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); got != "address family not supported by protocol" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestGuardPassesSignalsOn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a pid namespace of its own takes root")
	}
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "cage", "-guard", "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = io.ReadFull(out, make([]byte, 3))
	must(t, err)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // the code tells
	if got := cmd.ProcessState.ExitCode(); got != 9 {
		t.Errorf("code %d", got)
	}
}
