package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"

	"airlock/internal/control"
	"airlock/internal/lab"
)

// TestStatusIsHeld asks for a newer status: the answer comes with the change.
func TestStatusIsHeld(t *testing.T) {
	b := start(t, nil)
	before, err := b.ctl.Status(context.Background())
	must(t, err)
	for _, d := range before.Daemons {
		if d.Conns == nil {
			t.Errorf("%s does not say how many connections it has", d.Name)
		}
	}
	short, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if st, err := b.ctl.StatusAfter(short, before.Version); err == nil {
		t.Errorf("an answer without a change: %+v", st)
	}
	if st, err := b.ctl.StatusAfter(context.Background(), "of another supervisor-1"); err != nil || st.Version != before.Version {
		t.Errorf("%+v, %v", st, err)
	}
	got := make(chan control.Status, 1)
	go func() {
		st, _ := b.ctl.StatusAfter(context.Background(), before.Version) // the version tells
		got <- st
	}()
	must(t, syscall.Kill(before.Daemons[1].PID, syscall.SIGKILL))
	if st := lab.Receive(t, got, "a message comes"); st.Version == before.Version || st.Version == "" {
		t.Errorf("version %q after %q", st.Version, before.Version)
	}
	held := make(chan error, 1)
	eventually(t, "all is as before", func() bool { st, err := b.ctl.Status(context.Background()); return err == nil && st.Ready })
	last, err := b.ctl.Status(context.Background())
	must(t, err)
	go func() { _, err := b.ctl.StatusAfter(context.Background(), last.Version); held <- err }()
	began := time.Now()
	b.stop(syscall.SIGTERM) // must not wait for those who watch
	lab.Receive(t, held, "the connection is held")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v while somebody watched", took)
	}
}

// ctl starts `ctl` as a process of its own.
func (b *running) command(args ...string) *exec.Cmd {
	b.t.Helper()
	self, err := os.Executable()
	must(b.t, err)
	cmd := exec.Command(self)
	cmd.Args = append([]string{"sidecars", "ctl"}, args...)
	cmd.Env = append(append(os.Environ(), b.dirs.Env()...), "TERM=xterm")
	return cmd
}

// watching starts a command whose lines the test reads one by one.
func (b *running) watching(args ...string) (lines func(until string) []string, end func()) {
	b.t.Helper()
	cmd := b.command(args...)
	out, err := cmd.StdoutPipe()
	must(b.t, err)
	must(b.t, cmd.Start())
	b.t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended unless the test failed
	sc := bufio.NewScanner(out)
	lines = func(until string) (all []string) {
		b.t.Helper()
		for sc.Scan() {
			if all = append(all, sc.Text()); strings.Contains(sc.Text(), until) {
				return all
			}
		}
		b.t.Fatalf("it ended before it printed %q: %q", until, all)
		return nil
	}
	return lines, func() {
		b.t.Helper()
		must(b.t, cmd.Process.Signal(os.Interrupt))
		must(b.t, cmd.Wait())
	}
}

// TestWatchOutlivesTheSupervisor follows a bundle through its end and its next
// beginning, as text and as JSON.
func TestWatchOutlivesTheSupervisor(t *testing.T) {
	b := start(t, nil)
	text, endText := b.watching("status", "--watch")
	objects, endObjects := b.watching("status", "--watch", "--json")
	if first := text("supervise "); !strings.HasPrefix(first[1], "DAEMON") || strings.Contains(strings.Join(first, ""), "\x1b") {
		t.Errorf("%q", first)
	}
	objects(`"ready":true`)
	b.stop(syscall.SIGTERM)
	text("not reachable")
	b.done = make(chan struct{})
	b.run()
	text(fmt.Sprintf("supervisor %d: ready", b.cmd.Process.Pid))
	versions := map[string]bool{}
	for _, l := range objects(fmt.Sprintf(`"pid":%d,`, b.cmd.Process.Pid)) {
		var st control.Status
		if err := json.Unmarshal([]byte(l), &st); err != nil || versions[st.Version] {
			t.Errorf("%v, the same twice: %v, in %s", err, versions[st.Version], l)
		}
		versions[st.Version] = true
	}
	endText()
	endObjects()
}

// TestWatchOnATerminal looks at what a terminal of 80 columns would get.
func TestWatchOnATerminal(t *testing.T) {
	b := start(t, nil)
	b.write("pipelock.yaml", "version: 1\nallow: ['"+strings.Repeat("long", 60)+"']\n")
	if err := b.ctl.Do(context.Background(), "POST", "/restart", map[string][]string{"daemon": {"pipelock"}}, nil, nil); err == nil {
		t.Error("a bad file was taken")
	}
	cmd := b.command("status", "--watch")
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	must(t, err)
	defer tty.Close()
	var got bytes.Buffer
	buf := make([]byte, 4096)
	for !regexp.MustCompile(`(?s)\x1b\[\d+A\r\x1b\[J.*supervise`).Match(got.Bytes()) {
		n, err := tty.Read(buf)
		must(t, err)
		got.Write(buf[:n])
	}
	_, err = io.WriteString(tty, "\x03") // Ctrl-C
	must(t, err)
	_, _ = io.Copy(io.Discard, tty) // the end of a terminal is an error
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C ends it with %v", err)
	}
	plain := regexp.MustCompile("\x1b\\[[0-9;]*[a-zA-Z]").ReplaceAllString(got.String(), "")
	for line := range strings.Lines(plain) {
		if n := utf8.RuneCountInString(strings.Trim(line, "\r\n")); n > 80 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if !strings.Contains(got.String(), "\x1b[32mready\x1b[0m") || !strings.Contains(plain, "config rejected") {
		t.Errorf("%q", got.String())
	}
}
