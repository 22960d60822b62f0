package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
)

// simWorld simulates the effects of the table: its processes are actors that behave well or badly at
// random. It checks invariants of the table.
type simWorld struct {
	t             *testing.T
	actorRand     *rand.Rand // of the actors; used by the loop
	eventRand     *rand.Rand // of the events
	table         *table
	wellBehaved   bool // all actors that start from now on behave well
	actors        map[string][]*actor
	rejecting     map[string]bool
	failedDaemons map[string]bool // reported to the operator as failed
	restarts      sync.WaitGroup  // that wait for their outcome
}

// actor is a simulated process.
type actor struct {
	world       *simWorld
	name        string
	generation  int
	began       time.Time
	ignoresTERM bool // to SIGTERM
	termAt      time.Time
	dead        bool
}

func chance(dice *rand.Rand, percent int) bool { return dice.IntN(100) < percent }

func some(dice *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(dice.Int64N(int64(most)))
}

func (s *simWorld) launch(name string, generation int) (*process, error) {
	if s.table.stopRequests > 0 {
		s.t.Errorf("%s was started during the end", name)
	}
	if !s.wellBehaved && chance(s.actorRand, 5) {
		return nil, errors.New("no more processes")
	}
	a := &actor{world: s, name: name, generation: generation, began: time.Now(), ignoresTERM: !s.wellBehaved && chance(s.actorRand, 15)}
	s.actors[name] = append(s.actors[name], a)
	switch {
	case s.wellBehaved || chance(s.actorRand, 60):
		a.after(some(s.actorRand, 300*time.Millisecond), func() {
			s.table.onNotify(name, generation, activation.KeyDigest, fmt.Sprint(generation))
			s.table.onNotify(name, generation, activation.KeyReady, "1")
		})
		if !s.wellBehaved && chance(s.actorRand, 30) {
			a.after(some(s.actorRand, 3*time.Minute), func() { a.exit(1 << 8) })
		}
	case chance(s.actorRand, 70):
		a.after(some(s.actorRand, 300*time.Millisecond), func() { a.exit(2 << 8) })
	}
	return &process{child: a, pid: 1000 + generation}, nil
}

// after lets the loop run f, unless the actor is dead by then.
func (a *actor) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		a.world.table.post(func() {
			if !a.dead {
				f()
			}
		})
	})
}

func (a *actor) exit(status syscall.WaitStatus) {
	a.dead = true
	a.world.table.onExit(a.name, a.generation, status)
}

func (a *actor) Signal(sig syscall.Signal) {
	if sig != syscall.SIGTERM {
		return
	}
	if a.termAt.IsZero() {
		a.termAt = time.Now()
	}
	if !a.ignoresTERM {
		a.after(some(a.world.actorRand, 2*time.Second), func() { a.exit(0) })
	}
}

func (a *actor) SignalGroup(sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		a.after(time.Microsecond, func() { a.exit(syscall.WaitStatus(syscall.SIGKILL)) })
	}
}

func (s *simWorld) rejectConns(name string, on bool) { s.rejecting[name] = on }
func (s *simWorld) failed(name, _ string)            { s.failedDaemons[name] = true }
func (s *simWorld) recovered(name string)            { s.failedDaemons[name] = false }
func (s *simWorld) allReady()                        {}
func (s *simWorld) tableChanged()                    {}
func (s *simWorld) logf(string, ...any)              {}

// check checks the invariants; it runs in the loop.
func (s *simWorld) check() {
	for name, d := range s.table.daemons {
		wrong := func(what string) {
			s.t.Errorf("%s in state %s: %s", name, d.state, what)
		}
		if serves(d.state) != (d.current != nil && d.current.ready) && d.state != Stopping {
			wrong("a process serves in no other state, and in this one always")
		}
		if (d.successor != nil) != (d.state == Replacing) && s.table.stopRequests == 0 {
			wrong("a successor starts during a replacement only")
		}
		if d.current != nil && (d.state == Backoff || d.state == Failed || d.state == Down || d.state == Stopped) {
			wrong("there is a process")
		}
		if s.rejecting[name] && (d.state == Starting || serves(d.state)) {
			wrong("connections are rejected")
		}
		if d.state == Failed && (!s.rejecting[name] || !s.failedDaemons[name]) {
			wrong("connections wait, or the operator was not informed")
		}
		if s.failedDaemons[name] && serves(d.state) {
			wrong("expected the failure to be reported as recovered")
		}
		living := 0
		for _, a := range s.actors[name] {
			if a.dead {
				continue
			}
			if living++; !a.termAt.IsZero() && time.Since(a.termAt) > grace+2*time.Second {
				wrong("a process outlives its grace")
			}
			if known := d.draining[a.generation]; known == nil &&
				(d.current == nil || d.current.generation != a.generation) &&
				(d.successor == nil || d.successor.generation != a.generation) {
				wrong("a process is forgotten")
			}
		}
		if living > 2+len(d.draining) {
			wrong("too many processes")
		}
	}
}

