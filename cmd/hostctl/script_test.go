package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/lab"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary hostctl, beside real sidecars.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "hostctl" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// gitssh starts an ssh server on the bare repositories in the folder of the script. In the file that it is given it puts its own URL and host key
// for UPSTREAM and HOSTKEY; the client's key is written to "key". Beside it is a server of Git LFS, whose root is written to "lfs.crt".
func gitssh(ts *testscript.TestScript, _ bool, args []string) {
	server, err := lab.NewGitSSH(ts.MkAbs("."))
	ts.Check(err)
	ts.Defer(func() { server.Close() })
	ts.Check(os.WriteFile(ts.MkAbs("key"), server.Identity(), 0o600))
	ca, err := lab.NewCA()
	ts.Check(err)
	lfs := &lab.LFS{Authorization: "RemoteAuth " + lab.Token(), Signed: "by the storage"}
	origin, err := lab.NewOrigin(ca, lfs, "git.example.com")
	ts.Check(err)
	ts.Defer(origin.Close)
	ts.Check(os.WriteFile(ts.MkAbs("lfs.crt"), ca.PEM, 0o600))
	server.LFS = func(path, operation string) string {
		return fmt.Sprintf(`{"href": "https://git.example.com:%d/app/info/lfs", "header": {"Authorization": %q}}`, origin.Port(), lfs.Authorization)
	}
	text := strings.NewReplacer("UPSTREAM", server.URL("git.example.com", "app"), "HOSTKEY", server.HostKey()).Replace(ts.ReadFile(args[0]))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
	ts.Setenv("UPSTREAM", server.URL("git.example.com", "app"))
}

// sidecarsBinary builds the real sidecars.
func sidecarsBinary(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "sidecars")
	build := exec.Command("go", "build", "-o", bin, "airlock/cmd/sidecars")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// TestScripts speaks with the binary as people do, on the local backend.
func TestScripts(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "airlock/cmd/sidecars", "airlock/e2e/demo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "hostctl")); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"gitssh": gitssh},
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_STATE_HOME", filepath.Join(filepath.Dir(env.WorkDir), filepath.Base(env.WorkDir)+"-state"))
			env.Setenv("PATH", fmt.Sprintf("%s:%s", bin, env.Getenv("PATH")))
			env.Setenv("SIDECARS", filepath.Join(bin, "sidecars"))
			env.Setenv("AGENT", filepath.Join(bin, "demo"))
			env.Setenv("OUTSIDE", t.TempDir()) // of the workspace
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Defer(func() { _ = os.RemoveAll(env.Getenv("XDG_STATE_HOME")) })
			return nil
		},
	})
}
