package supervisor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/control"
	"airlock/internal/lab"
	"airlock/internal/proposal"
)

// The daemons of these tests are this test binary. Each reads its behaviour from the first line of its
// configuration, a comment.
func init() {
	for _, name := range bundle.Daemons() {
		roles[name] = func() { os.Exit(runTestDaemon(name)) }
	}
	roles["digest"] = func() {
		if err := Digest(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			os.Exit(1)
		}
	}
	roles["supervisor"] = func() {
		err := Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
		var coded interface{ ExitCode() int }
		switch {
		case errors.As(err, &coded):
			fmt.Println(err)
			os.Exit(coded.ExitCode())
		case err != nil:
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// runTestDaemon is a daemon that answers every connection with its pid.
func runTestDaemon(name string) int {
	f, err := activation.Open(bundle.DirsFromEnv().File(name))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil {
		fmt.Println(err)
		return 1
	}
	f.Close()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	var life <-chan time.Time
	code := 0
	how := strings.Fields(line)[1:]
	for i := 0; i < len(how); i++ {
		switch how[i] {
		case "slow":
			time.Sleep(parseDuration(how[i+1])) // what this daemon is for
		case "fails":
			code, _ = strconv.Atoi(how[i+1])
			return code
		case "hangs":
			select {}
		case "deaf":
			end = nil
			signal.Ignore(syscall.SIGTERM)
		case "lives":
			life = time.After(parseDuration(how[i+1]))
		case "says":
			fmt.Println(how[i+1])
		}
	}
	all, err := activation.Inherited()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, l := range all {
		go serveGreeting(l)
	}
	activation.Ready("digest-of-" + strings.Join(how, "-"))
	again := make(chan os.Signal, 1)
	if name == bundle.Egress { // the one that reads its file again
		signal.Notify(again, syscall.SIGHUP)
	}
	for {
		select {
		case <-again:
			activation.Ready("digest-after-reload")
		case <-end:
			for _, l := range all {
				l.Close()
			}
			return 0
		case <-life:
			return 3
		}
	}
}

func parseDuration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(err)
	}
	return d
}

func serveGreeting(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintf(c, "%d\n", os.Getpid())
		c.Close()
	}
}

var configurations = map[string]string{
	bundle.Egress:    "version: 1\nlisten: 127.0.0.1:0\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\nroutes: []\n",
	bundle.Pipelock:  "version: 1\nallow: []\n",
	bundle.GitGate:   "version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nrepos: {}\n",
	bundle.Supervise: "version: 1\nlisten: 127.0.0.1:0\n",
}

// testSupervisor is a supervisor whose daemons behave as setBehaviour says.
type testSupervisor struct {
	t     *testing.T
	dirs  bundle.Dirs
	cmd   *exec.Cmd
	out   *bytes.Buffer
	ctl   *control.Client
	ended chan struct{}
}

func newTestSupervisor(t *testing.T, daemons ...string) *testSupervisor {
	t.Helper()
	dir := t.TempDir()
	h := &testSupervisor{t: t, dirs: bundle.Dirs{Etc: dir + "/etc", Run: dir + "/run", State: dir + "/state"}, out: &bytes.Buffer{}, ended: make(chan struct{})}
	for _, d := range []string{h.dirs.Etc + "/ca", h.dirs.Run, h.dirs.State} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range bundle.Daemons() {
		h.setBehaviour(name, "")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.cmd = exec.Command(self)
	h.cmd.Args = []string{"supervisor"}
	h.cmd.Env = append(os.Environ(), h.dirs.Env()...)
	h.cmd.Env = append(h.cmd.Env, "SIDECAR_DAEMONS="+strings.Join(daemons, ","))
	h.cmd.Stdout, h.cmd.Stderr = h.out, h.out
	h.ctl = control.NewClient(h.dirs.Control())
	return h
}

func (h *testSupervisor) start() {
	h.t.Helper()
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = h.cmd.Wait(); close(h.ended) }() // ProcessState tells the code
	h.t.Cleanup(func() {
		_ = h.cmd.Process.Kill() // it has ended in most tests
		lab.Receive(h.t, h.ended, "what was started ends")
		if h.t.Failed() {
			h.t.Logf("the supervisor printed:\n%s", h.out)
		}
	})
	h.waitUntil("everything serves", func() bool {
		st, err := h.ctl.Status(context.Background())
		return err == nil && st.Ready
	})
}

