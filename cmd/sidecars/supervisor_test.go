package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/confine"
	"airlock/internal/control"
	"airlock/internal/lab"
)

func (b *running) status(name string) control.Daemon {
	b.t.Helper()
	st, err := b.ctl.Status(context.Background())
	must(b.t, err)
	d, ok := st.Find(name)
	if !ok {
		b.t.Fatalf("no daemon %s in the status", name)
	}
	return d
}

// eventually asks until the answer is yes. It sleeps between two questions to
// a process that has no way of telling by itself.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func TestEveryDaemonServes(t *testing.T) {
	b := start(t, nil)
	st, err := b.ctl.Status(context.Background())
	must(t, err)
	if !st.Ready || len(st.Daemons) != 4 {
		t.Fatalf("ready %v with %d daemons", st.Ready, len(st.Daemons))
	}
	for _, d := range st.Daemons {
		data, err := os.ReadFile(b.dirs.File(d.Name))
		must(t, err)
		if d.State != "ready" || d.Digest != config.Digest(data) || d.Generation != 1 {
			t.Errorf("%s: state %s, generation %d, digest of its file: %v", d.Name, d.State, d.Generation, d.Digest == config.Digest(data))
		}
	}
}

func TestSecretsReachOnlyWhoNeedsThem(t *testing.T) {
	sent := make(chan string, 1)
	b := start(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent <- r.Header.Get("Authorization") }), "GIT_TOKEN_0=git-credential-of-the-test", "HTTPS_PROXY=http://127.0.0.1:1", "OTHER=of no concern")
	pids := map[string]int{"supervisor": b.cmd.Process.Pid}
	for _, name := range bundle.Daemons() {
		pids[name] = b.status(name).PID
	}
	for name, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if os.Getuid() != 0 {
			if !errors.Is(err, os.ErrPermission) {
				t.Errorf("the environment of %s is open to its user: %v", name, err)
			}
			continue
		}
		must(t, err)
		env := string(data)
		daemon := name != "supervisor"
		for _, c := range []struct {
			what string
			has  bool
			want bool
		}{
			{"the web credential", strings.Contains(env, b.token), false},
			{"the git credential", strings.Contains(env, "git-credential-of-the-test"), false},
			{"the digest of the credential", strings.Contains(env, "EGRESS_DIGEST_0="), false},
			{"a descriptor of secrets", strings.Contains(env, "SECRETS_FD="), daemon && name != "supervise"},
			{"a proxy variable", strings.Contains(env, "HTTPS_PROXY"), !daemon},
			{"what is of no concern", strings.Contains(env, "OTHER="), !daemon},
		} {
			if c.has != c.want {
				t.Errorf("%s has %s: %v, want %v", name, c.what, c.has, c.want)
			}
		}
		// egress looks for it, and so has it in many forms. The supervisor's own
		// is in memory that nobody can read; only the C library of a build with
		// the race detector keeps a copy of the environment to itself.
		if name != "egress" && (daemon || !confine.Race) {
			places, err := lab.InMemory(pid, b.token)
			must(t, err)
			if len(places) > 0 {
				t.Errorf("the web credential is in the memory of %s: %v", name, places)
			}
		}
	}
	if status, body := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if got := lab.Receive(t, sent, "the request arrives"); got != "Bearer "+b.token {
		t.Errorf("the origin was sent %q", got)
	}
}

func TestReloadOfEgress(t *testing.T) {
	b := start(t, nil)
	target := b.url("new.ok.test", "/")
	if status, _ := b.get(target); status != 403 {
		t.Fatalf("before: %d", status)
	}
	more := fmt.Sprintf("  - host: new.ok.test:%d\n", b.origin.Port())
	b.write("pipelock.yaml", b.pipelockYAML(fmt.Sprintf("  - new.ok.test:%d\n", b.origin.Port())))
	b.write("egress.yaml", b.egressYAML(more))
	must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
	must(t, b.cmd.Process.Signal(syscall.SIGHUP))
	want := config.Digest([]byte(b.egressYAML(more)))
	eventually(t, "egress and pipelock run the new files", func() bool {
		return b.status("egress").Digest == want && b.status("pipelock").Generation == 2
	})
	if status, body := b.get(target); status != 200 {
		t.Errorf("after: %d %s", status, body)
	}
}