// TestTableUnderRandomEvents runs random events against the table, in the fake time of synctest, and
// checks the invariants after each.
func TestTableUnderRandomEvents(t *testing.T) {
	seen := map[State]bool{}
	for seed := range uint64(400) {
		synctest.Test(t, func(t *testing.T) { simulate(t, seed, seen) })
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
	}
	for state := range transitions {
		if state != Down && state != Stopped && !seen[state] {
			t.Errorf("no play came to the state %s", state)
		}
	}
}

func simulate(t *testing.T, seed uint64, seen map[State]bool) {
	s := &simWorld{t: t, actorRand: rand.New(rand.NewPCG(seed, 1)), eventRand: rand.New(rand.NewPCG(seed, 2)), actors: map[string][]*actor{}, rejecting: map[string]bool{}, failedDaemons: map[string]bool{}}
	s.table = newTable(bundle.Daemons(), s)
	sig := signals{stop: make(chan os.Signal, 3), reload: make(chan os.Signal, 1), replace: make(chan os.Signal, 1)}
	ended := make(chan error, 1)
	go func() { ended <- s.table.loop(context.Background(), sig) }()
	look := func() {
		_ = s.table.runInLoop(func() {
			s.check()
			for _, d := range s.table.daemons {
				seen[d.state] = true
			}
		})
	}
	for range 60 {
		time.Sleep(some(s.eventRand, 4*time.Second))
		s.event(sig)
		look()
	}
	if chance(s.eventRand, 50) {
		s.checkRecovery()
	}
	sig.stop <- syscall.SIGTERM
	latest := time.Now().Add(grace)
	look()
	if chance(s.eventRand, 30) {
		time.Sleep(some(s.eventRand, time.Second))
		sig.stop <- syscall.SIGTERM
		latest = time.Now().Add(shortGrace)
	}
	<-ended
	if late := time.Since(latest); late > 10*time.Millisecond {
		t.Errorf("the end came %v too late", late)
	}
	for name, all := range s.actors {
		for _, a := range all {
			if !a.dead {
				t.Errorf("%s, generation %d, was left behind", name, a.generation)
			}
		}
	}
	s.restarts.Wait()     // all were told, or this is a deadlock
	time.Sleep(time.Hour) // timers that are left find nobody
}

// event causes a random event.
func (s *simWorld) event(sig signals) {
	name := s.table.order[s.eventRand.IntN(len(s.table.order))]
	send := func(c chan os.Signal) {
		select {
		case c <- syscall.SIGUSR1:
		default: // as os/signal does
		}
	}
	switch s.eventRand.IntN(5) {
	case 0:
		send(sig.replace)
	case 1:
		send(sig.reload)
	case 2: // a crash
		_ = s.table.runInLoop(func() {
			if p := s.table.daemons[name].current; p != nil {
				p.kill()
			}
		})
	default:
		for range 1 + s.eventRand.IntN(3) { // several at the same moment
			s.restart(name)
		}
	}
}

// restart requests a new process. On success, the process that serves must have started after the
// request.
func (s *simWorld) restart(name string) {
	asked, outcome := time.Now(), make(chan error, 1)
	if s.table.runInLoop(func() { s.table.restart(s.table.daemons[name], outcome) }) != nil {
		return
	}
	s.restarts.Go(func() {
		if <-outcome != nil {
			return
		}
		_ = s.table.runInLoop(func() {
			if all := s.actors[name]; all[len(all)-1].began.Before(asked) {
				s.t.Errorf("%s: the restart was said to be done, and no process has begun since", name)
			}
		})
	})
}

// checkRecovery makes every new process behave well: all daemons must serve again, failed ones after a
// restart by the operator, and no requested replacement may be lost.
func (s *simWorld) checkRecovery() {
	_ = s.table.runInLoop(func() { s.wellBehaved = true })
	time.Sleep(10 * time.Minute) // a process from before may still fail
	for _, name := range s.table.order {
		failed := false
		_ = s.table.runInLoop(func() { failed = s.table.daemons[name].state == Failed })
		if failed {
			s.restart(name)
		}
	}
	time.Sleep(10 * time.Minute)
	_ = s.table.runInLoop(func() {
		s.check()
		if !s.table.ready() {
			s.t.Error("not everything serves in quiet times")
		}
		for _, d := range s.table.daemons {
			if len(d.draining) > 0 || len(d.waiters) > 0 {
				s.t.Errorf("%s: %d drain and %d wait in quiet times", d.name, len(d.draining), len(d.waiters))
			}
		}
	})
}
