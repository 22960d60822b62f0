package pid1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// TestMain makes the test binary the applet.
func TestMain(m *testing.M) {
	if os.Args[0] != "init" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
		os.Exit(m.Run())
	}
	err := Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		if err.Error() != "" {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(coded.ExitCode())
	}
	os.Exit(1)
}

func initOf(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Args = append([]string{"init"}, argv...)
	c.Stderr = os.Stderr
	return c
}

func TestExitCodes(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 2": 2, "exit 127": 127, "exit 255": 255, "kill -TERM $$": 143, "kill -KILL $$": 137, "kill -HUP $$": 129,
	} {
		c := initOf(t, "--", "sh", "-c", script)
		_ = c.Run() // the code is what counts
		if got := c.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: %d", script, got)
		}
	}
	for _, c := range []struct {
		argv []string
		code int
		says string
	}{
		{[]string{"--", "/nowhere/x"}, 127, "starting /nowhere/x: "}, {[]string{"--", "no-such-command"}, 127, "starting no-such-command: "},
		{[]string{"--", "/etc/passwd"}, 126, "permission denied"}, {[]string{"--"}, 2, "a command was wanted"}, {[]string{"-x"}, 2, "init: "},
	} {
		cmd := initOf(t, c.argv...)
		var says strings.Builder
		cmd.Stderr = &says
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != c.code || !strings.Contains(says.String(), c.says) {
			t.Errorf("%q: %d, %s", c.argv, got, &says)
		}
	}
}

// noisy prints the name of each signal that reaches it.
const noisy = `for s in HUP INT QUIT TERM USR1 USR2 ALRM CONT WINCH; do trap "echo $s" $s; done; echo $$; while :; do sleep 0.01; done`

// spoken starts an init and returns a reader of what its command prints.
func spoken(t *testing.T, argv ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	c := initOf(t, argv...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = t.TempDir()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // most have ended
		_ = c.Wait()
	})
	return c, bufio.NewScanner(out)
}

func line(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("no more lines: %v", lines.Err())
	}
	return lines.Text()
}

func TestSignalsReachTheCommand(t *testing.T) {
	for _, mode := range [][]string{{"--"}, {"-single", "--"}} {
		c, lines := spoken(t, append(mode, "sh", "-c", noisy)...)
		child, err := strconv.Atoi(line(t, lines))
		if err != nil {
			t.Fatal(err)
		}
		for sig, name := range map[syscall.Signal]string{
			syscall.SIGHUP: "HUP", syscall.SIGINT: "INT", syscall.SIGQUIT: "QUIT", syscall.SIGTERM: "TERM", syscall.SIGUSR1: "USR1",
			syscall.SIGUSR2: "USR2", syscall.SIGALRM: "ALRM", syscall.SIGCONT: "CONT", syscall.SIGWINCH: "WINCH",
		} {
			for _, silent := range []syscall.Signal{syscall.SIGURG, syscall.SIGPROF, syscall.SIGCHLD} {
				if err := c.Process.Signal(silent); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if got := line(t, lines); got != name {
				t.Errorf("%v: %s, want %s", mode, got, name)
			}
		}
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
}

// TestStop: a stop by the terminal stops both, so that a shell sees it.
func TestStop(t *testing.T) {
	c, lines := spoken(t, "--", "sh", "-c", "echo $$; exec sleep 1000")
	child, err := strconv.Atoi(line(t, lines))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Process.Signal(syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(c.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("%v, %v", status, err)
	}
	becomes(t, child, "T")
	if err := c.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	becomes(t, child, "S")
	_ = syscall.Kill(-child, syscall.SIGKILL)
}

// becomes waits for a process to be in a state.
func becomes(t *testing.T, pid int, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); state(t, pid) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the command is in state %s, not %s", state(t, pid), want)
		}
	}
}

// state is the letter of a process's state.
func state(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return rest[:1]
}

// TestLeftBehind: what the command leaves is asked to end, and has the time.
func TestLeftBehind(t *testing.T) {
	c, lines := spoken(t, "--", "sh", "-c", "mkfifo up; (trap 'echo asked; exit' TERM; echo >up; while :; do sleep 0.01; done) & read x <up; exit 5")
	if got := line(t, lines); got != "asked" {
		t.Error(got)
	}
	if lines.Scan() {
		t.Error(lines.Text())
	}
	if _ = c.Wait(); c.ProcessState.ExitCode() != 5 {
		t.Errorf("code %d", c.ProcessState.ExitCode())
	}
}

// TestOrphans runs as PID 1 of a namespace.
func TestOrphans(t *testing.T) {
	c := initOf(t, "--", "sh", "-c", `i=0; while [ $i -lt 1000 ]; do (true &); i=$((i+1)); done
		until [ $(cat /proc/1/task/*/children | wc -w) = 1 ]; do sleep 0.01; done; echo clean; exit 4`)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	// The namespace needs a /proc of its own, private to it.
	c.Args = []string{"init", "--", "sh", "-c", "mount --make-rprivate / && mount -t proc proc /proc && exec sh -c '" + strings.ReplaceAll(c.Args[4], "'", `'\''`) + "'"}
	out, err := c.Output()
	if c.ProcessState.ExitCode() != 4 || strings.TrimSpace(string(out)) != "clean" {
		t.Errorf("%v: %q", err, out)
	}
}

// TestTerminal: the command gets the terminal, with job control.
func TestTerminal(t *testing.T) {
	c := initOf(t, "--", "bash", "-mc", `[[ $- == *m* ]] && tty >/dev/null && kill -0 $$ && echo "it is mine"; exit 3`)
	c.Stderr = nil
	tty, err := pty.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	text, _ := io.ReadAll(tty) // a terminal that is closed ends with an error
	_ = c.Wait()
	if c.ProcessState.ExitCode() != 3 || !strings.Contains(string(text), "it is mine") || strings.Contains(string(text), "no job control") {
		t.Errorf("code %d: %q", c.ProcessState.ExitCode(), text)
	}
}

// TestFolder: the init keeps no file system busy, the command starts where it
// was called.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	c := initOf(t, "--", "sh", "-c", "until [ $(readlink /proc/$PPID/cwd) = / ]; do sleep 0.01; done; pwd")
	c.Dir = dir
	done := time.AfterFunc(20*time.Second, func() { _ = c.Process.Kill() })
	defer done.Stop()
	if out, err := c.Output(); err != nil || strings.TrimSpace(string(out)) != dir {
		t.Errorf("%q, %v", out, err)
	}
}
