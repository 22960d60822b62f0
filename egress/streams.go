package egress

import (
	"context"
	"sync"
	"time"

	"airlock/internal/audit"
	"airlock/internal/policy"
)

// grace is how long a request may go on whose route has gone away: long
// enough for an ordinary answer, not for a stream.
const grace = 3 * time.Second

// streams are the requests in progress.
type streams struct {
	mu   sync.Mutex
	open map[*pass]*time.Timer // the end of its route; nil: it has none
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
		s.open = map[*pass]*time.Timer{}
	}
	var timer *time.Timer
	if !p.route.Expires.IsZero() {
		timer = time.AfterFunc(time.Until(p.route.Expires)+grace, func() { p.s.recallOne(p, p.live) })
	}
	s.open[p] = timer
	return ctx
}

func (s *streams) end(p *pass) {
	p.stop(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if timer := s.open[p]; timer != nil {
		timer.Stop()
	}
	delete(s.open, p)
}

// recall judges the requests in progress by new rules. Those that would not
// pass any more end after the grace.
func (s *server) recall(next *live) {
	s.streams.mu.Lock()
	defer s.streams.mu.Unlock()
	for p, timer := range s.streams.open {
		if v := p.judgedBy(next); v.Allow {
			continue
		}
		if timer != nil {
			timer.Stop()
		}
		s.streams.open[p] = time.AfterFunc(grace, func() { s.recallOne(p, s.live.Load()) })
	}
}

// judgedBy is the verdict of other rules on a request in progress. Learn mode
// lets none pass that carries a credential.
func (p *pass) judgedBy(l *live) policy.Verdict {
	v, _ := l.ruling(p.ask, time.Now())
	if v.Rule == learnRule && p.route.Auth != nil {
		return policy.Denied(learnRule, v.Why)
	}
	return v
}

// recallOne ends a request unless the rules let it pass again.
func (s *server) recallOne(p *pass, by *live) {
	v := p.judgedBy(by)
	if v.Allow {
		return
	}
	v.Why = "in progress, and ended: " + v.Why
	s.log.Info("ended a request whose route went away", "host", p.authority.String(), "rule", v.Rule, "why", v.Why)
	err := s.audit.Record(audit.Entry{Verdict: v.Word(), Rule: v.Rule, Why: v.Why, Host: p.authority.String(), Method: safeMethod(p.ask.method), Path: audit.SafePath(p.ask.path)})
	if err != nil {
		s.log.Error("the audit cannot be written", "error", err)
	}
	p.stop(&goneError{v})
}
