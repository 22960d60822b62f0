package confine

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// under runs f on a thread that is confined and then ends, and returns its
// error.
func under(t *testing.T, p Profile, f func() error) error {
	t.Helper()
	done := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // not the main one, which cannot end
			defer runtime.UnlockOSThread()
			go run()
			done <- <-done
			return
		}
		_, err := p.Apply()
		if err == nil {
			err = f()
		}
		done <- err
	}
	go run()
	return <-done
}

func raw(nr, a, b, c, d uintptr) error {
	if _, _, e := unix.RawSyscall6(nr, a, b, c, d, 0, 0); e != 0 {
		return e
	}
	return nil
}

func TestCalls(t *testing.T) {
	for _, c := range []struct {
		what string
		p    Profile
		call func() error
		want error
	}{
		{"a plain call", Profile{}, func() error { return raw(unix.SYS_GETPPID, 0, 0, 0, 0) }, nil},
		{"one that is not listed", Profile{}, func() error { return raw(unix.SYS_ACCT, 0, 0, 0, 0) }, unix.EPERM},
		{"one that is younger than the list", Profile{}, func() error { return raw(newest+1, 0, 0, 0, 0) }, unix.ENOSYS},
		{"clone3", Profile{}, func() error { return raw(unix.SYS_CLONE3, 0, 0, 0, 0) }, unix.ENOSYS},
		{"a connection in passing", Profile{Inet: true}, func() error { return raw(unix.SYS_SENDTO, 99, 0, 0, unix.MSG_FASTOPEN) }, unix.EPERM},
		{"a message to nowhere", Profile{Inet: true}, func() error { return raw(unix.SYS_SENDTO, 99, 0, 0, 0) }, unix.EBADF},
		{"connect without sockets", Profile{}, func() error { return raw(unix.SYS_CONNECT, 99, 0, 0, 0) }, unix.EPERM},
		{"connect", Profile{Unix: true}, func() error { return raw(unix.SYS_CONNECT, 99, 0, 0, 0) }, unix.EBADF},
		{"its own limits", Profile{}, func() error { return raw(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_CORE, 0, 0) }, nil},
		{"those of others", Profile{}, func() error { return raw(unix.SYS_PRLIMIT64, uintptr(os.Getppid()), unix.RLIMIT_CORE, 0, 0) }, unix.EPERM},
		{"memory to execute", Profile{}, func() error { return raw(unix.SYS_MMAP, 0, 4096, unix.PROT_EXEC, 0) }, unix.EPERM},
	} {
		if err := under(t, c.p, c.call); err != c.want {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

// TestUnreachablePaths: what cannot be reached is not allowed, and keeps
// nothing from starting.
func TestUnreachablePaths(t *testing.T) {
	if LandlockVersion() == 0 {
		t.Skip("there is no Landlock here")
	}
	closed := filepath.Join(t.TempDir(), "closed")
	open := filepath.Join(t.TempDir(), "open")
	for _, d := range []string{closed, open} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(closed, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(closed, 0o700)
	p := Profile{Read: []string{"/nowhere", filepath.Join(closed, "file"), filepath.Join(open, "file", "below"), filepath.Join(open, "file")}}
	look := func(path string) error {
		return under(t, p, func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			return f.Close()
		})
	}
	if err := look(filepath.Join(open, "file")); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	if err := look(filepath.Join(closed, "file")); !errors.Is(err, os.ErrPermission) {
		t.Errorf("what is closed: %v", err)
	}
}
