package handoff

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

type word struct{ key, val string }

// pair is both ends of a link, and what each hears from the other.
func pair(t *testing.T, open func(string) (*os.File, error)) (theirs *Link, ours *link, news, orders <-chan word) {
	t.Helper()
	theirs, file, err := NewLink(open)
	if err != nil {
		t.Fatal(err)
	}
	toSupervisor, toDaemon := make(chan word, 16), make(chan word, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		theirs.Listen(func(key, val string) { toSupervisor <- word{key, val} })
	}()
	ours = newLink(file, func(l *link, key, val string) { obey(l, key, val); toDaemon <- word{key, val} })
	t.Cleanup(func() { theirs.Close(); <-ended; <-ours.gone; ours.socket.Close() })
	return theirs, ours, toSupervisor, toDaemon
}

func TestLinkBothWays(t *testing.T) {
	theirs, ours, news, orders := pair(t, nil)
	if err := ours.say(KeyError, "two\nlines", KeyReady, "1"); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, news, "a message comes over the link"); w != (word{KeyError, "two; lines"}) {
		t.Errorf("%+v", w)
	}
	if w := lab.Receive(t, news, "a message comes over the link"); w != (word{KeyReady, "1"}) {
		t.Errorf("%+v", w)
	}
	if err := ours.say(KeyError, strings.Repeat("x", 3*maxTold)); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, news, "a message comes over the link"); len(w.val) != maxTold {
		t.Errorf("%d bytes of one piece of news", len(w.val))
	}
	if err := theirs.Tell("LOG", "debug"); err != nil {
		t.Fatal(err)
	}
	if w := lab.Receive(t, orders, "an order comes over the link"); w != (word{"LOG", "debug"}) {
		t.Errorf("%+v", w)
	}
	if err := theirs.Tell("LOG", strings.Repeat("x", maxTold)); err == nil {
		t.Error("a line that may be cut in two was sent")
	}
}

// TestLinkOpens asks for many files at once, among lines that bring none.
func TestLinkOpens(t *testing.T) {
	dir := t.TempDir()
	theirs, ours, _, orders := pair(t, func(path string) (*os.File, error) {
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
		go func() { results <- holds(ours, name) }()
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
		if err := theirs.Tell("LOG", "info"); err != nil {
			t.Fatal(err)
		}
		lab.Receive(t, orders, "an order comes over the link")
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

func holds(l *link, name string) error {
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

// TestSilentSupervisor is a supervisor that goes while a question is open.
func TestSilentSupervisor(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	ours := newLink(file, func(*link, string, string) {})
	go theirs.Close() // nobody listens
	if _, err := ours.open("/x"); err == nil {
		t.Error("an answer came from nowhere")
	}
	lab.Receive(t, ours.gone, "the other side leaves")
	ours.socket.Close()
}

// TestDeafDaemon is a daemon that never reads: the supervisor must not wait.
func TestDeafDaemon(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	defer theirs.Close()
	for range 100_000 {
		if err = theirs.Tell("LOG", "debug"); err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("after filling the buffer: %v", err)
	}
}

// TestPipe is a parent that gives a pipe, as sd_notify-like supervisors do.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := newLink(w, func(*link, string, string) {})
	if err := l.say(KeyReady, "1"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if data, err := io.ReadAll(r); string(data) != "READY=1\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// TestMetricsOverTheLink asks a process that answers, and one that does not.
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
	if _, err := mute.Metrics(ctx); !errors.Is(err, context.DeadlineExceeded) || len(mute.waiting) != 0 {
		t.Errorf("%v, %d wait", err, len(mute.waiting))
	}
}

// TestLinkAsks asks about a topic that the process answers, and one that it
// does not.
func TestLinkAsks(t *testing.T) {
	theirs, _, _, _ := pair(t, nil)
	Answer("echo", func(q map[string]string) []string { return []string{q["text"]} })
	var got []string
	const text = "two words & <a line>\nmore"
	if err := theirs.Ask(t.Context(), "echo", map[string]string{"text": text}, &got); err != nil || len(got) != 1 || got[0] != text {
		t.Errorf("%q, %v", got, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := theirs.Ask(short, "nothing", nil, &got); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody knows about it, and the answer is %q, %v", got, err)
	}
	if err := theirs.Ask(t.Context(), "echo", map[string]string{"text": strings.Repeat("x", maxTold)}, &got); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a question that does not fit: %v", err)
	}
}

// TestLinkProposes: what a daemon asks reaches a person, and the answer it; what
// it takes back, or does not live to hear, is told so.
func TestLinkProposes(t *testing.T) {
	theirs, file, err := NewLink(nil)
	if err != nil {
		t.Fatal(err)
	}
	answers, ends := make(chan Decision), make(chan error, 1)
	var running sync.WaitGroup
	theirs.Takes(func(ctx context.Context, question []byte, told func(string)) Decision {
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
		theirs.Listen(func(string, string) {})
	}()
	ours := newLink(file, obey)
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
	if n := len(theirs.proposals.open); n != 0 {
		t.Errorf("%d are open", n)
	}
}

// TestLinkTakesNoProposals of a daemon that has no business to ask.
func TestLinkTakesNoProposals(t *testing.T) {
	_, ours, _, _ := pair(t, nil)
	if _, err := ours.propose(t.Context(), 1); err == nil {
		t.Error("it was taken")
	}
	if len(ours.asked) != 0 {
		t.Error("it is remembered")
	}
}
