package supervisor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"airlock/internal/otlp"
)

// TestTracerSpans passes sequences of states to a tracer.
func TestTracerSpans(t *testing.T) {
	starting := row{state: Starting, current: 1}
	ready := row{state: Ready, current: 1, ready: true}
	stories := []struct {
		name  string
		steps []row
		ready int // step at which all are ready; 0: never
		stop  int // step at which the end begins; 0: never
		want  string
	}{
		{"start", []row{starting, ready}, 1, 0, "daemon.start 1 ready, bundle.start ready"},
		{"crash", []row{starting, ready, {state: Backoff, code: 137}, {state: Starting, current: 2, code: 137}, {state: Ready, current: 2, ready: true, code: 137}}, 1, 0,
			"daemon.start 1 ready, bundle.start ready, daemon.start 2 ready"},
		{"never ready", []row{starting, {state: Backoff, code: 2}, {state: Failed, code: 2}}, 0, 0, "daemon.start 1 ended failed 2"},
		{"replacement", []row{ready, {state: Replacing, current: 1, ready: true, successor: 2}, {state: Ready, current: 2, ready: true, draining: []int{1}}, {state: Ready, current: 2, ready: true}}, 0, 0,
			"daemon.start 1 ready, daemon.replace 2 ready, daemon.drain 1 ended <daemon.replace 2"},
		{"rejected", []row{ready, {state: Replacing, current: 1, ready: true, successor: 2}, ready}, 0, 0, "daemon.start 1 ready, daemon.replace 2 rejected failed"},
		{"the old one ends first", []row{ready, {state: Replacing, current: 1, ready: true, successor: 2}, {state: Starting, current: 2, code: 1}, {state: Ready, current: 2, ready: true, code: 1}}, 0, 0,
			"daemon.start 1 ready, daemon.replace 2 ready"},
		{"stop", []row{ready, {state: Stopping, current: 1, ready: true}, {state: Stopped}}, 0, 1,
			"daemon.start 1 ready, bundle.start stopped failed, daemon.stop 1 stopped 0, bundle.stop stopped"},
		{"stop during a replacement", []row{ready, {state: Replacing, current: 1, ready: true, successor: 2}, {state: Stopping, current: 1, ready: true, successor: 2}, {state: Stopping, current: 1, ready: true}, {state: Stopped, code: 3}}, 0, 2,
			"daemon.start 1 ready, bundle.start stopped failed, daemon.replace 2 stopped failed, daemon.stop 1 stopped failed 3, bundle.stop stopped"},
	}
	for _, c := range stories {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			ids := map[string]string{}
			tr := newTracer(func(s otlp.Span) {
				text := s.Name
				if g, ok := s.Attributes["airlock.generation"]; ok {
					text += fmt.Sprint(" ", g)
				}
				ids[s.ID] = text
				text += fmt.Sprint(" ", s.Attributes["airlock.outcome"])
				if s.Failed {
					text += " failed"
				}
				if code, ok := s.Attributes["airlock.exit_code"]; ok {
					text += fmt.Sprint(" ", code)
				}
				if p, ok := ids[s.Parent]; ok {
					text += " <" + p
				}
				if len(s.Trace) != 32 || s.End.Sub(s.Start) < 0 || s.Start.IsZero() {
					t.Errorf("%+v", s)
				}
				got = append(got, text)
			})
			for i, r := range c.steps {
				r.daemon = "egress"
				tr.observe(time.Unix(int64(i), 0), []row{r}, c.ready > 0 && i >= c.ready, c.stop > 0 && i >= c.stop)
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}