func TestBadFilesChangeNothing(t *testing.T) {
	b := start(t, nil)
	egress, lock := b.status("egress"), b.status("pipelock")
	b.write("egress.yaml", "version: 1\nroutes: [{hots: x}]\n")
	b.write("pipelock.yaml", "version: 1\nallow: ['*.com']\n")
	ctx := context.Background()
	for _, c := range []struct{ path, daemon, wants string }{
		{"/reload", "egress", "egress.yaml:2: unknown key hots"},
		{"/restart", "pipelock", "config rejected: " + b.dirs.File("pipelock") + ":2: pattern"},
	} {
		err := b.ctl.Do(ctx, http.MethodPost, c.path, map[string][]string{"daemon": {c.daemon}}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), c.wants) {
			t.Errorf("%s: %v", c.daemon, err)
		}
		if got := b.status(c.daemon).Error; got == "" {
			t.Errorf("%s: the status does not say what is wrong", c.daemon)
		}
	}
	if b.status("egress").PID != egress.PID || b.status("pipelock").PID != lock.PID {
		t.Error("a process was replaced")
	}
	if status, body := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("the old rules do not serve: %d %s", status, body)
	}
}

// TestReplacementUnderLoad is invariant 8.
func TestReplacementUnderLoad(t *testing.T) {
	b := start(t, nil)
	session := b.connectMCP()
	others := map[string]int{}
	for _, name := range []string{"egress", "git-gate", "supervise"} {
		others[name] = b.status(name).PID
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var failures sync.Map
	var done [4]atomic.Int64
	for i := range 4 {
		client := b.client(b.egress)
		group.Go(func() {
			for ctx.Err() == nil {
				req, err := http.NewRequest(http.MethodPost, b.url("api.ok.test", "/v1/x"), strings.NewReader("a body that cannot be sent twice"))
				if err == nil {
					var res *http.Response
					if res, err = client.Do(req); err == nil {
						res.Body.Close()
						if res.StatusCode != 200 {
							err = fmt.Errorf("status %d", res.StatusCode)
						}
					}
				}
				if err != nil {
					failures.Store(i, err)
					return
				}
				done[i].Add(1)
			}
		})
	}
	for n := 2; n <= 6; n++ {
		must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
		eventually(t, "a new generation", func() bool { return b.status("pipelock").Generation >= n })
		for i := range done {
			before := done[i].Load()
			eventually(t, "every client goes on", func() bool {
				_, failed := failures.Load(i)
				return failed || done[i].Load() > before
			})
		}
	}
	cancel()
	group.Wait()
	failures.Range(func(k, v any) bool { t.Errorf("client %v: %v", k, v); return true })
	for name, pid := range others {
		if b.status(name).PID != pid {
			t.Errorf("%s was touched", name)
		}
	}
	if _, err := session.ListTools(context.Background(), nil); err != nil {
		t.Errorf("the MCP session did not live on: %v", err)
	}
}

func TestCrashedDaemonComesBack(t *testing.T) {
	b := start(t, nil)
	before := b.status("egress")
	others := b.status("supervise").PID
	must(t, syscall.Kill(before.PID, syscall.SIGKILL))
	eventually(t, "egress is back", func() bool { d := b.status("egress"); return d.State == "ready" && d.PID != before.PID })
	if got := b.status("egress"); got.LastExit != "signal SIGKILL" || got.Restarts != 1 {
		t.Errorf("status after a crash: last exit %q, restarts %d", got.LastExit, got.Restarts)
	}
	if b.status("supervise").PID != others {
		t.Error("a neighbour was touched")
	}
	if status, _ := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("status %d", status)
	}
}

