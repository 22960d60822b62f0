package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestStory plays the whole demonstration with real binaries, as whoever runs
// the tests; as root once more as an ordinary user.
func TestStory(t *testing.T) {
	bin := t.TempDir()
	if err := os.Chmod(filepath.Dir(bin), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", bin, "airlock/cmd/sidecars", "airlock/cmd/hostctl", "airlock/e2e/demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	play := func(t *testing.T, argv ...string) {
		cmd := exec.Command(argv[0], append(argv[1:], filepath.Join(bin, "demo"), "-bin", bin)...)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "GIT_CONFIG_NOSYSTEM=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	t.Run("as who runs the tests", func(t *testing.T) { play(t, "env") })
	t.Run("as an ordinary user", func(t *testing.T) {
		if os.Getuid() != 0 {
			return // it was the one above
		}
		play(t, "setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "--inh-caps=-all")
	})
}
