package egress

import (
	"context"
	"sync"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// revokeGrace is how long a request may go on whose route has gone away: long
// enough for an ordinary answer, not for a stream.
const revokeGrace = 3 * time.Second

// leases are the requests in progress.
type leases struct {
	mu   sync.Mutex
	open map[*exchange]*lease
}

// lease is how long a request in progress may go on.
type lease struct {
	timer    *time.Timer // when it is judged again; nil: not before the next reload
	expiring bool        // its route has gone away, and the grace runs
}

// revokedError is why a request in progress was ended.
type revokedError struct{ v policy.Verdict }

func (e *revokedError) Error() string { return e.v.Rule + ": " + e.v.Why }

// begin makes the context of a request that was let through.
func (s *leases) begin(ctx context.Context, p *exchange) context.Context {
	ctx, p.stop = context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*exchange]*lease{}
	}
	s.open[p] = &lease{}
	s.open[p].renew(p, p.route)
	return ctx
}

func (s *leases) end(p *exchange) {
	p.stop(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[p].scheduleRecheck(p, 0)
	delete(s.open, p)
}

// scheduleRecheck has the request judged again after a while; 0: never.
func (t *lease) scheduleRecheck(p *exchange, d time.Duration) {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if d > 0 {
		t.timer = time.AfterFunc(d, func() { p.s.recheck(p) })
	}
}

// renew lets the request go on as long as its route does.
func (t *lease) renew(p *exchange, r *bundle.Route) {
	t.expiring = false
	if r.Expires.IsZero() {
		t.scheduleRecheck(p, 0)
		return
	}
	t.scheduleRecheck(p, max(time.Until(r.Expires)+revokeGrace, time.Millisecond))
}

// revoke judges the requests in progress by new rules. Those that would not
// pass any more end after the grace.
func (s *server) revoke(next *activeConfig) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for p, t := range s.leases.open {
		switch v, route := p.verdictUnder(next); {
		case v.Allow:
			t.renew(p, route)
		case !t.expiring:
			t.expiring = true
			t.scheduleRecheck(p, revokeGrace)
		}
	}
}

// verdictUnder is the verdict of other rules on a request in progress. Learn mode
// lets none pass that carries a credential.
func (p *exchange) verdictUnder(l *activeConfig) (policy.Verdict, *bundle.Route) {
	v, route := l.decideOrLearn(p.info, time.Now())
	if v.Rule == learnRule && p.route.Auth != nil {
		return policy.Denied(learnRule, v.Why), nil
	}
	return v, route
}

// recheck ends a request unless the rules of the moment let it pass.
func (s *server) recheck(p *exchange) {
	v, route := p.verdictUnder(s.active.Load())
	s.leases.mu.Lock()
	t := s.leases.open[p] // nil: it has ended by itself
	if t != nil && v.Allow {
		t.renew(p, route)
	}
	s.leases.mu.Unlock()
	if t == nil || v.Allow {
		return
	}
	v.Why = "in progress, and ended: " + v.Why
	s.recordRefusal(p, v)
	p.stop(&revokedError{v})
}