// setBehaviour sets how a daemon behaves from its next start on.
func (h *testSupervisor) setBehaviour(name, how string) {
	h.t.Helper()
	file := h.dirs.File(name)
	err := os.WriteFile(file+".new", []byte("# "+how+"\n"+configurations[name]), 0o600)
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *testSupervisor) waitUntil(what string, yes func() bool) {
	h.t.Helper()
	deadline := time.After(40 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-deadline:
			h.t.Fatalf("never: %s", what)
		case <-h.ended:
			h.t.Fatalf("the supervisor ended before: %s", what)
		case <-tick.C:
		}
	}
}

func (h *testSupervisor) status(name string) control.Daemon {
	h.t.Helper()
	st, err := h.ctl.Status(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	d, ok := st.Find(name)
	if !ok {
		h.t.Fatalf("%s is not in the status", name)
	}
	return d
}

func (h *testSupervisor) restart(name string) error {
	return h.ctl.Do(context.Background(), http.MethodPost, "/restart", url.Values{"daemon": {name}}, nil, nil)
}

func (h *testSupervisor) reload(name string) error {
	return h.ctl.Do(context.Background(), http.MethodPost, "/reload", url.Values{"daemon": {name}}, nil, nil)
}

func (h *testSupervisor) signal(sig syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(sig); err != nil {
		h.t.Fatal(err)
	}
}

// waitExit waits until the supervisor exits and returns its exit code.
func (h *testSupervisor) waitExit() int {
	h.t.Helper()
	select {
	case <-h.ended:
	case <-time.After(20 * time.Second):
		h.t.Fatal("the supervisor does not end")
	}
	return h.cmd.ProcessState.ExitCode()
}

// callPID asks a daemon for its pid.
func (h *testSupervisor) callPID(address string) (int, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func TestExitCodeIsTheWorstOfTheDaemons(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress, bundle.Supervise)
	h.setBehaviour(bundle.Supervise, "deaf")
	h.start()
	began := time.Now()
	h.signal(syscall.SIGTERM)
	h.waitUntil("it stops", func() bool { return h.status(bundle.Supervise).State == string(Stopping) })
	h.signal(syscall.SIGTERM) // a second one that comes before the first is seen would be the same
	if code := h.waitExit(); code != 0 {
		t.Errorf("code %d: a signal that we sent is no fault", code)
	}
	if took := time.Since(began); took > grace {
		t.Errorf("a second SIGTERM did not shorten the grace: %v", took)
	}
	if left := leftovers(t, h); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestDaemonThatIgnoresTERMIsKilled(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.setBehaviour(bundle.Egress, "deaf")
	h.start()
	began := time.Now()
	h.signal(syscall.SIGTERM)
	h.waitExit()
	if took := time.Since(began); took < grace || took > grace+5*time.Second {
		t.Errorf("killed after %v", took)
	}
	if left := leftovers(t, h); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// leftovers returns the processes that have the folder of this supervisor in their environment.
func leftovers(t *testing.T, h *testSupervisor) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && bytes.Contains(data, []byte("AIRLOCK_ETC="+h.dirs.Etc)) {
			all = append(all, f)
		}
	}
	return all
}

// TestFlappingDaemonFails has a daemon that crashes again and again: it becomes failed, its connections
// are reset, health reports it, the operator gets a proposal, and a restart recovers it. The other
// daemons are not affected.
func TestFlappingDaemonFails(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress, bundle.Supervise)
	h.start()
	neighbour, address := h.status(bundle.Supervise).PID, h.status(bundle.Egress).Listen[bundle.FDEgress]
	h.setBehaviour(bundle.Egress, "lives 1ms")
	if err := h.restart(bundle.Egress); err != nil {
		t.Fatal(err)
	}
	h.waitUntil("egress has failed", func() bool { return h.status(bundle.Egress).State == string(Failed) })
	if h.status(bundle.Supervise).PID != neighbour {
		t.Error("a neighbour was touched")
	}
	if _, err := h.callPID(address); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a caller heard %v", err)
	}
	st, err := h.ctl.Status(context.Background())
	if err != nil || st.Ready {
		t.Errorf("ready %v, %v", st.Ready, err)
	}
	asked := func() (open []proposal.Proposal) {
		var all []proposal.Proposal
		if err := h.ctl.Do(context.Background(), http.MethodGet, "/proposals", nil, nil, &all); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(p proposal.Proposal) bool { return p.State != proposal.Pending })
	}
	h.waitUntil("the operator is asked", func() bool { return len(asked()) == 1 })
	if p := asked()[0]; p.Kind != proposal.Fault || p.Daemon != bundle.Egress || !strings.Contains(p.Why, "9 times") {
		t.Errorf("%+v", p)
	}
	h.setBehaviour(bundle.Egress, "")
	if err := h.restart(bundle.Egress); err != nil {
		t.Fatal(err)
	}
	if pid, err := h.callPID(address); err != nil || pid != h.status(bundle.Egress).PID {
		t.Errorf("after the restart: %d, %v", pid, err)
	}
	h.waitUntil("the question is closed", func() bool { return len(asked()) == 0 })
}

