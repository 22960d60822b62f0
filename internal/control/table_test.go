package control

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

func fixed(width int, colour bool) screen {
	return screen{colour: colour, width: func() int { return width }}
}

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func samples() Status {
	conns := 123456
	return Status{Pair: "demo", PID: 1, RSS: 8_100_000, Dropped: 3, Daemons: []Daemon{
		{Name: "pipelock", State: "ready", PID: 4_194_304, Since: now.Add(-3*time.Hour - 7*time.Minute), Restarts: 12, Conns: &conns, RSS: 19_000_000, Generation: 13, Digest: "d6e08995aa"},
		{Name: "egress", State: "replacing", PID: 12, Since: now.Add(-59 * time.Second), RSS: 21_300_000, Generation: 1, Digest: "e7b392d9", Draining: 2,
			Error: "config rejected: /etc/airlock/egress.yaml:12: unknown key \x1b[2Jhots\n\tin 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字 and more"},
		{Name: "supervise", State: "failed", Restarts: 8, LastExit: "starting supervise: fork/exec /proc/self/exe: resource temporarily unavailable, and so on, and on"},
	}}
}

func TestTable(t *testing.T) {
	want := `pair demo, supervisor 1: not ready, 8.1M, 3 lines of output lost
DAEMON     STATE          PID     UP  RESTARTS   CONNS  MEMORY  GEN  CONFIG
pipelock   ready      4194304  3h07m        12  123456   19.0M   13  d6e08995
egress     replacing       12    59s         0       -   21.3M    1  e7b392d9
           config rejected: /etc/airlock/egress.yaml:12: unknown key ?[2Jhots
           2 replaced, still ending
supervise  failed           -      -         8       -       -    0  -
           last exit: starting supervise: fork/exec /proc/self/exe: resource te
`
	got := samples().table(fixed(80, false), now)
	for i, line := range strings.Split(got, "\n") {
		if columnsOf(line) > 80 {
			t.Errorf("%d columns: %s", columnsOf(line), line)
		}
		if wanted := strings.Split(want, "\n"); i >= len(wanted) || !strings.HasPrefix(line, strings.TrimRight(wanted[i], " ")) {
			t.Errorf("line %d: %q", i, line)
		}
	}
	escape := regexp.MustCompile("\x1b\\[[0-9;]*m")
	coloured := samples().table(fixed(80, true), now)
	if coloured == got || escape.ReplaceAllString(coloured, "") != got {
		t.Errorf("colours change more than the colour:\n%s", coloured)
	}
	if all := samples().table(fixed(0, false), now); !strings.Contains(all, "漢字 and more\n") || strings.ContainsAny(all, "\x1b\t") {
		t.Errorf("without a limit: %s", all)
	}
	for width := range 100 {
		for line := range strings.Lines(samples().table(fixed(width+1, true), now)) {
			if n := columnsOf(escape.ReplaceAllString(strings.TrimSuffix(line, "\n"), "")); n > width+1 {
				t.Fatalf("%d columns of %d: %q", n, width+1, line)
			}
		}
	}
}

func TestUptime(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 59 * time.Second: "59s", 725 * time.Second: "12m05s", 3*time.Hour + 7*time.Minute: "3h07m", 300 * time.Hour: "12d12h"} {
		if got := uptime(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
