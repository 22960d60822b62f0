package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/hostctl/local"
	"airlock/hostctl/pair"
	"airlock/hostctl/pair/pairtest"
	"airlock/internal/lab"
)

// sidecars is the real binary, built once.
var sidecars string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if root := os.Getenv("TEST_START_IN"); root != "" {
		return startOnly(root)
	}
	if sidecars = os.Getenv("TEST_SIDECARS"); sidecars == "" {
		dir, err := os.MkdirTemp("", "sidecars")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		sidecars = filepath.Join(dir, "sidecars")
		build := exec.Command("go", "build", "-o", sidecars, "airlock/cmd/sidecars")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

func suite(t *testing.T) pairtest.Suite {
	t.Helper()
	root := t.TempDir()
	b, err := local.New(root)
	if err != nil {
		t.Fatal(err)
	}
	return pairtest.Suite{Backend: b, Root: root, Sidecars: sidecars}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestContract(t *testing.T) { suite(t).Run(t) }

// pids reads the record as a tool of the operator's would.
func pids(t *testing.T, p pair.Plan) (cage, supervisor int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.Dir, "local.json"))
	must(t, err)
	var r struct{ Cage, Supervisor struct{ PID int } }
	must(t, json.Unmarshal(data, &r))
	return r.Cage.PID, r.Supervisor.PID
}

func TestBrokenPairIsSeenAndDeleted(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "broken", "true")
	s.Create(t, p)
	cage, supervisor := pids(t, p)
	must(t, syscall.Kill(supervisor, syscall.SIGKILL))
	pairtest.Eventually(t, func() bool {
		all, err := s.Backend.List(t.Context())
		must(t, err)
		return len(all) == 1 && all[0].State == pair.Broken
	})
	must(t, s.Backend.Delete(t.Context(), p.Name))
	pairtest.Eventually(t, func() bool { return state(cage) != 'S' && state(cage) != 'R' })
	if left, _ := filepath.Glob(filepath.Join(p.Dir, "*")); len(left) != 4 {
		t.Errorf("left over, beside agent, etc, logs and state: %q", left)
	}
}

// state is 0 for a process that is gone, Z for one that nobody has waited for.
func state(pid int) byte {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	return data[bytes.LastIndexByte(data, ')')+2]
}

func TestReusedNumberIsNeverSignalled(t *testing.T) {
	s := suite(t)
	bystander := exec.Command("sleep", "1000")
	must(t, bystander.Start())
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	p := s.Plan(t, "reused", "true")
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	id := fmt.Sprintf(`{"pid": %d, "start": 1, "boot": %q}`, bystander.Process.Pid, strings.TrimSpace(string(boot)))
	must(t, os.WriteFile(filepath.Join(p.Dir, "local.json"), []byte(`{"Plan": {"Name": "reused"}, "Cage": `+id+`, "Supervisor": `+id+`}`), 0o600))
	must(t, s.Backend.Delete(t.Context(), p.Name))
	if st := state(bystander.Process.Pid); st != 'S' && st != 'R' {
		t.Errorf("the bystander is in state %q", st)
	}
}

// TestKilledStart leaves a start behind at its moments: a record that is
// empty, and one whose processes wait for word from a starter that is gone.
func TestKilledStart(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "killed", "true")
	must(t, os.WriteFile(filepath.Join(p.Dir, "local.json"), nil, 0o600))
	all, err := s.Backend.List(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].State != pair.Creating {
		t.Errorf("%+v", all)
	}
	if err := s.Backend.Start(t.Context(), p.Name); err == nil {
		t.Error("half a pair was started")
	}
	must(t, s.Backend.Delete(t.Context(), p.Name))
	s.Create(t, p)
}

// TestInterruptedStartSaysSo ends the context while the sidecars are not ready.
func TestInterruptedStartSaysSo(t *testing.T) {
	s := suite(t)
	asked := filepath.Join(t.TempDir(), "asked")
	wrapper := filepath.Join(t.TempDir(), "sidecars")
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = ctl ]; then : >%s; exit 1; fi\nexec %s \"$@\"\n", asked, sidecars)
	must(t, os.WriteFile(wrapper, []byte(script), 0o755))
	p := s.Plan(t, "interrupted", "true")
	p.Sidecars = wrapper
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Backend.Create(ctx, p) }()
	pairtest.Eventually(t, func() bool { _, err := os.Stat(asked); return err == nil })
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "not ready after") {
			t.Errorf("expected the error of the context, got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("expected the start to end within 20 s of its context")
	}
	pairtest.Eventually(t, func() bool { return len(processesOf(p)) == 0 })
}

// startOnly is hostctl in its own process, which can be killed.
func startOnly(root string) int {
	data, err := os.ReadFile(filepath.Join(root, "plan.json"))
	if err != nil {
		return 1
	}
	var p pair.Plan
	if err := json.Unmarshal(data, &p); err != nil {
		return 1
	}
	p.Secrets = map[string]string{"EGRESS_TOKEN_0": pairtest.Secret}
	b, err := local.New(root)
	if err != nil || b.Create(context.Background(), p) != nil {
		return 1
	}
	return 0
}

// TestStartKilledAtAnyMoment spreads SIGKILL over the whole of a start: what
// is left is found and removed, and no process stays.
func TestStartKilledAtAnyMoment(t *testing.T) {
	s := suite(t)
	for i := range 16 {
		p := s.Plan(t, fmt.Sprintf("moment-%d", i), "true")
		data, err := json.Marshal(p)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(s.Root, "plan.json"), data, 0o600))
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "TEST_START_IN="+s.Root)
		must(t, cmd.Start())
		after := time.AfterFunc(time.Duration(i)*12*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed, or just done
		after.Stop()
		must(t, s.Backend.Delete(t.Context(), p.Name))
		pairtest.Eventually(t, func() bool { return len(processesOf(p)) == 0 })
		if _, err := os.Stat(filepath.Join(p.Dir, "local.json")); err == nil {
			t.Errorf("moment %d: the record is still there", i)
		}
	}
}

