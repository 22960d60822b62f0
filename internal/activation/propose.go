package activation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Keys of proposals on the link. A daemon cannot write to the folder of proposals: it sends a proposal
// to the supervisor, which stores it there and passes on the operator's decision.
const (
	keyPropose  = "X_PROPOSE"  // daemon: number, space, the proposal as JSON
	keyWithdraw = "X_WITHDRAW" // daemon: number, space, why
	keyProposed = "X_PROPOSED" // supervisor: number, space, the id of the proposal
	keyDecided  = "X_DECIDED"  // supervisor: number, space, the Decision as JSON
)

// maxOpenProposals is how many proposals of one process may be open at a time.
const maxOpenProposals = 64

// Errors of Propose.
var (
	ErrNoSupervisor   = errors.New("there is no supervisor that could ask anybody")
	errSupervisorGone = errors.New("the supervisor is gone")
	errTooManyOpen    = errors.New("too many questions are open; wait until one is answered")
	errNotAllowed     = errors.New("no questions are taken from this daemon")
)

// Decision is the outcome of a proposal.
type Decision struct {
	Approved bool   `json:"approved"`
	Answer   string `json:"answer,omitempty"` // the operator's words
	Error    string `json:"error,omitempty"`  // why there is no decision
}

// pendingProposal is an open proposal of this process. Both channels have a buffer of one.
type pendingProposal struct {
	id      chan string
	decided chan Decision
}

// Proposed is a stored proposal that the operator can decide.
type Proposed struct {
	ID     string
	number uint64
	link   *daemonLink
	pendingProposal
}

// Propose sends a proposal to the supervisor and returns once it is stored.
func Propose(ctx context.Context, question any) (*Proposed, error) {
	l := ownLink()
	if l == nil || l.socket == nil {
		return nil, ErrNoSupervisor
	}
	return l.propose(ctx, question)
}

// sendProposal sends a proposal, without waiting for a reply.
func (l *daemonLink) sendProposal(question any) (*Proposed, error) {
	text, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("asking over the link: %w", err)
	}
	p := &Proposed{link: l, pendingProposal: pendingProposal{make(chan string, 1), make(chan Decision, 1)}}
	l.mu.Lock()
	l.lastNumber++
	p.number = l.lastNumber
	if l.proposals == nil {
		l.proposals = map[uint64]pendingProposal{}
	}
	l.proposals[p.number] = p.pendingProposal
	l.mu.Unlock()
	if err := l.send(keyPropose, fmt.Sprintf("%d %s", p.number, text)); err != nil {
		p.remove()
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	return p, nil
}

func (l *daemonLink) propose(ctx context.Context, question any) (*Proposed, error) {
	p, err := l.sendProposal(question)
	if err != nil {
		return nil, err
	}
	select {
	case p.ID = <-p.id:
		return p, nil
	case d := <-p.decided:
		select {
		case p.ID = <-p.id: // the decision may come together with the ID
			p.decided <- d
			return p, nil
		default:
		}
		p.remove()
		return nil, errors.New(d.Error)
	case <-l.supervisorGone:
		p.remove()
		return nil, errSupervisorGone
	case <-ctx.Done():
		p.Withdraw("the client has left")
		return nil, ctx.Err()
	}
}

// Submit stores a proposal with the supervisor and returns its ID. The daemon does not wait for the
// decision, which takes effect as a change of the policy.
func Submit(ctx context.Context, question any) (id string, err error) {
	l := ownLink()
	if l == nil || l.socket == nil {
		return "", ErrNoSupervisor
	}
	return l.submit(ctx, question)
}

func (l *daemonLink) submit(ctx context.Context, question any) (id string, err error) {
	p, err := l.sendProposal(question)
	if err != nil {
		return "", err
	}
	defer p.remove()
	select {
	case d := <-p.decided:
		if d.Error != "" {
			return "", errors.New(d.Error)
		}
		return d.Answer, nil
	case <-l.supervisorGone:
		return "", errSupervisorGone
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Decided returns a channel that gets the operator's decision. It gets nothing when the supervisor is
// gone: see Gone.
func (p *Proposed) Decided() <-chan Decision { return p.decided }

// Gone returns a channel that is closed when the supervisor is gone.
func (p *Proposed) Gone() <-chan struct{} { return p.link.supervisorGone }

// Withdraw withdraws the proposal, with a reason that is shown to the operator. It must be called
// unless a decision has come.
func (p *Proposed) Withdraw(why string) {
	p.remove()
	_ = p.link.send(keyWithdraw, fmt.Sprintf("%d %s", p.number, why)) // fails when the supervisor is gone
}

func (p *Proposed) remove() {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	delete(p.link.proposals, p.number)
}

// handleProposal handles the supervisor's message about a proposal.
func (l *daemonLink) handleProposal(key, val string) {
	number, text, _ := strings.Cut(val, " ")
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is never used
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.proposals[n]
	if !known {
		return
	}
	if key == keyProposed {
		trySend(a.id, text)
		return
	}
	var d Decision
	if json.Unmarshal([]byte(text), &d) != nil {
		d = Decision{Error: "the supervisor's answer cannot be read"}
	}
	trySend(a.decided, d)
	delete(l.proposals, n)
}

// trySend sends without blocking. A second message about the same proposal is dropped.
func trySend[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

// ProposeFunc is how the supervisor puts a proposal of a daemon to the operator: it calls stored
// with the ID of the proposal, and returns the decision. When ctx ends, the cause is the reason for
// which the daemon has withdrawn the proposal.
type ProposeFunc func(ctx context.Context, question []byte, stored func(id string)) Decision

// openProposals are the open proposals of one process, at the supervisor's end.
type openProposals struct {
	mu      sync.Mutex
	cancels map[string]context.CancelCauseFunc
}

// OnPropose lets the process propose. Each proposal is handled in a goroutine that run starts. It must
// be called before Receive.
func (l *Link) OnPropose(propose ProposeFunc, run func(func())) { l.onPropose, l.run = propose, run }

// startProposal starts the handling of a proposal.
func (l *Link) startProposal(ctx context.Context, number, question string) {
	decided := func(d Decision) {
		if text, err := json.Marshal(d); err == nil {
			_ = l.Send(keyDecided, number+" "+string(text)) // lost if the process does not read its link
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	l.proposals.mu.Lock()
	defer l.proposals.mu.Unlock()
	switch {
	case l.onPropose == nil:
		cancel(nil)
		decided(Decision{Error: errNotAllowed.Error()})
		return
	case len(l.proposals.cancels) >= maxOpenProposals:
		cancel(nil)
		decided(Decision{Error: errTooManyOpen.Error()})
		return
	}
	if l.proposals.cancels == nil {
		l.proposals.cancels = map[string]context.CancelCauseFunc{}
	}
	l.proposals.cancels[number] = cancel
	l.run(func() {
		defer cancel(nil)
		d := l.onPropose(ctx, []byte(question), func(id string) { _ = l.Send(keyProposed, number+" "+id) })
		l.proposals.mu.Lock()
		delete(l.proposals.cancels, number)
		l.proposals.mu.Unlock()
		decided(d)
	})
}

// withdrawProposal cancels the handling of a proposal.
func (l *Link) withdrawProposal(number, why string) {
	l.proposals.mu.Lock()
	defer l.proposals.mu.Unlock()
	if cancel := l.proposals.cancels[number]; cancel != nil {
		cancel(errors.New(why))
	}
}
