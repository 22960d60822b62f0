package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
)

// TestGitGateKilledAtAnyMoment kills git-gate in the middle of pushes. The next one starts on what is left: upstream and mirror agree, and git finds
// nothing wrong with either.
func TestGitGateKilledAtAnyMoment(t *testing.T) {
	lab.Long(t)
	root := t.TempDir()
	server, err := lab.NewGitSSH(root)
	must(t, err)
	t.Cleanup(func() { server.Close() })
	p := &pusher{running: &running{t: t}, server: server}
	p.git(root, "init", "-q", "--bare", "-b", "main", "app.git")
	etc, work := t.TempDir(), filepath.Join(t.TempDir(), "w")
	must(t, os.WriteFile(etc+"/app.key", server.Identity(), 0o600))
	port := freePort(t)
	must(t, os.WriteFile(etc+"/git-gate.yaml", fmt.Appendf(nil, "version: 1\nlisten: {git: '127.0.0.1:%d', http: '127.0.0.1:0'}\nhosts: {upstream.test: 127.0.0.1}\nrepos:\n  app: {url: '%s', identity: %s/app.key, host_key: '%s'}\n",
		port, server.URL("upstream.test", "app"), etc, server.HostKey()), 0o600))
	remote := fmt.Sprintf("git://127.0.0.1:%d/app.git", port)
	gate := startGate(t, etc, port)
	p.git("", "clone", "-q", remote, work)
	noise := make([]byte, 1<<20)
	for i := range 8 {
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(noise)
		must(t, os.WriteFile(filepath.Join(work, fmt.Sprintf("f%d", i)), noise, 0o600))
		p.git(work, "add", "-A")
		p.git(work, "commit", "-q", "-m", "change")
		push := exec.Command("git", "-C", work, "push", "-q", "origin", fmt.Sprintf("HEAD:refs/heads/b%d", i), "HEAD:refs/heads/main")
		must(t, push.Start())
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond) // any moment
		_ = gate.Process.Kill()
		_ = gate.Wait()
		_ = push.Wait() // whether it went through is what the next one must know
		gate = startGate(t, etc, port)
		mirror := filepath.Join(etc, "git", "app.git")
		eventually(t, "upstream and mirror agree", func() bool { // upstream may still be taking the push of the gate that was killed
			p.git(work, "fetch", "-q", "--prune")
			return p.git(server.Dir("app"), "for-each-ref") == p.git(mirror, "for-each-ref")
		})
		for _, dir := range []string{mirror, server.Dir("app")} {
			if out, err := p.try(dir, "fsck", "--full", "--strict"); err != nil || strings.Contains(out, "garbage") {
				t.Errorf("fsck: %v, %s", err, out)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(mirror, "quarantine", "*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	p.git(work, "push", "-q", "origin", "HEAD:refs/heads/main")
	_ = gate.Process.Kill()
	_ = gate.Wait()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startGate runs git-gate alone, and returns when its port answers.
func startGate(t *testing.T, dir string, port int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Args = []string{"git-gate"}
	cmd.Env = append(os.Environ(), "AIRLOCK_ETC="+dir, "AIRLOCK_RUN="+dir, "AIRLOCK_STATE="+dir)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			conn.Close()
			return cmd
		}
	}
	t.Fatal("git-gate does not answer")
	return nil
}
