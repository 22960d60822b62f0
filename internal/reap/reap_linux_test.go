package reap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/lab"
)

// reaper is the one of this test process, which adopts orphans.
var reaper *Reaper

// TestMain lets the test binary be its own children.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "exit":
		code, _ := strconv.Atoi(os.Args[1]) // written below
		os.Exit(code)
	case "status":
		data, err := os.ReadFile("/proc/self/status")
		fmt.Print(string(data), err)
		os.Exit(0)
	case "hang":
		fmt.Println("here")
		select {}
	case "parent": // of a child that must die with it
		if err := beParent(); err != nil {
			fmt.Println(err)
		}
		os.Exit(1)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	reaper = New()
	go reaper.Run()
	os.Exit(m.Run())
}

func beParent() error {
	r := New()
	go r.Run()
	p, err := r.Start(command(os.Stdout, "hang"))
	if err != nil {
		return err
	}
	fmt.Println(p.PID)
	select {}
}

func command(out *os.File, argv ...string) Command {
	return Command{Path: "/proc/self/exe", Argv: argv, Attr: &syscall.ProcAttr{
		Env:   []string{"GORACE=atexit_sleep_ms=0"},
		Files: []uintptr{0, out.Fd(), 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}, Group: true}
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := reaper.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sh(script string) Command {
	c := command(os.Stderr, "sh", "-c", script)
	c.Path = "/bin/sh"
	return c
}

func TestEachStatusIsDeliveredOnce(t *testing.T) {
	for _, c := range []struct {
		command Command
		code    int
	}{
		{command(os.Stderr, "exit", "0"), 0}, {command(os.Stderr, "exit", "7"), 7},
		{sh("kill -TERM $$"), 143}, {sh("exit 255"), 255},
	} {
		var told int
		c.command.Exited = func(s syscall.WaitStatus) { told = ExitCode(s) }
		p := start(t, c.command)
		lab.Receive(t, p.reaped, "the process is reaped")
		if got := ExitCode(p.Wait()); got != c.code {
			t.Errorf("%v: code %d, want %d", c.command.Argv, got, c.code)
		}
		// Exited runs after reaped is closed; the next start takes the lock only after that.
		start(t, sh("true")).Wait()
		if told != c.code {
			t.Errorf("%v: told %d", c.command.Argv, told)
		}
	}
	if _, err := reaper.Start(Command{Path: "/nowhere", Argv: []string{"x"}, Attr: &syscall.ProcAttr{Sys: &syscall.SysProcAttr{}}}); err == nil {
		t.Error("a program that does not exist was started")
	}
}

// TestNoStatusIsStolen starts children from many goroutines while thousands of
// orphans are adopted by this process, and checks each status.
func TestNoStatusIsStolen(t *testing.T) {
	before := threads(t)
	orphans := start(t, sh("i=0; while [ $i -lt 10000 ]; do (true &); i=$((i+1)); done; exit 3"))
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for n := range 100 {
				want := (worker*100 + n) % 256
				c := sh("exit " + strconv.Itoa(want))
				if n%2 == 0 {
					c.Attr.Sys.Pdeathsig = 0 // forked without a thread of its own
				}
				p, err := reaper.Start(c)
				if err != nil {
					t.Error(err)
					return
				}
				if got := ExitCode(p.Wait()); got != want {
					t.Errorf("code %d, want %d", got, want)
				}
			}
		})
	}
	group.Wait()
	if got := ExitCode(orphans.Wait()); got != 3 {
		t.Errorf("the parent of the orphans: code %d", got)
	}
	if !reaper.WaitAll(20 * time.Second) {
		t.Fatal("children are left")
	}
	reaper.mu.Lock()
	left := len(reaper.children)
	reaper.mu.Unlock()
	if left != 0 {
		t.Errorf("%d processes are still known", left)
	}
	// Threads that the runtime made for the crowd stay; those of the children
	// do not: there were 200.
	if now := threads(t); now > before+50 {
		t.Errorf("%d threads before, %d after", before, now)
	}
}

func threads(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestPrepareRunsOnTheForkingThread checks that the child has the restrictions that Prepare put on
// the thread, and that this process has not.
func TestPrepareRunsOnTheForkingThread(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c := command(out, "status")
	c.Prepare = func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }
	start(t, c).Wait()
	child, err := os.ReadFile(out.Name())
	if err != nil || !strings.Contains(string(child), "NoNewPrivs:\t1") {
		t.Errorf("the child: %v, %s", err, child)
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil || !strings.Contains(string(own), "NoNewPrivs:\t0") {
		t.Errorf("this process: %v, %s", err, own)
	}
	c.Prepare = func() error { return fmt.Errorf("no") }
	if _, err := reaper.Start(c); err == nil {
		t.Error("started although the preparation failed")
	}
}

// TestGroupIsKilledWithItsLeader has a leader that ends before another process of its group.
func TestGroupIsKilledWithItsLeader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := sh("sleep 1000 & echo $!")
	c.Attr.Files[1] = w.Fd()
	p := start(t, c)
	w.Close()
	p.Wait()
	text := make([]byte, 20)
	n, err := r.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	// The pipe ends when the remaining process of the group does.
	if n2, err := r.Read(text[n:]); n2 != 0 || err == nil {
		t.Errorf("%d more bytes, %v", n2, err)
	}
}

func TestSignalsDoNotReachReapedProcesses(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := start(t, command(w, "hang"))
	w.Close()
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGSTOP)
	p.SignalGroup(syscall.SIGKILL)
	if got := ExitCode(p.Wait()); got != 137 {
		t.Errorf("code %d", got)
	}
	p.Signal(syscall.SIGKILL) // reaped: nothing is sent
	p.SignalGroup(syscall.SIGKILL)
}

// TestChildDiesWithItsParent checks the parent-death signal although the thread that forked the child
// is not the one that waits for it.
func TestChildDiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := command(w, "parent")
	c.Path = self
	p := start(t, c)
	w.Close()
	text := make([]byte, 100)
	n := 0
	for !strings.Contains(string(text[:n]), "here") || strings.Count(string(text[:n]), "\n") < 2 {
		more, err := r.Read(text[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += more
	}
	p.Signal(syscall.SIGKILL)
	p.Wait()
	if _, err := r.Read(text); err == nil {
		t.Errorf("the grandchild lives on: %s", text)
	}
}

// BenchmarkStart compares a start on a thread of its own with one of os/exec.
func BenchmarkStart(b *testing.B) {
	b.Run("reap", func(b *testing.B) {
		for b.Loop() {
			c := sh("exit 0")
			c.Path, c.Argv = "/bin/true", []string{"true"}
			p, err := reaper.Start(c)
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
	b.Run("fork-exec", func(b *testing.B) {
		for b.Loop() {
			c := Command{Path: "/bin/true", Argv: []string{"true"}, Attr: &syscall.ProcAttr{Sys: &syscall.SysProcAttr{}}}
			p, err := reaper.Start(c)
			if err != nil {
				b.Fatal(err)
			}
			p.Wait()
		}
	})
}
