package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestLogsOnATerminal: what an agent prints is shown, and not acted upon.
func TestLogsOnATerminal(t *testing.T) {
	bin, dir := sidecarsBinary(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hostctl := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), self, args...)
		cmd.Args[0] = "hostctl"
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"), "GORACE=atexit_sleep_ms=0")
		return cmd
	}
	manifest := filepath.Join(dir, "airlock.yaml")
	text := "version: 1\nname: shown\nagent: {command: [sh, -c, 'printf \"\\033[2J\\rsidecars | forged\\n\"; sleep 1000']}\negress: {routes: []}\n"
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := hostctl("start", "-f", manifest, "--backend", "local", "--sidecars", bin).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := hostctl("stop", "shown").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	shown := func(args ...string) string {
		cmd := hostctl(append([]string{"logs", "shown"}, args...)...)
		f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		out, _ := io.ReadAll(f) // a terminal whose program has ended gives an error
		_ = cmd.Wait()          // what it printed is judged
		return string(out)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(shown(), "forged"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("expected the agent's line within 20 s, got %q", shown())
		}
	}
	if got, want := shown(), `agent    | \x1b[2J\x0dsidecars | forged`+"\r\n"; !strings.Contains(got, want) || strings.Contains(got, "\x1b") {
		t.Errorf("expected %q and no escape, got %q", want, got)
	}
	if got := shown("--raw"); !strings.Contains(got, "agent    | \x1b[2J\rsidecars | forged\r\n") {
		t.Errorf("expected the bytes as they are, got %q", got)
	}
}