// processesOf finds the pair's processes by their environment, their working
// folder or, for a cage, the log that it holds. Of the sidecars an ordinary
// user sees no more than their names: all that run under this user count.
func processesOf(p pair.Plan) []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		links, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		mine := bytes.Contains(env, []byte(p.Dir+"/")) || (errors.Is(err, fs.ErrPermission) && isSidecar(dir))
		for _, l := range append(links, filepath.Join(dir, "cwd")) {
			target, _ := os.Readlink(l)
			mine = mine || strings.HasPrefix(target, p.Dir+"/")
		}
		if mine {
			found = append(found, dir)
		}
	}
	return found
}

func isSidecar(dir string) bool {
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	name, _, _ := strings.Cut(string(line), "\x00")
	return strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", os.Getuid())) &&
		slices.Contains([]string{"sidecars", "pipelock", "egress", "git-gate", "supervise"}, filepath.Base(name))
}

func TestAgentSurvivesItsStarterAndDiesWithThePair(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "alive", "sh", "-c", "while true; do sleep 100; done")
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	again, err := local.New(s.Root) // nothing but the folder is known to it
	must(t, err)
	pairtest.Eventually(t, func() bool {
		code, err := again.Exec(t.Context(), p.Name, []string{"sh", "-c", "grep -q sleep /proc/[0-9]*/comm"}, pair.IO{})
		must(t, err)
		return code == 0
	})
	if len(processesOf(p)) == 0 {
		t.Error("the tests would not see what is left over")
	}
	cage, _ := pids(t, p)
	must(t, again.Delete(context.Background(), p.Name))
	if st := state(cage); st != 0 && st != 'Z' {
		t.Errorf("the cage is in state %q", st)
	}
}

func TestFollowedLogsEndWithThePair(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "follow", "sh", "-c", "echo one; echo two")
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- s.Backend.Logs(t.Context(), p.Name, true, &out) }()
	pairtest.Eventually(t, func() bool {
		data, _ := os.ReadFile(filepath.Join(p.Logs(), "agent.log"))
		return strings.Contains(string(data), "two")
	})
	must(t, s.Backend.Delete(t.Context(), p.Name))
	must(t, lab.Receive(t, done, "what runs beside the test ends"))
	for _, want := range []string{"agent    | one\n", "agent    | two\n", "sidecars | "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

// TestBoundWorkspaceOfAnotherUser: what root binds belongs to somebody, and the
// agent works on it as that user would.
func TestBoundWorkspaceOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has another user's folder to bind")
	}
	s := suite(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "theirs"), []byte("old"), 0o600))
	must(t, os.Chown(filepath.Join(dir, "theirs"), 12345, 12346))
	must(t, os.Chown(dir, 12345, 12346))
	must(t, os.Chmod(dir, 0o700))
	p := s.Plan(t, "bound", "true")
	p.Agent.Workspace = pair.Workspace{Path: dir, Mode: pair.Bind}
	s.Create(t, p)
	if code, out := s.Sh(t, p.Name, "cat theirs && echo new >ours && ls -ln ours | cut -d' ' -f3,4"); code != 0 || out != "old1000 1000" {
		t.Errorf("code %d, %q", code, out)
	}
	info, err := os.Stat(filepath.Join(dir, "ours"))
	must(t, err)
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 12345 || st.Gid != 12346 {
		t.Errorf("the new file belongs to %d:%d", st.Uid, st.Gid)
	}
}

func TestPlaceThatIsNotAsPromisedIsRefused(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "refused", "true")
	p.Daemons = []string{"supervise"}
	s.Create(t, p)
	b := s.Backend.(*local.Backend)
	must(t, b.ProbeAs(t, p.Name, "supervise"))
	if err := b.ProbeAs(t, p.Name, "supervise", "egress"); err == nil || !strings.Contains(err.Error(), "OPEN wanted egress:9099") {
		t.Errorf("got %v", err)
	}
}

func TestAgentIsAskedBeforeItIsKilled(t *testing.T) {
	s := suite(t)
	p := s.Plan(t, "asked", "sh", "-c", "trap 'echo saved >/workspace/state; exit' TERM; echo up; while :; do sleep 0.01; done")
	p.Agent.Workspace = pair.Workspace{Path: t.TempDir(), Mode: pair.Bind}
	must(t, os.Chmod(p.Agent.Workspace.Path, 0o777))
	s.Create(t, p)
	must(t, s.Backend.Start(t.Context(), p.Name))
	pairtest.Eventually(t, func() bool {
		data, _ := os.ReadFile(filepath.Join(p.Logs(), "agent.log"))
		return strings.Contains(string(data), "up")
	})
	must(t, s.Backend.Delete(t.Context(), p.Name))
	if data, err := os.ReadFile(filepath.Join(p.Agent.Workspace.Path, "state")); string(data) != "saved\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestAsOrdinaryUser runs the other tests again as one, when we are root.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("we are one")
	}
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	exe, err := os.Executable()
	must(t, err)
	tmp := filepath.Join(dir, "tmp")
	must(t, os.Mkdir(tmp, 0o700))
	must(t, os.Chown(tmp, 1001, 1001))
	for name, path := range map[string]string{"test": exe, "sidecars": sidecars} {
		data, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o755))
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.v", fmt.Sprintf("-test.short=%t", testing.Short()), "-test.skip=TestAsOrdinaryUser")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp, "TEST_SIDECARS="+filepath.Join(dir, "sidecars"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1001, Gid: 1001}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
