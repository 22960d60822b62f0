package egress

import (
	"context"
	"sync"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// grace is how long a request may go on whose route has gone away: long
// enough for an ordinary answer, not for a stream.
const grace = 3 * time.Second

// streams are the requests in progress.
type streams struct {
	mu   sync.Mutex
	open map[*pass]*stay
}

// stay is how long a request in progress may go on.
type stay struct {
	timer  *time.Timer // when it is judged again; nil: not before the next reload
	doomed bool        // its route has gone away, and the grace runs
}

// goneError is why a request in progress was ended.
type goneError struct{ v policy.Verdict }

func (e *goneError) Error() string { return e.v.Rule + ": " + e.v.Why }

// begin makes the context of a request that was let through.
func (s *streams) begin(ctx context.Context, p *pass) context.Context {
	ctx, p.stop = context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*pass]*stay{}
	}
	s.open[p] = &stay{}
	s.open[p].until(p, p.route)
	return ctx
}

func (s *streams) end(p *pass) {
	p.stop(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[p].after(p, 0)
	delete(s.open, p)
}

// after has the request judged again after a while; 0: never.
func (t *stay) after(p *pass, d time.Duration) {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if d > 0 {
		t.timer = time.AfterFunc(d, func() { p.s.judgeAgain(p) })
	}
}

// until lets the request go on as long as its route does.
func (t *stay) until(p *pass, r *bundle.Route) {
	t.doomed = false
	if r.Expires.IsZero() {
		t.after(p, 0)
		return
	}
	t.after(p, max(time.Until(r.Expires)+grace, time.Millisecond))
}

// recall judges the requests in progress by new rules. Those that would not
// pass any more end after the grace.
func (s *server) recall(next *live) {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	for p, t := range s.streams.open {
		switch v, route := p.judgedBy(next); {
		case v.Allow:
			t.until(p, route)
		case !t.doomed:
			t.doomed = true
			t.after(p, grace)
		}
	}
}

// judgedBy is the verdict of other rules on a request in progress. Learn mode
// lets none pass that carries a credential.
func (p *pass) judgedBy(l *live) (policy.Verdict, *bundle.Route) {
	v, route := l.ruling(p.ask, time.Now())
	if v.Rule == learnRule && p.route.Auth != nil {
		return policy.Denied(learnRule, v.Why), nil
	}
	return v, route
}

// judgeAgain ends a request unless the rules of the moment let it pass.
func (s *server) judgeAgain(p *pass) {
	v, route := p.judgedBy(s.live.Load())
	s.streams.mu.Lock()
	t := s.streams.open[p] // nil: it has ended by itself
	if t != nil && v.Allow {
		t.until(p, route)
	}
	s.streams.mu.Unlock()
	if t == nil || v.Allow {
		return
	}
	v.Why = "in progress, and ended: " + v.Why
	s.stopped(p, v)
	p.stop(&goneError{v})
}
