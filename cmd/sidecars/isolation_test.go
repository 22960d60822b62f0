package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/confine"
)

// replace is how the host changes a file: a new one takes its name.
func (b *running) replace(name, text string) {
	b.t.Helper()
	b.write(name+".new", text)
	must(b.t, os.Rename(filepath.Join(b.dirs.Etc, name+".new"), filepath.Join(b.dirs.Etc, name)))
}

func TestDaemonsAreConfined(t *testing.T) {
	b := start(t, nil)
	layers, missing := "no_new_privs landlock seccomp", ""
	if confine.LandlockVersion() == 0 {
		layers, missing = "no_new_privs seccomp", "landlock"
	}
	for _, name := range bundle.Daemons() {
		d := b.status(name)
		without := strings.Join(d.Isolation.Missing, " ")
		if got := strings.Join(d.Isolation.Layers, " "); got != layers || strings.TrimSpace(strings.TrimSuffix(without, "memory")) != missing {
			t.Errorf("%s: layers %s, missing %s", name, got, without)
		}
		// Builds with C code may be without a bound.
		if bounded := d.Isolation.MemoryLimit > 0; bounded == strings.HasSuffix(without, "memory") {
			t.Errorf("%s: its memory is bounded by %q to %d", name, d.Isolation.Memory, d.Isolation.MemoryLimit)
		}
		status := procFile(t, d.PID, "status")
		for _, line := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n"} {
			if !strings.Contains(status, line) {
				t.Errorf("%s: its status has no line %q", name, line)
			}
		}
		if limits := procFile(t, d.PID, "limits"); !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max core file size 0 0 bytes") {
			t.Errorf("%s may dump core:\n%s", name, limits)
		}
	}
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	must(t, err)
	return string(data)
}

// TestReplacedFiles changes configuration as the host does. What a daemon was
// allowed to read is the file of the time of its start, so the supervisor
// opens the new one for it.
func TestReplacedFiles(t *testing.T) {
	b := start(t, nil)
	session := b.connectMCP()
	more := fmt.Sprintf("  - host: new.ok.test:%d\n", b.origin.Port())
	b.replace("egress.yaml", b.egressYAML(more))
	b.replace("pipelock.yaml", b.pipelockYAML(fmt.Sprintf("  - new.ok.test:%d\n", b.origin.Port())))
	ctx := context.Background()
	must(t, b.ctl.Do(ctx, http.MethodPost, "/restart", map[string][]string{"daemon": {"pipelock"}}, nil, nil))
	must(t, b.ctl.Do(ctx, http.MethodPost, "/reload", map[string][]string{"daemon": {"egress"}}, nil, nil))
	if got := b.status("egress").Digest; got != config.Digest([]byte(b.egressYAML(more))) {
		t.Errorf("egress runs another file: %s", b.status("egress").Error)
	}
	if status, body := b.get(b.url("new.ok.test", "/")); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "list_access"})
	must(t, err)
	if text := res.Content[0].(*mcp.TextContent).Text; !strings.Contains(text, "new.ok.test") {
		t.Errorf("the agent is shown old rules: %s", text)
	}
}

// TestOtherAuthority: egress cannot open the files of another authority, and
// says what to do.
func TestOtherAuthority(t *testing.T) {
	b := start(t, nil)
	for _, name := range []string{"ca.crt", "ca.key"} {
		data, err := os.ReadFile(filepath.Join(b.dirs.Etc, "ca", name))
		must(t, err)
		b.write("ca/other-"+name, string(data))
	}
	b.replace("egress.yaml", strings.ReplaceAll(b.egressYAML(""), "ca/ca.", "ca/other-ca."))
	ctx := context.Background()
	err := b.ctl.Do(ctx, http.MethodPost, "/reload", map[string][]string{"daemon": {"egress"}}, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "restart egress") {
		t.Errorf("%v", err)
	}
	must(t, b.ctl.Do(ctx, http.MethodPost, "/restart", map[string][]string{"daemon": {"egress"}}, nil, nil))
	if status, _ := b.get(b.url("api.ok.test", "/v1/x")); status != 200 {
		t.Errorf("status %d after the restart", status)
	}
}

// TestDaemonOutOfMemory is invariant 9: who takes too much memory ends, comes
// back, and touches nobody else.
func TestDaemonOutOfMemory(t *testing.T) {
	b := start(t, nil, "SIDECAR_MEMORY=egress=20MiB")
	before := map[string]int{}
	for _, name := range bundle.Daemons() {
		before[name] = b.status(name).PID
	}
	if kind := b.status("egress").Isolation.Memory; kind == "" {
		t.Skip("a build with C code is bounded by cgroups alone, and there are none for us")
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	eventually(t, "egress runs out of memory", func() bool {
		for range 50 {
			if c, err := net.Dial("tcp", b.egress); err == nil {
				conns = append(conns, c)
				fmt.Fprintf(c, "CONNECT api.ok.test:%d HTTP/1.1\r\nHost: x\r\nX: %s", b.origin.Port(), strings.Repeat("x", 60<<10))
			}
		}
		return b.status("egress").Restarts > 0
	})
	eventually(t, "egress is back", func() bool { return b.status("egress").State == "ready" })
	if got := b.status("egress").LastExit; !strings.Contains(got, "out of memory: its limit is 20MiB") {
		t.Errorf("last exit: %s", got)
	}
	for _, name := range []string{"pipelock", "git-gate", "supervise"} {
		if b.status(name).PID != before[name] {
			t.Errorf("%s was touched", name)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	conns = nil
	// What had come in its queue may have ended it once more.
	client := b.client(b.egress)
	eventually(t, "requests pass again", func() bool {
		res, err := client.Get(b.url("api.ok.test", "/v1/x"))
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == 200
	})
}
