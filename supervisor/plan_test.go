package supervisor

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// picture returns the transitions as a Mermaid diagram.
func picture() string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> down\n")
	for _, from := range slices.Sorted(maps.Keys(transitions)) {
		for _, e := range slices.Sorted(maps.Keys(transitions[from])) {
			fmt.Fprintf(&b, "    %s --> %s: %s\n", from, transitions[from][e], e)
		}
	}
	b.WriteString("    stopped --> [*]\n```\n")
	return b.String()
}

func TestPictureInTheDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), picture()) {
		t.Errorf("docs/architecture.md does not show the table as it is; put this there:\n%s", picture())
	}
}

func TestEveryStateCanStop(t *testing.T) {
	for s := range transitions {
		seen := map[State]bool{}
		at := s
		for at != Stopped {
			if seen[at] {
				t.Fatalf("from %s there is no way to the end", s)
			}
			seen[at] = true
			for _, e := range []Event{Stop, Exits} {
				if to, ok := nextState(at, e); ok && (e == Stop || at == Stopping) {
					at = to
					break
				}
			}
		}
	}
}

func TestEveryStateIsReached(t *testing.T) {
	reached := map[State]bool{Down: true}
	for range transitions {
		for from, events := range transitions {
			for _, to := range events {
				if reached[from] {
					reached[to] = true
				}
			}
		}
	}
	for s := range transitions {
		if !reached[s] {
			t.Errorf("nothing leads to %s", s)
		}
	}
}

func TestBackoffDelay(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 5: 800 * time.Millisecond, 10: 25600 * time.Millisecond, 11: maxBackoff, 1000: maxBackoff} {
		if got := backoffDelay(n, 0); got != want {
			t.Errorf("after %d ends: %v, want %v", n, got, want)
		}
		if got := backoffDelay(n, 1); got != want/2 {
			t.Errorf("after %d ends, with jitter: %v, want %v", n, got, want/2)
		}
	}
}

func TestAfterExit(t *testing.T) {
	for _, c := range []struct {
		uptime time.Duration
		before int
		event  Event
		ends   int
	}{
		{time.Second, 0, Exits, 1}, {time.Second, 7, Exits, 8}, {time.Second, 8, Flaps, 9}, {stableUptime, 7, Exits, 1},
	} {
		if e, n := afterExit(c.uptime, c.before); e != c.event || n != c.ends {
			t.Errorf("after %v and %d ends: %s, %d", c.uptime, c.before, e, n)
		}
	}
}

func TestParseDaemons(t *testing.T) {
	for in, want := range map[string]string{"": "pipelock egress git-gate supervise", "supervise, egress": "egress supervise", "pipelock": "pipelock"} {
		if got, err := parseDaemons(in); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"egres", "egress,", ",", "all"} {
		if got, err := parseDaemons(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestSecretsFromStandardInput(t *testing.T) {
	// Nothing closes the pipe behind the object.
	in, out := io.Pipe()
	go io.WriteString(out, `{"EGRESS_TOKEN_0": "the value", "GIT_TOKEN_0": "x", "GIT_TOKEN_1": ""}`)
	held, warning, err := readSecrets(true, in)
	if err != nil || warning != nil || held.Get("EGRESS_TOKEN_0") != "the value" || held.Get("GIT_TOKEN_0") != "x" || held.Get("EGRESS_DIGEST_0") == "" || len(held.All()) != 3 {
		t.Errorf("%v, %v, %d values", err, warning, len(held.All()))
	}
	for _, bad := range []string{"", "EGRESS_TOKEN_0=value", `{"A": 1}`, `["value"]`, `{"A": "value"}}`, "null"} {
		if _, _, err := readSecrets(true, strings.NewReader(bad)); err == nil || strings.Contains(err.Error(), "value\"") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
