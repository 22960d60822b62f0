//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/ca"
	"airlock/internal/config"
	"airlock/internal/control"
)

// agentImage is a small Debian with the tools of an agent.
const agentImage = "airlock-e2e-agent:bookworm"

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needImage makes the agent's image where it is missing.
func needImage(t *testing.T) {
	t.Helper()
	if exec.Command("docker", "image", "inspect", agentImage).Run() == nil {
		return
	}
	tar := filepath.Join(t.TempDir(), "agent.tar")
	run(t, "mmdebstrap", "--variant=minbase", "--include=git,ca-certificates,curl,python3", "bookworm", tar)
	run(t, "docker", "import", tar, agentImage)
}

// engineAddress is that of the engine's default bridge, where containers find
// us.
func engineAddress(t *testing.T) string {
	t.Helper()
	bridge, err := net.InterfaceByName("docker0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := bridge.Addrs()
	if err != nil || len(addrs) == 0 {
		t.Fatalf("the engine's bridge has no address: %v", err)
	}
	return addrs[0].(*net.IPNet).IP.String()
}

// TestStory is the whole demonstration in containers.
func TestStory(t *testing.T) {
	needImage(t)
	demo := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-o", demo, "airlock/e2e/demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run(t, demo, "-bin", "../bin", "-backend", "docker", "-image", agentImage, "-address", engineAddress(t))
	if left := run(t, "docker", "ps", "-aq", "--filter", "label=airlock.pair=airlock-demo"); left != "" {
		t.Errorf("containers are left: %s", left)
	}
}

// TestImage runs the image of the Dockerfile by hand, hardened, and speaks
// with PID 1 in signals.
func TestImage(t *testing.T) {
	const image, name = "airlock-e2e-sidecars:latest", "airlock-e2e-image"
	run(t, "make", "-C", "..", "image", "IMAGE="+image)
	etc := t.TempDir()
	cert, key, err := ca.New("e2e", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, text string) {
		t.Helper()
		path := filepath.Join(etc, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const head = "version: 1\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\n"
	write("ca/ca.crt", string(cert))
	write("ca/ca.key", string(key))
	write("egress.yaml", head+"routes: []\n")
	write("pipelock.yaml", head+"allow: []\n")
	write("git-gate.yaml", "version: 1\nrepos: {}\n")
	write("supervise.yaml", "version: 1\n")
	for dir := etc; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o5 != 0o5 {
			if err := os.Chmod(dir, info.Mode()|0o5); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "-f", name).Run() })
	run(t, "docker", "run", "-d", "--name", name, "--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges",
		"--tmpfs", "/run/airlock:uid=65532,gid=65532,mode=0700", "--tmpfs", "/tmp", "--pids-limit", "512", "-v", etc+":/etc/airlock:ro", image)
	status := func() control.Status {
		t.Helper()
		var st control.Status
		out, err := exec.Command("docker", "exec", name, "/sidecars", "ctl", "status", "--json").Output()
		if err == nil {
			err = json.Unmarshal(out, &st)
		}
		if err != nil && !strings.Contains(err.Error(), "exit status") {
			t.Fatal(err)
		}
		return st
	}
	eventually(t, "the bundle is ready", func() bool { return status().Ready })
	before := status()
	if before.PID != 1 {
		t.Errorf("the supervisor is process %d", before.PID)
	}
	routes := head + "routes: [{host: api.example.com}]\n"
	write("egress.yaml", routes)
	run(t, "docker", "kill", "--signal", "HUP", name)
	run(t, "docker", "kill", "--signal", "USR1", name)
	eventually(t, "egress has the new routes and pipelock is a new process", func() bool {
		st := status()
		egress, _ := st.Find("egress")
		lock, _ := st.Find("pipelock")
		return egress.Digest == config.Digest([]byte(routes)) && lock.Generation == 2 && lock.State == "ready"
	})
	for _, d := range []string{"egress", "git-gate", "supervise"} {
		a, _ := before.Find(d)
		b, _ := status().Find(d)
		if a.PID != b.PID {
			t.Errorf("%s was touched", d)
		}
	}
	run(t, "docker", "exec", name, "/sidecars", "ctl", "health")
	run(t, "docker", "stop", "-t", "20", name)
	if code := strings.TrimSpace(run(t, "docker", "inspect", "--format", "{{.State.ExitCode}}", name)); code != "0" {
		t.Errorf("exit code %s after a clean stop\n%s", code, run(t, "docker", "logs", name))
	}
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

// TestRealTools runs what agents use, in a pair of containers.
func TestRealTools(t *testing.T) {
	needImage(t)
	dir := t.TempDir()
	manifest := fmt.Sprintf("version: 1\nname: e2e-tools\nagent: {image: %q, command: [sleep, infinity]}\n", agentImage)
	if err := os.WriteFile(filepath.Join(dir, "airlock.yaml"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	run(t, "../bin/hostctl", "start", "--backend", "docker", "-f", filepath.Join(dir, "airlock.yaml"))
	t.Cleanup(func() { _ = exec.Command("../bin/hostctl", "stop", "e2e-tools").Run() })
	for script, want := range map[string]string{
		"curl -sS -m 10 https://example.com/":                                                       `"rule":"no route"`,
		"curl -sS -m 10 -o /dev/null -w '%{http_version}' https://example.com/":                     "2",
		"python3 -c \"import urllib.request as u; u.urlopen('https://example.com/')\" 2>&1 || true": "HTTP Error 403",
		"git ls-remote https://example.com/x.git 2>&1 || true":                                      "403",
		"curl -sS -m 10 --noproxy '*' https://192.0.2.1/ 2>&1 || true":                              "curl: (7)",
		"getent hosts example.com || echo no name":                                                  "no name",
		"id -u; cat /proc/1/status | grep CapEff":                                                   "CapEff:\t0000000000000000",
		"touch /etc/x 2>&1 || true":                                                                 "Read-only file system",
		`curl -sS -m 10 "$AIRLOCK_MCP_URL" -H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream' -d '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'`: "request_access",
	} {
		out, err := exec.Command("../bin/hostctl", "exec", "e2e-tools", "--", "sh", "-c", script).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s\nwant %q", script, err, out, want)
		}
	}
}
