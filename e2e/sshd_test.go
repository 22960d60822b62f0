//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// sshd starts OpenSSH's server for one key on loopback.
func sshd(t *testing.T) (port int, hostKey, identity string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"host", "id"} {
		run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
	}
	run(t, "cp", filepath.Join(dir, "id.pub"), filepath.Join(dir, "authorized_keys"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %[2]s/authorized_keys\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\n", port, dir)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		run(t, "mkdir", "-p", "/run/sshd")
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "conf"))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "Server listening") {
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		lab.Receive(t, drained, "the output is read")
		_ = cmd.Wait() // it was killed
	})
	public, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(public))
	return port, fields[0] + " " + fields[1], filepath.Join(dir, "id")
}

// TestGitGateOverOpenSSH clones and pushes through git-gate to a bare
// repository behind a real sshd.
func TestGitGateOverOpenSSH(t *testing.T) {
	port, hostKey, identity := sshd(t)
	dir := t.TempDir()
	upstream := filepath.Join(dir, "upstream.git")
	run(t, "sh", "-c", fmt.Sprintf("cd %s && git init -q -b main seed && cd seed && echo one > file && git add . && git -c user.name=a -c user.email=a@b.test commit -qm one && git clone -q --bare . %s", dir, upstream))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(dir, "etc")
	run(t, "mkdir", "-p", etc+"/git")
	run(t, "cp", identity, etc+"/git/app.key")
	text := fmt.Sprintf("version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nhosts: {git.example.com: 127.0.0.1}\nrepos:\n  app: {url: 'ssh://%s@git.example.com:%d%s', identity: /etc/airlock/git/app.key, host_key: %q}\n", me.Username, port, upstream, hostKey)
	if err := os.WriteFile(filepath.Join(etc, "git-gate.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, dir, "git-gate")
	clone := filepath.Join(dir, "clone")
	mirror := "git://" + b.address(t, "git-gate", "git") + "/app.git"
	run(t, "git", "clone", "-q", mirror, clone)
	commit := func(content, message string) (string, error) {
		script := "echo \"$1\" >> file && git add . && git -c user.name=a -c user.email=a@b.test commit -qm \"$2\" && git push -q origin main"
		cmd := exec.Command("sh", "-c", script, "sh", content, message)
		cmd.Dir = clone
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	log := func() string { return run(t, "git", "--git-dir", upstream, "log", "--format=%s", "main") }
	if out, err := commit("two", "a clean one"); err != nil || !strings.Contains(log(), "a clean one") {
		t.Fatalf("a clean push: %v\n%s", err, out)
	}
	token := lab.Token()
	if out, err := commit("token = "+token, "a leak"); err == nil || !strings.Contains(out, "file:3") || strings.Contains(out, token) {
		t.Errorf("a push with a token: %v\n%s", err, strings.ReplaceAll(out, token, "THE TOKEN"))
	}
	if strings.Contains(log(), "a leak") {
		t.Error("the leak arrived upstream")
	}
	web := "http://" + b.address(t, "git-gate", "git-http") + "/app.git"
	run(t, "git", "clone", "-q", web, filepath.Join(dir, "over-http"))
}
