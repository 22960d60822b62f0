package egress

import (
	"context"
	"sync"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// revokeGrace is how long a request may continue after its route was removed or expired: long enough for
// an ordinary response, not for a stream.
const revokeGrace = 3 * time.Second

// leases are the requests in progress and how long each may continue.
type leases struct {
	mu   sync.Mutex
	open map[*exchange]*lease
}

// lease is the permission of a request in progress to continue. leases.mu guards it.
type lease struct {
	timer    *time.Timer // rechecks the request; nil: not before the next reload
	expiring bool        // its route is gone, and revokeGrace runs
}

// revokedError is the cause of a request that was canceled while in progress.
type revokedError struct{ v policy.Verdict }

func (e *revokedError) Error() string { return e.v.Rule + ": " + e.v.Why }

// begin adds an allowed request and returns its context.
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

// end removes a request that has ended.
func (s *leases) end(p *exchange) {
	p.stop(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[p].scheduleRecheck(p, 0)
	delete(s.open, p)
}

// scheduleRecheck rechecks the request after d; 0: never.
func (t *lease) scheduleRecheck(p *exchange, d time.Duration) {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	if d > 0 {
		t.timer = time.AfterFunc(d, func() { p.s.recheck(p) })
	}
}

// renew lets the request continue until its route expires.
func (t *lease) renew(p *exchange, r *bundle.Route) {
	t.expiring = false
	if r.Expires.IsZero() {
		t.scheduleRecheck(p, 0)
		return
	}
	t.scheduleRecheck(p, max(time.Until(r.Expires)+revokeGrace, time.Millisecond))
}

// revoke applies a new configuration to the requests in progress. Those that it would deny are canceled
// after revokeGrace.
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

// verdictUnder returns the verdict of another configuration on a request in progress. Learn mode denies
// those that carry a credential.
func (p *exchange) verdictUnder(l *activeConfig) (policy.Verdict, *bundle.Route) {
	v, route := l.decideOrLearn(p.info, time.Now())
	if v.Rule == learnRule && p.route.Auth != nil {
		return policy.Denied(learnRule, v.Why), nil
	}
	return v, route
}

// recheck cancels a request unless the current configuration allows it.
func (s *server) recheck(p *exchange) {
	v, route := p.verdictUnder(s.active.Load())
	s.leases.mu.Lock()
	t := s.leases.open[p] // nil: the request has ended
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
