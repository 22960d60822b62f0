package activation

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/lab"
)

type message struct{ key, val string }

// pair returns both ends of a link, and what each receives from the other.
func pair(t *testing.T, open func(string) (*os.File, error)) (theirs *Link, ours *daemonLink, notifications, commands <-chan message) {
	t.Helper()
	theirs, file, err := NewLink(open)
	if err != nil {
		t.Fatal(err)
	}
	toSupervisor, toDaemon := make(chan message, 16), make(chan message, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		theirs.Receive(func(key, val string) { toSupervisor <- message{key, val} })
	}()
	ours = newDaemonLink(file, func(l *daemonLink, key, val string) { handleCommand(l, key, val); toDaemon <- message{key, val} })
	t.Cleanup(func() { theirs.Close(); <-ended; <-ours.supervisorGone; ours.socket.Close() })
	return theirs, ours, toSupervisor, toDaemon
}

func TestLinkBothWays(t *testing.T) {
	theirs, ours, notifications, commands := pair(t, nil)
	if err := ours.send(KeyError, "two\nlines", KeyReady, "1"); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, notifications, "a message comes over the link"); w != (message{KeyError, "two; lines"}) {
		t.Errorf("%+v", w)
	}
	if w := lab.Receive(t, notifications, "a message comes over the link"); w != (message{KeyReady, "1"}) {
		t.Errorf("%+v", w)
	}
	if err := ours.send(KeyError, strings.Repeat("x", 3*maxToDaemon)); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, notifications, "a message comes over the link"); len(w.val) != maxToDaemon {
		t.Errorf("expected a notification cut to maxToDaemon bytes, got %d", len(w.val))
	}
	if err := theirs.Send("LOG", "debug"); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, commands, "a command comes over the link"); w != (message{"LOG", "debug"}) {
		t.Errorf("%+v", w)
	}
	if err := theirs.Send("LOG", strings.Repeat("x", maxToDaemon)); err == nil {
		t.Error("a line that may be cut in two was sent")
	}
}

