package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/control"
)

// TestSupervisorForHostctl starts a supervisor as the local backend does: its
// input ends with the process that started it, and its output is a file that is bounded.
func TestSupervisorForHostctl(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"etc", "run", "state"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc", "supervise.yaml"), []byte("version: 1\nlisten: 127.0.0.1:0\n"), 0o600))
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	must(t, err)
	defer log.Close()
	self, err := os.Executable()
	must(t, err)
	const limit = 2000
	cmd := exec.CommandContext(t.Context(), self, "-secrets-stdin", "-end-with-stdin", "-max-log", "2000")
	cmd.Args[0] = "supervisor"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "SIDECAR_DAEMONS=supervise", "GORACE=atexit_sleep_ms=0")
	for name, d := range map[string]string{"AIRLOCK_ETC": "etc", "AIRLOCK_RUN": "run", "AIRLOCK_STATE": "state"} {
		cmd.Env = append(cmd.Env, name+"="+filepath.Join(dir, d))
		t.Setenv(name, filepath.Join(dir, d))
	}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = io.WriteString(stdin, "{}\n")
	must(t, err)
	ctl := func(args ...string) error {
		return control.Main(context.Background(), args, io.Discard, io.Discard)
	}
	eventually(t, "the sidecars serve", func() bool { return ctl("health") == nil })
	eventually(t, "the log was full", func() bool {
		must(t, ctl("restart", "supervise"))
		text, err := os.ReadFile(log.Name())
		must(t, err)
		if len(text) > limit {
			t.Fatalf("expected at most %d bytes in the log, got %d", limit, len(text))
		}
		return strings.Contains(string(text), "the log was full")
	})
	must(t, stdin.Close())
	if err := cmd.Wait(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Errorf("expected a clean end with the input, got %v:\n%s", err, text)
	}
}