// TestCallersWaitForTheNextProcess connects while a daemon is down for a short time.
func TestCallersWaitForTheNextProcess(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.start()
	d := h.status(bundle.Egress)
	h.setBehaviour(bundle.Egress, "slow 300ms")
	if err := syscall.Kill(d.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.waitUntil("egress is down", func() bool { return h.status(bundle.Egress).PID != d.PID })
	pid, err := h.callPID(d.Listen[bundle.FDEgress])
	if err != nil || pid == d.PID {
		t.Errorf("the caller got %d (the old one was %d), %v", pid, d.PID, err)
	}
}

// TestFailedReplacementKeepsTheOldProcess has a successor that exits and one that hangs.
func TestFailedReplacementKeepsTheOldProcess(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.setBehaviour(bundle.Egress, "good")
	h.start()
	before := h.status(bundle.Egress)
	for _, bad := range []struct{ how, want string }{{"fails 2", "before it was ready (code 2)"}, {"hangs", "not ready within"}} {
		h.setBehaviour(bundle.Egress, bad.how)
		err := h.restart(bundle.Egress)
		if err == nil || !strings.Contains(err.Error(), "config rejected") || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", bad.how, err)
		}
		after := h.status(bundle.Egress)
		if after.PID != before.PID || after.Digest != "digest-of-good" || !strings.Contains(after.Error, bad.want) {
			t.Errorf("%s: %+v", bad.how, after)
		}
		if pid, err := h.callPID(before.Listen[bundle.FDEgress]); err != nil || pid != before.PID {
			t.Errorf("%s: served by %d, %v", bad.how, pid, err)
		}
	}
}

// TestRepeatedSignalsCauseOneReplacement sends many signals during a replacement: they cause exactly one
// more.
func TestRepeatedSignalsCauseOneReplacement(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Pipelock)
	h.setBehaviour(bundle.Pipelock, "slow 500ms")
	h.start()
	h.signal(syscall.SIGUSR1)
	h.waitUntil("the replacement has begun", func() bool { return h.status(bundle.Pipelock).State == string(Replacing) })
	for range 30 {
		h.signal(syscall.SIGUSR1)
	}
	if err := h.restart(bundle.Pipelock); err != nil { // the same one more
		t.Fatal(err)
	}
	if d := h.status(bundle.Pipelock); d.Generation != 3 || d.State != string(Ready) {
		t.Errorf("generation %d, %s", d.Generation, d.State)
	}
}

// TestInheritedSocketIsServed passes a socket as systemd does: it is served, also after a restart, and
// no other is bound.
func TestInheritedSocketIsServed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	h := newTestSupervisor(t, bundle.Egress)
	h.cmd.ExtraFiles = []*os.File{file}
	h.cmd.Env = append(h.cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES="+bundle.FDEgress)
	h.start()
	l.Close()
	file.Close()
	for range 2 {
		d := h.status(bundle.Egress)
		if got := d.Listen[bundle.FDEgress]; got != address {
			t.Errorf("egress serves %s, not %s", got, address)
		}
		// The previous process may accept a connection until it has closed its socket.
		h.waitUntil("the newest process serves", func() bool {
			pid, err := h.callPID(address)
			if err != nil {
				t.Fatal(err)
			}
			return pid == d.PID
		})
		if err := h.restart(bundle.Egress); err != nil {
			t.Error(err)
		}
	}
}

// TestSecondSupervisorIsRefused starts a second supervisor on the same folder.
func TestSecondSupervisorIsRefused(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.start()
	second := exec.Command(h.cmd.Path)
	second.Args, second.Env = h.cmd.Args, h.cmd.Env
	out, err := second.CombinedOutput()
	if err == nil || second.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "another supervisor runs on "+h.dirs.Run) {
		t.Errorf("%v: %s", err, out)
	}
	if d := h.status(bundle.Egress); d.State != string(Ready) || d.Generation != 1 {
		t.Errorf("%+v", d)
	}
}

// TestPipeInPlaceOfAFileDoesNotBlock has a FIFO in place of a configuration.
func TestPipeInPlaceOfAFileDoesNotBlock(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.start()
	file := h.dirs.File(bundle.Egress)
	if err := errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
	// The fake daemon would wait for the pipe by itself: it is the supervisor that must not.
	if _, err := h.ctl.Status(context.Background()); err != nil {
		t.Error(err)
	}
	go func() { _ = h.restart(bundle.Egress) }() // it is answered by the end
	h.waitUntil("the replacement has begun", func() bool { return h.status(bundle.Egress).State == string(Replacing) })
	h.signal(syscall.SIGTERM)
	if code := h.waitExit(); code != 0 {
		t.Errorf("code %d", code)
	}
}