// TestSupervisorOpensFiles asks for many files at once, among other lines.
func TestSupervisorOpensFiles(t *testing.T) {
	dir := t.TempDir()
	theirs, ours, _, commands := pair(t, func(path string) (*os.File, error) {
		if filepath.Dir(path) != dir {
			return nil, fs.ErrPermission
		}
		return os.Open(path)
	})
	const n = 20
	results := make(chan error, 2*n)
	for i := range n {
		name := filepath.Join(dir, strings.Repeat("f", i+1))
		if err := os.WriteFile(name, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() { results <- openAndCompare(ours, name) }()
		go func() {
			f, err := ours.open("/etc/passwd")
			if err == nil {
				f.Close()
				err = errors.New("a file that is not ours was given")
			} else if strings.Contains(err.Error(), "permission denied") || err.Error() == fs.ErrPermission.Error() {
				err = nil
			}
			results <- err
		}()
	}
	for range 10 {
		if err := theirs.Send("LOG", "info"); err != nil {
			t.Fatal(err)
		}
		lab.Receive(t, commands, "a command comes over the link")
	}
	for range 2 * n {
		if err := lab.Receive(t, results, "a result comes"); err != nil {
			t.Error(err)
		}
	}
	if f, err := ours.open(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := ours.open(dir + "/f\nLOG=debug"); err == nil {
		t.Error("a path with a line break was sent")
	}
}

func openAndCompare(l *daemonLink, name string) error {
	f, err := l.open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err == nil && string(data) != name {
		err = errors.New("the wrong file: " + string(data))
	}
	return err
}

// TestOpenFailsWhenTheSupervisorIsGone closes the supervisor's end during a request for a file.
func TestOpenFailsWhenTheSupervisorIsGone(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	ours := newDaemonLink(file, func(*daemonLink, string, string) {})
	go theirs.Close()
	if _, err := ours.open("/x"); err == nil {
		t.Error("an answer came from nowhere")
	}
	lab.Receive(t, ours.supervisorGone, "the other side leaves")
	ours.socket.Close()
}

// TestSendDoesNotBlock has a daemon that never reads.
func TestSendDoesNotBlock(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer theirs.Close()
	for range 100_000 {
		if err = theirs.Send("LOG", "debug"); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("after filling the buffer: %v", err)
	}
}

// TestNotifyOverAPipe has a parent that passes a pipe, as some supervisors do.
func TestNotifyOverAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := newDaemonLink(w, func(*daemonLink, string, string) {})
	if err := l.send(KeyReady, "1"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if data, err := io.ReadAll(r); string(data) != "READY=1\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestMetricsOverTheLink asks a process that replies, and one that does not.
func TestMetricsOverTheLink(t *testing.T) {
	theirs, _, _, _ := pair(t, nil)
	families, err := theirs.Metrics(t.Context())
	if err != nil || len(families) == 0 {
		t.Fatalf("%v, %v", families, err)
	}
	mute, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer mute.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := mute.Metrics(ctx); !errors.Is(err, context.DeadlineExceeded) || len(mute.pending) != 0 {
		t.Errorf("%v, %d wait", err, len(mute.pending))
	}
}

// TestQuery queries a topic with a handler and one without.
func TestQuery(t *testing.T) {
	theirs, _, _, _ := pair(t, nil)
	HandleQuery("echo", func(q map[string]string) []string { return []string{q["text"]} })
	var got []string
	const text = "two words & <a line>\nmore"
	if err := theirs.Query(t.Context(), "echo", map[string]string{"text": text}, &got); err != nil || len(got) != 1 || got[0] != text {
		t.Errorf("%q, %v", got, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := theirs.Query(short, "nothing", nil, &got); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected no reply for a topic without a handler, got %q, %v", got, err)
	}
	if err := theirs.Query(t.Context(), "echo", map[string]string{"text": strings.Repeat("x", maxToDaemon)}, &got); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a query that is too long for a line: %v", err)
	}
}

// TestPropose checks that decisions reach the daemon, and that the handler learns why a proposal was
// withdrawn or its daemon ended.
func TestPropose(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	answers, ends := make(chan Decision), make(chan error, 1)
	var running sync.WaitGroup
	theirs.OnPropose(func(ctx context.Context, question []byte, told func(string)) Decision {
		told("p-" + string(question))
		select {
		case d := <-answers:
			return d
		case <-ctx.Done():
			ends <- context.Cause(ctx)
			return Decision{Error: context.Cause(ctx).Error()}
		}
	}, func(f func()) { running.Go(f) })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		theirs.Receive(func(string, string) {})
	}()
	ours := newDaemonLink(file, handleCommand)
	for _, want := range []Decision{{Approved: true}, {Answer: "two\nlines"}} {
		p, err := ours.propose(t.Context(), 7)
		if err != nil || p.ID != "p-7" {
			t.Fatalf("%+v, %v", p, err)
		}
		answers <- want
		if d := lab.Receive(t, p.Decided(), "a decision comes"); d != want {
			t.Errorf("%+v, want %+v", d, want)
		}
	}
	p, err := ours.propose(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	p.Withdraw("the client\nhas left")
	if why := lab.Receive(t, ends, "a reason comes"); why.Error() != "the client; has left" {
		t.Errorf("%v", why)
	}
	if _, err = ours.propose(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	ours.socket.Close()
	lab.Receive(t, ended, "what was started ends")
	if why := lab.Receive(t, ends, "a reason comes"); why.Error() != "the daemon has ended" {
		t.Errorf("%v", why)
	}
	running.Wait()
	if n := len(theirs.proposals.cancels); n != 0 {
		t.Errorf("%d are open", n)
	}
}

// TestProposeIsRefusedWithoutAHandler has a daemon that may not propose.
func TestProposeIsRefusedWithoutAHandler(t *testing.T) {
	_, ours, _, _ := pair(t, nil)
	if _, err := ours.propose(t.Context(), 1); err == nil {
		t.Error("expected the proposal to be refused")
	}
	if len(ours.proposals) != 0 {
		t.Error("expected no open proposal")
	}
}
