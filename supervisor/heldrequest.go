package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/policy"
	"airlock/internal/proposal"
)

// defaultOpen is how many proposals may be open if supervise.yaml does not say.
const defaultOpen = 50

// maxAnswer bounds the operator's answer to a daemon, in bytes: it must fit into a line of the link.
const maxAnswer = 512

// heldRequests are the requests that wait for the operator, by the IDs of their proposals. Decisions
// come only over the control socket, never from the store: its folder belongs to a daemon that the
// agent can talk to. Its methods may be called concurrently.
type heldRequests struct {
	mu        sync.Mutex
	decisions map[string]chan proposal.Proposal
}

// add registers a request and returns the channel of its decision.
func (l *heldRequests) add(id string) <-chan proposal.Proposal {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.decisions == nil {
		l.decisions = map[string]chan proposal.Proposal{}
	}
	c := make(chan proposal.Proposal, 1)
	l.decisions[id] = c
	return c
}

// decide passes a decision to the request that waits for it, if any.
func (l *heldRequests) decide(p proposal.Proposal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.decisions[p.ID]; c != nil {
		delete(l.decisions, p.ID)
		c <- p // buffered
	}
}

// isHeld reports whether a request waits for a decision.
func (l *heldRequests) isHeld(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.decisions[id] != nil
}

func (l *heldRequests) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.decisions, id)
}

// readQuestion decodes a daemon's question into q. It returns the configuration and the store of
// proposals, in which the question is to be kept.
func (s *supervisor) readQuestion(question []byte, q any) (bundle.SuperviseFile, *proposal.Store, error) {
	var f bundle.SuperviseFile
	if err := json.Unmarshal(question, q); err != nil {
		return f, nil, errors.New("a question that cannot be read")
	}
	f, _, err := bundle.Load[bundle.SuperviseFile](s.dirs.File(bundle.Supervise))
	if err != nil {
		return f, nil, fmt.Errorf("no proposals are kept here: %w", err)
	}
	store, err := s.proposals()
	return f, store, err
}

// proposeHeld returns a function that proposes to the operator to release a request that the daemon
// holds.
func (s *supervisor) proposeHeld(daemon string) activation.ProposeFunc {
	return func(ctx context.Context, question []byte, stored func(id string)) activation.Decision {
		var q policy.Leak
		f, store, err := s.readQuestion(question, &q)
		if err != nil {
			return activation.Decision{Error: err.Error()}
		}
		kind := proposal.Leak
		if q.Overwritten {
			kind = proposal.Overwritten
		}
		mask := s.out.mask.maskString
		p := proposal.Proposal{
			Kind: kind, Daemon: daemon, Rule: mask(q.Rule), URL: mask(q.URL),
			Methods: []string{mask(q.Method)}, Why: mask(q.Rule + ": " + q.Why),
		}
		if p, err = store.Create(p, cmp.Or(f.Limits.OpenProposals, defaultOpen)); err != nil {
			return activation.Decision{Error: err.Error()}
		}
		if q.Overwritten {
			stored(p.ID)
			return activation.Decision{Approved: true}
		}
		defer s.heldRequests.remove(p.ID)
		return s.awaitDecision(ctx, store, p, stored)
	}
}

// awaitDecision waits for the decision. If the proposal is withdrawn, it is closed in the store, so
// that the operator is not asked any more.
func (s *supervisor) awaitDecision(ctx context.Context, store *proposal.Store, p proposal.Proposal, stored func(id string)) activation.Decision {
	decided := s.heldRequests.add(p.ID)
	stored(p.ID)
	select {
	case answer := <-decided:
		return activation.Decision{Approved: answer.State == proposal.Approved, Answer: answer.Answer[:min(len(answer.Answer), maxAnswer)]}
	case <-ctx.Done():
		why := context.Cause(ctx).Error()
		if _, err := store.Answer(p.ID, proposal.Denied, "withdrawn: "+why); err != nil {
			s.logf("proposal %s stays open: %v", p.ID, err)
		}
		return activation.Decision{Error: why}
	}
}
