package supervisor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"airlock/internal/otlp"
)

// row is the state of a daemon as far as traces need it. It holds no foreign text, so that no secret
// can get into a span.
type row struct {
	daemon    string
	state     State
	current   int // generation of the process; 0: none
	ready     bool
	successor int
	draining  []int
	code      int // exit code of the process that ended last
}

// tracer turns changes of the table into spans: of each start, replacement, drain and stop of a
// daemon, and of the start and stop of the bundle. It belongs to the loop.
type tracer struct {
	put   func(otlp.Span)
	rows  map[string]row        // by daemon, as last observed
	spans map[string]*otlp.Span // open spans, by key

	served, ending bool
}

func newTracer(put func(otlp.Span)) *tracer {
	return &tracer{put: put, rows: map[string]row{}, spans: map[string]*otlp.Span{}}
}

// observe compares the table with its last state and begins and ends spans.
func (t *tracer) observe(now time.Time, rows []row, ready, stopping bool) {
	if len(t.rows) == 0 {
		t.begin(now, "bundle.start", "", nil)
	}
	if stopping && !t.ending {
		t.ending = true
		t.end(now, "bundle.start", "stopped", true, nil)
		t.begin(now, "bundle.stop", "", nil)
	}
	for _, r := range rows {
		t.compare(now, t.rows[r.daemon], r)
		t.rows[r.daemon] = r
	}
	if ready && !t.served {
		t.served = true
		t.end(now, "bundle.start", "ready", false, nil)
	}
	if t.ending && !slices.ContainsFunc(rows, func(r row) bool { return r.state != Stopped || r.successor != 0 || len(r.draining) > 0 }) {
		t.end(now, "bundle.stop", "stopped", false, nil)
	}
}

// compare begins and ends the spans of one daemon.
func (t *tracer) compare(now time.Time, was, is row) {
	name := func(what string, generation int) string { return fmt.Sprintf("%s %s %d", what, is.daemon, generation) }
	about := func(generation int) map[string]any {
		return map[string]any{"airlock.daemon": is.daemon, "airlock.generation": generation}
	}
	if g := is.current; g != 0 && g != was.current && g != was.successor {
		t.begin(now, name("daemon.start", g), "bundle.start", about(g))
	}
	if g := is.successor; g != 0 && g != was.successor {
		t.begin(now, name("daemon.replace", g), "", about(g))
	}
	for _, g := range is.draining {
		if !slices.Contains(was.draining, g) {
			t.begin(now, name("daemon.drain", g), name("daemon.replace", is.current), about(g))
		}
	}
	for _, g := range was.draining {
		if !slices.Contains(is.draining, g) {
			t.end(now, name("daemon.drain", g), "ended", false, nil)
		}
	}
	if is.ready {
		t.end(now, name("daemon.start", is.current), "ready", false, nil)
		t.end(now, name("daemon.replace", is.current), "ready", false, nil)
	}
	if g := was.current; g != is.current {
		code := map[string]any{"airlock.exit_code": is.code}
		t.end(now, name("daemon.stop", g), "stopped", is.code != 0, code)
		t.end(now, name("daemon.start", g), "ended", true, code)
		t.end(now, name("daemon.replace", g), "ended", true, code)
	}
	if g := was.successor; g != is.successor && g != is.current {
		outcome := "rejected"
		if t.ending {
			outcome = "stopped"
		}
		t.end(now, name("daemon.replace", g), outcome, true, nil)
	}
	if is.state == Stopping && was.state != Stopping {
		t.begin(now, name("daemon.stop", is.current), "bundle.stop", about(is.current))
	}
}

// begin begins a span as a child of the parent, if that is open, and else in a new trace. The name of
// the span is the first word of the key.
func (t *tracer) begin(now time.Time, key, parent string, attributes map[string]any) {
	var what string
	fmt.Sscan(key, &what)
	s := &otlp.Span{Trace: otlp.NewTrace(), ID: otlp.NewID(), Name: what, Start: now, Attributes: map[string]any{}}
	maps.Copy(s.Attributes, attributes)
	if p := t.spans[parent]; p != nil {
		s.Trace, s.Parent = p.Trace, p.ID
	}
	t.spans[key] = s
}

// end ends a span and sends it, if it is open.
func (t *tracer) end(now time.Time, key, outcome string, failed bool, attributes map[string]any) {
	s := t.spans[key]
	if s == nil {
		return
	}
	delete(t.spans, key)
	s.End, s.Failed = now, failed
	s.Attributes["airlock.outcome"] = outcome
	maps.Copy(s.Attributes, attributes)
	t.put(*s)
}

// exportTraces exports spans until stop is called, which waits for the last export.
func (s *supervisor) exportTraces(e *otlp.Exporter) (stop func()) {
	if e == nil {
		return func() {}
	}
	s.tracer = newTracer(e.Put)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.Run(ctx, func(err error) { s.logf("traces are lost: %v", err) })
	}()
	return func() { cancel(); <-ended }
}

// trace passes the table to the tracer.
func (s *supervisor) trace() {
	rows := make([]row, len(s.order))
	for i, name := range s.order {
		d := s.daemons[name]
		r := row{daemon: name, state: d.state, code: d.lastCode, draining: slices.Sorted(maps.Keys(d.draining))}
		if d.current != nil {
			r.current, r.ready = d.current.generation, d.current.ready
		}
		if d.successor != nil {
			r.successor = d.successor.generation
		}
		rows[i] = r
	}
	s.tracer.observe(time.Now(), rows, s.ready(), s.stopRequests > 0)
}
