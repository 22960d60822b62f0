//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// asOrdinaryUser are the packages whose tests must hold without root, too:
// what forks, confines, supervises and holds secrets.
var asOrdinaryUser = []string{"internal/reap", "internal/pid1", "internal/confine", "internal/secretmem", "supervisor", "cmd/sidecars"}

// TestAsOrdinaryUser runs those tests as uid 65534, from a static build as the
// product is. That root's own run of them is "make test" goes without saying.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this is no root: make test is what runs as an ordinary user")
	}
	house, err := os.MkdirTemp("", "ordinary-*") // t.TempDir lies below a folder that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(house) })
	if err := os.CopyFS(filepath.Join(house, "docs"), os.DirFS("../docs")); err != nil {
		t.Fatal(err)
	}
	for _, pkg := range asOrdinaryUser {
		t.Run(pkg, func(t *testing.T) {
			dir := filepath.Join(house, pkg)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS(filepath.Join("..", pkg, "testdata"))); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			test := filepath.Join(house, filepath.Base(pkg)+".test")
			build := exec.Command("go", "test", "-c", "-o", test, "airlock/"+pkg)
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			chown(t, house)
			run := exec.Command(test, "-test.timeout=10m")
			run.Dir = dir
			run.Env = append(os.Environ(), "HOME="+house, "TMPDIR="+house)
			run.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := run.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, bytes.TrimSpace(out))
			}
		})
	}
}

// chown gives a folder and all in it to the ordinary user.
func chown(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 65534, 65534)
	})
	if err != nil {
		t.Fatal(err)
	}
}
