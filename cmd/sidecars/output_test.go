package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"airlock/internal/control"
	"airlock/internal/lab"
)

// TestOutputAsJSON reads every line that a bundle prints from start to stop.
func TestOutputAsJSON(t *testing.T) {
	b := start(t, nil, "AIRLOCK_LOG=json")
	b.get(b.url("evil.test", "/")) // is refused, and egress logs that
	b.stop(syscall.SIGTERM)
	for l := range b.output.wait {
		b.output.all = append(b.output.all, l)
	}
	from := map[string]int{}
	for _, l := range b.output.all {
		var line struct{ Time, Level, Daemon, Stream, Msg, Rule string }
		if err := json.Unmarshal([]byte(l), &line); err != nil || line.Time == "" || line.Level == "" || line.Msg == "" || line.Stream == "" {
			t.Errorf("%v: %s", err, l)
		}
		from[line.Daemon]++
		if line.Msg == "refused" && line.Rule == "" {
			t.Errorf("a daemon's own fields were lost: %s", l)
		}
	}
	if got := slices.Sorted(maps.Keys(from)); strings.Join(got, " ") != "egress pipelock supervise supervisor" { // git-gate says nothing
		t.Errorf("lines came from %v", got)
	}
}

// TestLogLevels changes what daemons say while they run.
func TestLogLevels(t *testing.T) {
	b := start(t, nil)
	ctl := func(args ...string) error {
		return control.Main(context.Background(), args, io.Discard, io.Discard)
	}
	for name, dir := range map[string]string{"AIRLOCK_ETC": b.dirs.Etc, "AIRLOCK_RUN": b.dirs.Run, "AIRLOCK_STATE": b.dirs.State} {
		t.Setenv(name, dir)
	}
	must(t, ctl("log", "error"))
	must(t, ctl("restart", "egress")) // the new process starts with the level
	must(t, ctl("log", "info", "pipelock"))
	b.get(b.url("evil.test", "/"))                                             // egress refuses, and is quiet
	b.get(b.url("a.cdn.test", "/?q=ghp_0123456789abcdefghijABCDEFGHIJ012345")) // pipelock refuses, and says so
	if l := b.until("msg=refused"); !strings.HasPrefix(l, "[pipelock]") {
		t.Errorf("what was to be quiet: %s", l)
	}
	must(t, ctl("log", "debug"))
	b.get(b.url("evil.test", "/"))
	if l := b.until("msg=refused"); !strings.HasPrefix(l, "[egress]") {
		t.Errorf("%s", l)
	}
	if strings.Count(strings.Join(b.output.all, "\n"), "egress is ready") != 1 {
		t.Error("the new egress was not quiet")
	}
	for _, c := range []struct {
		args []string
		code int
	}{{[]string{"log", "loud"}, 2}, {[]string{"log"}, 2}, {[]string{"log", "info", "egress", "more"}, 2}, {[]string{"log", "info", "nobody"}, 1}} {
		if err := ctl(c.args...); err == nil || exitCode(err) != c.code {
			t.Errorf("ctl %v: %v, code %d", c.args, err, exitCode(err))
		}
	}
	must(t, syscall.Kill(b.status("supervise").PID, syscall.SIGSTOP)) // does not read, and delays nobody
	must(t, ctl("log", "info"))
	must(t, syscall.Kill(b.status("supervise").PID, syscall.SIGCONT))
}

// TestStalledReaderBlocksNobody lets a bundle print more than anybody reads,
// and reads it in the end.
func TestStalledReaderBlocksNobody(t *testing.T) {
	lab.Long(t)
	b := prepare(t, nil)
	out := &faucet{opened: make(chan struct{})}
	b.through = out.pass
	b.run()
	client := b.client(b.egress)
	lost := func() float64 { v, _ := value(b.scrape(), "airlock_output_dropped_lines_total"); return v }
	out.shut.Store(true)
	eventually(t, "lines are lost", func() bool {
		for range 500 {
			if status, _ := b.send(client, http.MethodGet, "http://evil.test/"+strings.Repeat("x", 2000), nil); status != 403 {
				t.Fatalf("status %d while nobody reads the output", status)
			}
		}
		return lost() > 0
	})
	close(out.opened)
	if l := b.until(" lines were lost: nobody read them in time"); !strings.HasPrefix(l, "[supervisor] ") {
		t.Error(l)
	}
	b.stop(syscall.SIGTERM)
}

// faucet holds back what a supervisor prints while it is shut.
type faucet struct {
	shut   atomic.Bool
	opened chan struct{}
}

func (f *faucet) pass(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if f.shut.Load() {
			<-f.opened
		}
		return r.Read(p)
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