// TestReloadSignalsEgressAndReplacesOthers also reloads egress after a failed replacement.
func TestReloadSignalsEgressAndReplacesOthers(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress, bundle.Supervise)
	h.start()
	h.setBehaviour(bundle.Egress, "fails 1")
	if err := h.restart(bundle.Egress); err == nil {
		t.Error("not rejected")
	}
	for name, generation := range map[string]int{bundle.Egress: 1, bundle.Supervise: 2} {
		if err := h.reload(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := h.status(name); d.Generation != generation || d.LastExit != "" && name == bundle.Egress {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if got := h.status(bundle.Egress).Digest; got != "digest-after-reload" {
		t.Error(got)
	}
}

// TestInheritedFilesDoNotReachDaemons has a parent that leaves a descriptor open.
func TestInheritedFilesDoNotReachDaemons(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	secret, err := os.Create(filepath.Join(t.TempDir(), "of-the-parent"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	h.cmd.ExtraFiles = make([]*os.File, 20)
	h.cmd.ExtraFiles[19] = secret
	h.start()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.status(bundle.Egress).PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && to == secret.Name() {
			t.Errorf("egress has %s", f)
		}
	}
}

// TestSlowDaemonDoesNotDelayOthersStop checks that the others still get time to drain.
func TestSlowDaemonDoesNotDelayOthersStop(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress, bundle.Supervise)
	h.setBehaviour(bundle.Supervise, "deaf")
	h.start()
	pid := h.status(bundle.Egress).PID
	h.signal(syscall.SIGTERM)
	h.waitUntil("egress has ended before the grace is over", func() bool { return syscall.Kill(pid, 0) != nil })
	if code := h.waitExit(); code != 0 {
		t.Errorf("code %d", code)
	}
}

// TestOtherSignalsAreIgnored sends signals that the supervisor does not handle.
func TestOtherSignalsAreIgnored(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Egress)
	h.start()
	before := h.status(bundle.Egress)
	for _, sig := range []syscall.Signal{syscall.SIGUSR2, syscall.SIGURG, syscall.SIGPROF, syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGCONT, syscall.SIGIO, syscall.SIGVTALRM, syscall.SIGPWR} {
		h.signal(sig)
	}
	if after := h.status(bundle.Egress); after.PID != before.PID || after.State != string(Ready) {
		t.Errorf("%+v", after)
	}
	h.signal(syscall.SIGQUIT)
	if code := h.waitExit(); code != 0 {
		t.Errorf("code %d", code)
	}
}

// TestRealProcessesUnderRandomEvents runs the events of the model against real processes. At the end all
// daemons must serve, and no process may be left after the stop.
func TestRealProcessesUnderRandomEvents(t *testing.T) {
	t.Parallel()
	h := newTestSupervisor(t, bundle.Daemons()...)
	h.start()
	dice := rand.New(rand.NewPCG(7, 7))
	hows := []string{"", "", "slow 30ms", "slow 200ms", "deaf", "lives 20ms", "lives 300ms", "fails 1", "fails 255"}
	var asked sync.WaitGroup
	for range 150 {
		name := bundle.Daemons()[dice.IntN(4)]
		h.setBehaviour(name, hows[dice.IntN(len(hows))])
		switch dice.IntN(5) {
		case 0:
			h.signal(syscall.SIGUSR1)
		case 1:
			h.signal(syscall.SIGCHLD)
		case 2:
			if pid := h.status(name).PID; pid != 0 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
		default:
			asked.Go(func() { _ = h.restart(name) }) // what it says is of no concern: that it says something is
		}
		time.Sleep(time.Duration(dice.IntN(40)) * time.Millisecond) // events are not in step with anything
	}
	asked.Wait()
	for _, name := range bundle.Daemons() {
		h.setBehaviour(name, "")
	}
	for _, name := range bundle.Daemons() {
		h.waitUntil(name+" is restarted", func() bool { return h.restart(name) == nil })
	}
	h.waitUntil("nothing drains", func() bool {
		st, err := h.ctl.Status(context.Background())
		return err == nil && st.Ready && !slices.ContainsFunc(st.Daemons, func(d control.Daemon) bool { return d.Draining > 0 || d.State != string(Ready) })
	})
	if n := len(lab.Children(h.cmd.Process.Pid)); n != 4 {
		t.Errorf("%d children", n)
	}
	h.signal(syscall.SIGTERM)
	if code := h.waitExit(); code != 0 {
		t.Errorf("code %d", code)
	}
	if left := leftovers(t, h); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
