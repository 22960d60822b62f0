package gitgate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airlock/internal/lab"
)

// A client whose push is cut by a replacement hears that nobody knows what became of it, and how to find out.
func TestReplacementDuringThePush(t *testing.T) {
	each(t, func(t *testing.T, protocol string) {
		r := newRig(t, func(c *Config) { c.Drain = 50 * time.Millisecond })
		r.seed("main", map[string]string{"a": "1"})
		w := r.clone(protocol)
		dir := t.TempDir()
		begun, goOn := filepath.Join(dir, "begun"), filepath.Join(dir, "go-on")
		r.run(w, "mkfifo", begun, goOn)
		r.hook("pre-receive", "echo x >"+begun+"\nread line <"+goOn+"\n")
		r.commit(w, "mine", map[string]string{"b": "1"})
		told := make(chan string, 1)
		go func() {
			out, err := r.try(w, "git", "push", "origin", "HEAD:refs/heads/x")
			if err == nil {
				out = "success: " + out
			}
			told <- out
		}()
		if _, err := os.ReadFile(begun); err != nil { // returns when the hook runs
			t.Fatal(err)
		}
		r.stop()
		if out := lab.Receive(t, told, "an answer comes"); !strings.Contains(out, "git-gate is being replaced: the outcome is unknown, fetch to see") {
			t.Errorf("the client was told %q", out)
		}
		if err := os.WriteFile(goOn, []byte("x\n"), 0); err != nil {
			t.Fatal(err)
		}
	})
}

// Trouble with the gate's own files is not called upstream's, and the agent reads no path of ours.
func TestOwnTroubleIsNotUpstreams(t *testing.T) {
	r := newRig(t)
	r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.seed("main", map[string]string{"b": "1"})
	quarantine := filepath.Join(r.mirrorDir(), "quarantine")
	if err := errors.Join(os.Remove(quarantine), os.WriteFile(quarantine, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"git", "http"} {
		out := r.fails(w, []string{storeBroken}, "git", "fetch", r.url(protocol, "app"))
		if strings.Contains(out, "upstream failed") || strings.Contains(out, r.state) {
			t.Errorf("the agent was told %s", out)
		}
	}
	if err := os.Remove(quarantine); err != nil {
		t.Fatal(err)
	}
	r.edit(func(*Config) {})
	r.run(w, "git", "fetch", "-q", r.url("git", "app"))
	r.agree()
}

// A disk without room is told as that, for fetches and pushes, and who must do something about it.
func TestFullDiskIsToldAsThat(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, err = full.WriteString("x")
	m := &mirror{dir: t.TempDir(), hide: func(s string) string { return s }}
	if got := m.explain(t.Context(), err); got.Error() != diskFull || !strings.Contains(forLog(got), "/dev/full") {
		t.Errorf("fetch: %v (log: %s)", got, forLog(got))
	}
	if got := explain(err); got != diskFull {
		t.Errorf("push: %s", got)
	}
	if got := m.explain(t.Context(), errors.New("no space left on device")); got.Error() == diskFull {
		t.Error("upstream's full disk is called ours")
	}
}
