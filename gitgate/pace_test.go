package gitgate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airlock/internal/lab"
)

// drip is a client of git:// that sends a byte every so often until it is cut off. It tells how long that took, and what it was told.
func drip(t *testing.T, g *gate, first string, every time.Duration) (took time.Duration, told string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		var all sync.WaitGroup
		all.Go(func() { g.client(t.Context(), there) })
		began := time.Now()
		all.Go(func() {
			_, err := io.WriteString(here, first)
			for err == nil {
				time.Sleep(every) // in a bubble: it is the client's own slowness
				_, err = here.Write([]byte("x"))
			}
		})
		answer, _ := io.ReadAll(here)
		took, told = time.Since(began), string(answer)
		here.Close()
		all.Wait()
	})
	return took, told
}

// A client that sends its request line a byte a second is gone after seconds, not hours; one that announces a line beyond all names at once.
func TestRequestLineHasAnEnd(t *testing.T) {
	g := &gate{idle: time.Minute, log: slog.New(slog.DiscardHandler)}
	if took, told := drip(t, g, "0fff", time.Second); took > greetWithin+time.Second || !strings.Contains(told, "no request") {
		t.Errorf("a byte a second: cut off after %s, told %q", took, told)
	}
	if took, told := drip(t, g, "fff0", time.Second); took > time.Second || !strings.Contains(told, "no request") {
		t.Errorf("64 KiB: cut off after %s, told %q", took, told)
	}
}

// Whoever sends fast enough in the long run may pause; a byte now and then buys no time, and neither does what was sent long ago.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		in := bufio.NewReaderSize(paced{there, newPace(time.Minute)}, 64<<10)
		began := time.Now()
		var all sync.WaitGroup
		defer all.Wait()
		defer here.Close()
		all.Go(func() {
			big := bytes.Repeat([]byte("x"), 4<<20)
			for range 10 { // seven minutes, and 100 KiB a second
				_, _ = here.Write(big)
				time.Sleep(40 * time.Second)
			}
			for range 4000 {
				if _, err := here.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		})
		n, err := io.Copy(io.Discard, in)
		if took := time.Since(began); err == nil || n < 40<<20 || took < 400*time.Second || took > 500*time.Second {
			t.Errorf("%d bytes, %v after %s", n, err, took)
		}
	})
}

// A client that was refused and goes on sending is let go after a while.
func TestDrainHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		var all sync.WaitGroup
		defer all.Wait()
		defer here.Close()
		all.Go(func() {
			for err := error(nil); err == nil; time.Sleep(time.Second) {
				_, err = here.Write(make([]byte, 32<<10))
			}
		})
		began := time.Now()
		p := &pushing{in: bufio.NewReader(paced{there, newPace(time.Minute)})}
		err := p.drain(errRefused("no"))
		there.Close()
		if took := time.Since(began); err != nil || took > drainWithin+2*time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// More packs than are read at once wait for their turn; who waits too long is told so, and the others come to their end.
func TestPushesTakeTurns(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ScanTime = 3 * time.Second })
	head := r.seed("main", map[string]string{"a": "1"})
	w := r.clone("git")
	r.commit(w, "mine", map[string]string{"b": "1"})
	tip := r.run(w, "git", "rev-parse", "HEAD")
	pack := r.packOf(w, tip, "^"+head)
	answers, conns := make(chan []string, pushesAtOnce+1), []net.Conn{}
	for i := range pushesAtOnce + 1 {
		conn, err := net.Dial("tcp", r.git)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
		_ = writePkt(conn, "git-receive-pack /app.git\x00host=x\x00")
		in := bufio.NewReader(conn)
		if _, err := readAdvertisement(in); err != nil {
			t.Fatal(err)
		}
		_ = writePktf(conn, "%s %s refs/heads/%d\x00report-status", zeros, tip, i)
		_ = writeFlush(conn)
		_, _ = conn.Write(pack[:len(pack)/2])
		go func() { answers <- pktLines(in) }()
	}
	// One of them has no turn, and is told so while the others have sent a half.
	if first := strings.Join(lab.Receive(t, answers, "an answer comes"), "\n"); !strings.Contains(first, string(errBusy)) {
		t.Errorf("%q", first)
	}
	for _, conn := range conns {
		_, _ = conn.Write(pack[len(pack)/2:]) // who was refused does not listen any more
	}
	for range pushesAtOnce {
		if answer := strings.Join(lab.Receive(t, answers, "an answer comes"), "\n"); !strings.HasPrefix(answer, "unpack ok\nok refs/heads/") {
			t.Errorf("%q", answer)
		}
	}
	r.run(w, "git", "push", "-q", "origin", "HEAD")
	r.agree()
}

// Who fetches waits until few enough walk through histories, and gives the turn back.
func TestFetchesTakeTurns(t *testing.T) {
	r := newRig(t)
	r.history()
	o, err := openOrdinary(r.ssh.Dir("app"), true)
	if err != nil {
		t.Fatal(err)
	}
	src, err := o.load()
	if err != nil {
		t.Fatal(err)
	}
	load := func(context.Context) (source, error) { return src, nil }
	walks := make(turns, 1)
	speak := func(ctx context.Context, args ...string) error {
		var in bytes.Buffer
		command2(&in, "fetch", args...)
		s := &speaker{in: bufio.NewReader(&in), out: bufio.NewWriter(io.Discard), list: load, recent: load, walks: walks}
		return s.serve(ctx, true)
	}
	tip, old := src.snap.headHash().String(), r.run(r.ssh.Dir("app"), "git", "rev-parse", "main~3")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"want " + tip, "done"}, {"want " + tip, "have " + old}, {"want " + tip, "deepen 2", "done"}} {
		walks <- struct{}{}
		if err := speak(over, args...); !errors.Is(err, context.Canceled) {
			t.Errorf("%q without a turn: %v", args, err)
		}
		lab.Receive(t, walks, "the walk ends")
		if err := speak(t.Context(), args...); err != nil || len(walks) != 0 {
			t.Errorf("%q: %v, %d turns are taken", args, err, len(walks))
		}
	}
}
