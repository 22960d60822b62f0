package pipelock

import (
	"context"
	"time"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/policy"
)

// defaultAsk is how long a request waits for a person.
const defaultAsk = time.Minute

// leaveAsk is how long one waits on when this process is replaced: the
// refusal must still get out.
const leaveAsk = drain / 2

// ask holds a request until a person has answered. Only a yes lets it pass.
func (s *server) ask(ctx context.Context, p *exchange, v policy.Verdict) policy.Verdict {
	p.hide(v)
	q := policy.Leak{Rule: v.Rule, Why: v.Why, Method: p.method, URL: p.scheme + "://" + p.shown(v) + audit.SafePath(p.path)}
	asked, err := activation.Propose(ctx, q)
	if err != nil {
		v.Why += "; nobody could be asked: " + err.Error()
		return v
	}
	p.proposal = asked.ID
	if err := s.report(p, wordAsk, v); err != nil {
		asked.Withdraw("the audit cannot be written")
		return unwritten()
	}
	d, why := s.await(ctx, asked)
	switch {
	case why != "":
		asked.Withdraw(why)
		v.Why += "; proposal " + asked.ID + ": " + why
	case !d.Approved:
		v.Why += "; proposal " + asked.ID + " was denied"
		if d.Answer != "" {
			v.Why += ": " + d.Answer
		}
	default:
		if err := s.report(p, wordApproved, v); err != nil {
			return unwritten()
		}
		return policy.Allowed("proposal " + asked.ID)
	}
	return v
}

// noticeWait is how long a request waits until the operator's list has a notice about it.
const noticeWait = 2 * time.Second

// notify puts a notice on the operator's list: something was found and overwritten. The audit has
// it already; where there is no list, that is all.
func (s *server) notify(p *exchange, v policy.Verdict) {
	ctx, cancel := context.WithTimeout(context.Background(), noticeWait)
	defer cancel()
	q := policy.Leak{Rule: v.Rule, Why: v.Why, Method: p.method, URL: p.scheme + "://" + p.shown(v) + audit.SafePath(p.path), Overwritten: true}
	asked, err := activation.Propose(ctx, q)
	if err != nil {
		s.log.Warn("the operator's list has no notice of what was overwritten", "rule", v.Rule, "error", err)
		return
	}
	select {
	case <-asked.Decided(): // at once
	case <-ctx.Done():
		asked.Withdraw("no answer")
	}
}

// await waits for the decision, or says why there is none.
func (s *server) await(ctx context.Context, asked *activation.Proposed) (d activation.Decision, why string) {
	timeout := time.NewTimer(s.askWait)
	defer timeout.Stop()
	over := s.over
	for {
		select {
		case d = <-asked.Decided():
			if d.Error != "" {
				return d, d.Error
			}
			return d, ""
		case <-timeout.C:
			return d, "nobody answered in time"
		case <-asked.Gone():
			return d, "the supervisor is gone"
		case <-ctx.Done():
			return d, "the client has left"
		case <-over:
			over = nil
			timeout.Reset(min(s.askWait, leaveAsk))
		}
	}
}