// TestPipelockDown is invariant 9: with pipelock stopped nothing gets out.
func TestPipelockDown(t *testing.T) {
	b := start(t, nil)
	must(t, syscall.Kill(b.status("pipelock").PID, syscall.SIGSTOP))
	before := b.origin.Dials()
	c := b.client(b.egress)
	c.Timeout = time.Second
	if res, err := c.Get(b.url("api.ok.test", "/v1/x")); err == nil {
		res.Body.Close()
		if res.StatusCode == 200 {
			t.Error("a request passed")
		}
	}
	if b.origin.Dials() != before {
		t.Error("somebody dialled the origin")
	}
	must(t, syscall.Kill(b.status("pipelock").PID, syscall.SIGCONT))
}

func TestStop(t *testing.T) {
	b := start(t, nil)
	pids := map[string]int{}
	for _, name := range []string{"pipelock", "egress", "git-gate", "supervise"} {
		pids[name] = b.status(name).PID
	}
	b.stop(syscall.SIGTERM)
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d after a clean stop", code)
	}
	for name, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("%s is left over", name)
		}
	}
	var order []string
	for l := range b.output.wait {
		if _, name, ok := strings.Cut(l, "] stopping "); ok {
			order = append(order, name)
		}
	}
	if got := strings.Join(order, " "); got != "supervise git-gate egress pipelock" {
		t.Errorf("they were stopped in the order %s", got)
	}
}

func TestChildrenDieWithTheirSupervisor(t *testing.T) {
	b := start(t, nil)
	pid := b.status("pipelock").PID
	b.stop(syscall.SIGKILL)
	eventually(t, "pipelock is gone too", func() bool { return syscall.Kill(pid, 0) != nil })
}

func (b *running) supervisor() control.Status {
	b.t.Helper()
	st, err := b.ctl.Status(context.Background())
	must(b.t, err)
	return st
}

// TestOrphansAreBuried runs the supervisor as PID 1 of a namespace in which
// others leave 10,000 orphans.
func TestOrphansAreBuried(t *testing.T) {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	enter := []string{"-p"}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		enter = append(enter, "-U", "--preserve-credentials")
	}
	b := prepare(t, nil)
	b.attr = attr
	b.run()
	pid := b.cmd.Process.Pid
	before := b.supervisor()
	enter = append(enter, "-t", fmt.Sprint(pid), "sh", "-c", "for i in $(seq 5000); do (true & true &); done; (sleep 0.2 &)")
	out, err := exec.Command("nsenter", enter...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, "only the daemons are left", func() bool {
		return len(lab.Children(pid)) == 4
	})
	if st := b.supervisor(); !st.Ready || st.PID != 1 || st.RSS > before.RSS+8<<20 {
		t.Errorf("ready %v, pid %d, memory %d, before %d", st.Ready, st.PID, st.RSS, before.RSS)
	}
	for _, name := range []string{"egress", "pipelock", "git-gate", "supervise"} {
		if d := b.status(name); d.Restarts != 0 || d.LastExit != "" {
			t.Errorf("%s: restarts %d, last exit %q", name, d.Restarts, d.LastExit)
		}
	}
	b.stop(syscall.SIGTERM)
	if code := b.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func (b *running) connectMCP() *mcp.ClientSession {
	b.t.Helper()
	client := mcp.NewClient(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	session, err := client.Connect(context.Background(), &mcp.StreamableClientTransport{Endpoint: "http://" + b.mcp + "/mcp"}, nil)
	must(b.t, err)
	b.t.Cleanup(func() { session.Close() })
	return session
}

// TestAskAndBeAnswered is an MCP client that asks and an operator who answers.
func TestAskAndBeAnswered(t *testing.T) {
	b := start(t, nil)
	session := b.connectMCP()
	ctx := context.Background()
	tools, err := session.ListTools(ctx, nil)
	must(t, err)
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	if got := strings.Join(names, " "); got != "ask_operator list_access proposal_status request_access" {
		t.Errorf("tools: %s", got)
	}
	type outcome struct {
		text string
		err  error
	}
	answered := make(chan outcome, 1)
	go func() {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "request_access", Arguments: map[string]any{
			"url": "https://NEW.ok.test/x/../y", "methods": []string{"get", "GET"}, "why": "to read\u202e y",
		}})
		o := outcome{err: err}
		if err == nil {
			o.text = res.Content[0].(*mcp.TextContent).Text
		}
		answered <- o
	}()
	var all []struct{ ID, URL, State, Why string }
	eventually(t, "the proposal is there", func() bool {
		must(t, b.ctl.Do(ctx, http.MethodGet, "/proposals", nil, nil, &all))
		return len(all) == 1
	})
	if all[0].URL != "https://new.ok.test/y" || all[0].State != "pending" || all[0].Why != "to read y" {
		t.Errorf("proposal: %+v", all[0])
	}
	answer := strings.NewReader(`{"State":"approved","Answer":"be quick"}`)
	must(t, b.ctl.Do(ctx, http.MethodPost, "/proposals/"+all[0].ID, nil, answer, nil))
	got := lab.Receive(t, answered, "an answer comes")
	if got.err != nil || !strings.Contains(got.text, "approved") || !strings.Contains(got.text, "be quick") {
		t.Errorf("the agent was told %q, %v", got.text, got.err)
	}
	if err := b.ctl.Do(ctx, http.MethodPost, "/proposals/"+all[0].ID, nil, strings.NewReader(`{"State":"denied"}`), nil); err == nil {
		t.Error("a second answer was taken")
	}
}

