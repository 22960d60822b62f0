package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSignalsEndAStartThatWaits: a pipe lies where a credential is read, and
// one in the workspace; each signal ends hostctl, and nothing is left.
func TestSignalsEndAStartThatWaits(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		dir := t.TempDir()
		for _, pipe := range []string{"credential", "work/pipe"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, pipe)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mkfifo(filepath.Join(dir, pipe), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		manifest := filepath.Join(dir, "airlock.yaml")
		text := "version: 1\nname: waits\nagent: {command: [sh], workspace: {path: work, mode: copy}}\n" +
			"egress: {routes: [{host: api.example.com, auth: {type: bearer, from: \"file:credential\"}}]}\n"
		if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := exec.CommandContext(t.Context(), self, "start", "-f", manifest, "--backend", "local")
		cmd.Args[0] = "hostctl"
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The other side of the pipe opens as soon as hostctl waits for it.
		opened := make(chan error, 1)
		go func() {
			f, err := os.OpenFile(filepath.Join(dir, "credential"), os.O_WRONLY, 0)
			if err == nil {
				defer f.Close()
				err = cmd.Process.Signal(sig)
				<-t.Context().Done() // hostctl never gets the end of the file
			}
			opened <- err
		}()
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			t.Fatalf("expected %v to end hostctl within 20 s", sig)
		}
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "hostctl: interrupted: ") {
			t.Errorf("%v: expected exit code 1 and a reason, got %d: %s", sig, code, &out)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "state", "airlock", "pairs", "[a-z]*")); len(left) > 0 {
			t.Errorf("%v: left over: %q", sig, left)
		}
	}
}

// TestKilledRunTakesThePairAlong: hostctl is gone and undoes nothing, and yet no
// process stays.
func TestKilledRunTakesThePairAlong(t *testing.T) {
	bin, dir := sidecarsBinary(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(dir, "airlock.yaml")
	text := "version: 1\nname: killed\nagent: {command: [sh, -c, \"sleep 1000 & echo up; wait\"]}\negress: {routes: []}\n"
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "run", "-f", manifest, "--backend", "local", "--sidecars", bin)
	cmd.Args[0] = "hostctl"
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"), "GORACE=atexit_sleep_ms=0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatalf("expected the agent to say that it is up, got %v", err)
	}
	if len(processesUnder(dir)) == 0 {
		t.Fatal("the test does not see the pair's processes")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	deadline := time.Now().Add(20 * time.Second)
	for len(processesUnder(dir)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("expected no process of the pair 20 s after hostctl was killed, got %q", processesUnder(dir))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// processesUnder finds processes by what they have open and where they are.
// Root alone sees it of those that hide themselves.
func processesUnder(dir string) (found []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		links, _ := filepath.Glob(p + "/fd/*")
		for _, l := range append(links, p+"/cwd") {
			if target, _ := os.Readlink(l); strings.HasPrefix(target, dir+"/") {
				line, _ := os.ReadFile(p + "/cmdline")
				found = append(found, string(line))
				break
			}
		}
	}
	return found
}
