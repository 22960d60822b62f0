package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// Words of a proposal on the link. A daemon has no way to the folder of the
// proposals: it asks the supervisor, which writes what is asked there and passes
// on what a person has said.
const (
	keyPropose  = "X_PROPOSE"  // daemon: number, space, what is asked, as JSON
	keyWithdraw = "X_WITHDRAW" // daemon: number, space, why
	keyProposed = "X_PROPOSED" // supervisor: number, space, the id of the proposal
	keyDecided  = "X_DECIDED"  // supervisor: number, space, the answer as JSON
)

// maxAsked bounds how many proposals of one process are open at a time.
const maxAsked = 64

// Errors of Propose that a caller tells apart.
var (
	ErrNobody   = errors.New("there is no supervisor that could ask anybody")
	errHungUp   = errors.New("the supervisor is gone")
	errTooMuch  = errors.New("too many questions are open; wait until one is answered")
	errNotAsked = errors.New("no questions are taken from this daemon")
)

// Decision is what came of a proposal.
type Decision struct {
	Approved bool   `json:"approved"`
	Answer   string `json:"answer,omitempty"` // the operator's words
	Error    string `json:"error,omitempty"`  // why nobody could be asked
}

// asked is one proposal of this process.
type asked struct {
	id      chan string
	decided chan Decision
}

// Proposed is a proposal that a person can answer.
type Proposed struct {
	ID     string
	number uint64
	link   *link
	asked
}

// Propose asks a person through the supervisor.
func Propose(ctx context.Context, question any) (*Proposed, error) {
	l := ownLink()
	if l == nil || l.socket == nil {
		return nil, ErrNobody
	}
	return l.propose(ctx, question)
}

// ask sends a question.
func (l *link) ask(question any) (*Proposed, error) {
	text, err := json.Marshal(question)
	if err != nil {
		return nil, fmt.Errorf("asking over the link: %w", err)
	}
	p := &Proposed{link: l, asked: asked{make(chan string, 1), make(chan Decision, 1)}}
	l.mu.Lock()
	l.number++
	p.number = l.number
	if l.asked == nil {
		l.asked = map[uint64]asked{}
	}
	l.asked[p.number] = p.asked
	l.mu.Unlock()
	if err := l.say(keyPropose, fmt.Sprintf("%d %s", p.number, text)); err != nil {
		p.forget()
		return nil, fmt.Errorf("asking the supervisor: %w", err)
	}
	return p, nil
}

func (l *link) propose(ctx context.Context, question any) (*Proposed, error) {
	p, err := l.ask(question)
	if err != nil {
		return nil, err
	}
	select {
	case p.ID = <-p.id:
		return p, nil
	case d := <-p.decided:
		select {
		case p.ID = <-p.id: // a notice is decided as soon as it has an ID
			p.decided <- d
			return p, nil
		default:
		}
		p.forget()
		return nil, errors.New(d.Error)
	case <-l.gone:
		p.forget()
		return nil, errHungUp
	case <-ctx.Done():
		p.Withdraw("the client has left")
		return nil, ctx.Err()
	}
}

// Submit leaves a proposal with the supervisor, for a person who may answer at any time, and returns its id. Nobody waits for the answer:
// it comes as a change of the policy.
func Submit(ctx context.Context, question any) (id string, err error) {
	l := ownLink()
	if l == nil || l.socket == nil {
		return "", ErrNobody
	}
	return l.submit(ctx, question)
}

func (l *link) submit(ctx context.Context, question any) (id string, err error) {
	p, err := l.ask(question)
	if err != nil {
		return "", err
	}
	defer p.forget()
	select {
	case d := <-p.decided:
		if d.Error != "" {
			return "", errors.New(d.Error)
		}
		return d.Answer, nil
	case <-l.gone:
		return "", errHungUp
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Decided gets what a person has said. Nothing comes when the supervisor is
// gone: see Gone.
func (p *Proposed) Decided() <-chan Decision { return p.decided }

// Gone is closed when nobody can answer any more.
func (p *Proposed) Gone() <-chan struct{} { return p.link.gone }

// Withdraw takes the proposal back, with the reason that the operator is
// shown. It is to be called in any case that is no decision.
func (p *Proposed) Withdraw(why string) {
	p.forget()
	_ = p.link.say(keyWithdraw, fmt.Sprintf("%d %s", p.number, why)) // a supervisor that is gone needs no news
}

func (p *Proposed) forget() {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	delete(p.link.asked, p.number)
}

// heardOf takes the supervisor's word about a proposal.
func (l *link) heardOf(key, val string) {
	number, text, _ := strings.Cut(val, " ")
	n, _ := strconv.ParseUint(number, 10, 64) // 0 is nobody's number
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.asked[n]
	if !known {
		return
	}
	if key == keyProposed {
		offer(a.id, text)
		return
	}
	var d Decision
	if json.Unmarshal([]byte(text), &d) != nil {
		d = Decision{Error: "the supervisor's answer cannot be read"}
	}
	offer(a.decided, d)
	delete(l.asked, n)
}

// offer never waits: a second word about the same is dropped.
func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

// Ask is how the supervisor asks a person for a daemon: it calls told with the
// id once there is one, and returns the decision. When ctx ends, the cause is
// the reason for which the daemon has taken the proposal back.
type Ask func(ctx context.Context, question []byte, told func(id string)) Decision

// proposals are the open ones of one process, at the supervisor's end.
type proposals struct {
	mu   sync.Mutex
	open map[string]context.CancelCauseFunc
}

// Takes lets the process propose. Each proposal has a goroutine that start
// runs. It is to be called before Listen.
func (l *Link) Takes(ask Ask, start func(func())) { l.asks, l.start = ask, start }

// propose begins to ask.
func (l *Link) propose(ctx context.Context, number, question string) {
	decided := func(d Decision) {
		if text, err := json.Marshal(d); err == nil {
			_ = l.Tell(keyDecided, number+" "+string(text)) // a process that does not listen waits in vain
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	l.proposals.mu.Lock()
	defer l.proposals.mu.Unlock()
	switch {
	case l.asks == nil:
		cancel(nil)
		decided(Decision{Error: errNotAsked.Error()})
		return
	case len(l.proposals.open) >= maxAsked:
		cancel(nil)
		decided(Decision{Error: errTooMuch.Error()})
		return
	}
	if l.proposals.open == nil {
		l.proposals.open = map[string]context.CancelCauseFunc{}
	}
	l.proposals.open[number] = cancel
	l.start(func() {
		defer cancel(nil)
		d := l.asks(ctx, []byte(question), func(id string) { _ = l.Tell(keyProposed, number+" "+id) })
		l.proposals.mu.Lock()
		delete(l.proposals.open, number)
		l.proposals.mu.Unlock()
		decided(d)
	})
}

// withdraw ends one.
func (l *Link) withdraw(number, why string) {
	l.proposals.mu.Lock()
	defer l.proposals.mu.Unlock()
	if cancel := l.proposals.open[number]; cancel != nil {
		cancel(errors.New(why))
	}
}
