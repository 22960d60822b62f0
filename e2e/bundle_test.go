//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/control"
)

// running is a bundle on this machine, from the binary that was built.
type running struct {
	ctl     *control.Client
	process *os.Process
}

// start runs daemons on the files in dir/etc.
func start(t *testing.T, dir, daemons string) *running {
	t.Helper()
	return startAs(t, dir, daemons, 0)
}

// startAs does it as another user, unless that is 0.
func startAs(t *testing.T, dir, daemons string, uid int) *running {
	t.Helper()
	dirs := bundle.Dirs{Etc: filepath.Join(dir, "etc"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state")}
	cmd := exec.Command("../bin/sidecars", "supervisor")
	cmd.Env = append(append(os.Environ(), dirs.Env()...), "SIDECAR_DAEMONS="+daemons)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("the supervisor ended with %v and printed:\n%s", err, &out)
		}
	})
	b := &running{control.NewClient(dirs.Control()), cmd.Process}
	eventually(t, "the bundle is ready", func() bool {
		st, err := b.ctl.Status(t.Context())
		return err == nil && st.Ready
	})
	return b
}

func (b *running) address(t *testing.T, daemon, socket string) string {
	t.Helper()
	st, err := b.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, _ := st.Find(daemon)
	return d.Listen[socket]
}