// TestNoSecretInTheOutput is a part of invariant 2.
func TestNoSecretInTheOutput(t *testing.T) {
	b := start(t, nil)
	leak := lab.Token()
	b.get(b.url("api.ok.test", "/v1/"+leak))
	b.get(b.url("evil.test", "/"+leak), func(r *http.Request) { r.Header.Set("Authorization", leak) })
	b.stop(syscall.SIGTERM)
	for l := range b.output.wait {
		b.output.all = append(b.output.all, l)
	}
	places := map[string]string{"output": strings.Join(b.output.all, "\n")}
	files, err := filepath.Glob(b.dirs.State + "/audit/*.jsonl")
	must(t, err)
	if len(files) < 3 {
		t.Fatalf("audit files: %v", files)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		places[f] = string(data)
	}
	for place, text := range places {
		if strings.Contains(text, leak) || strings.Contains(text, b.token) {
			t.Errorf("a secret stands in %s", place)
		}
	}
}

// TestToolsRefuseWhatTheirSchemasDoNotAllow is an MCP client that makes every
// kind of mistake.
func TestToolsRefuseWhatTheirSchemasDoNotAllow(t *testing.T) {
	b := start(t, nil)
	session := b.connectMCP()
	for _, c := range []struct {
		tool string
		args map[string]any
		want string
	}{
		{"request_access", map[string]any{"url": "https://x.test/"}, "why"},
		{"request_access", map[string]any{"url": 7, "why": "x"}, "url"},
		{"request_access", map[string]any{"url": "https://x.test/", "why": "x", "methods": "GET"}, "methods"},
		{"request_access", map[string]any{"url": "https://x.test/", "why": "x", "methods": []any{1}}, "methods"},
		{"request_access", map[string]any{"url": "https://x.test/" + strings.Repeat("a", 3000), "why": "x"}, "maxLength"},
		{"request_access", map[string]any{"url": "https://x.test/", "why": "x", "sudo": true}, "additional"},
		{"proposal_status", map[string]any{}, "id"},
	} {
		res, err := session.CallTool(context.Background(), &mcp.CallToolParams{Name: c.tool, Arguments: c.args})
		must(t, err)
		text := res.Content[0].(*mcp.TextContent).Text
		if !res.IsError || !strings.Contains(text, "input schema validation failed") || !strings.Contains(text, c.want) {
			t.Errorf("%v: error %v: %s", c.args, res.IsError, text)
		}
	}
}
