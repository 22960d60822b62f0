package supervisor

import (
	"errors"
	"syscall"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
)

// waiter wants to know what became of a change.
type waiter struct {
	outcome    chan<- error // has room
	generation int          // of the process that will show it, or a later one
}

func (t *table) onSuccessorNotify(d *daemon, key, val string) {
	switch key {
	case activation.KeyDigest:
		d.nextDigest = val
	case activation.KeyError:
		d.problem = val
	case activation.KeyReady:
		t.promoteSuccessor(d)
	}
}

// promoteSuccessor puts the successor, which serves, in the place of the old process.
func (t *table) promoteSuccessor(d *daemon) {
	if !t.move(d, SuccessorReady) {
		return
	}
	old := d.current
	d.current, d.successor = d.successor, nil
	d.current.ready = true
	d.current.timer.Stop()
	d.digest, d.problem, d.crashes = d.nextDigest, "", 0
	t.drain(d, old)
	t.effects.logf("%s was replaced: generation %d serves", d.name, d.current.generation)
	t.notifyWaiters(d, d.current.generation, nil)
	t.replaceIfRequested(d)
}

// drain lets a process finish what it has begun.
func (t *table) drain(d *daemon, p *process) {
	p.stopRequested = true
	d.draining[p.generation] = p
	p.timer = time.AfterFunc(grace+time.Second, func() { t.post(p.kill) })
	p.Signal(syscall.SIGTERM)
}

// onReplacementFailed keeps the old process.
func (t *table) onReplacementFailed(d *daemon, why string) {
	generation := d.successor.generation
	d.successor = nil
	if d.problem == "" {
		d.problem = why
	}
	d.problem = "config rejected: " + d.problem
	t.move(d, SuccessorFails)
	t.effects.logf("%s was not replaced, the old one serves on: %s", d.name, d.problem)
	t.notifyWaiters(d, generation, errors.New(d.problem))
	t.replaceIfRequested(d)
}

// replaceIfRequested replaces again when that was asked for in the meantime.
func (t *table) replaceIfRequested(d *daemon) {
	if d.replaceAgain {
		d.replaceAgain = false
		t.replace(d)
	}
}

// replace starts a successor, or the daemon itself where it is down. During a
// start or a replacement it is remembered, once, however often it is asked for.
func (t *table) replace(d *daemon) {
	if d == nil || t.stopRequests > 0 {
		return
	}
	switch d.state {
	case Starting, Replacing:
		d.replaceAgain = true
	case Ready:
		p := t.launch(d)
		if p == nil {
			t.notifyWaiters(d, d.generation, errors.New("the replacement could not be started: "+d.lastExit))
			return
		}
		d.problem, d.nextDigest = "", ""
		d.successor = p
		t.move(d, Replace)
	case Backoff, Failed:
		d.crashes = 0
		t.startDaemon(d, Replace)
	}
}

// reload passes SIGHUP on to a daemon that serves. One that is just starting
// reads the new file anyway.
func (t *table) reload(d *daemon) {
	if d != nil && d.current != nil && t.stopRequests == 0 {
		d.current.Signal(syscall.SIGHUP)
	}
}

// restart replaces a daemon for somebody who wants to know the outcome: that
// of a process which starts after this call.
func (t *table) restart(d *daemon, outcome chan<- error) {
	t.addWaiter(d, outcome, d.generation+1)
	t.replace(d)
}

// reloadConfig makes a daemon read its configuration again for somebody who wants
// to know the outcome.
func (t *table) reloadConfig(d *daemon, outcome chan<- error) {
	switch {
	case d.name != bundle.Egress: // the others read it when they start
		t.restart(d, outcome)
		return
	case d.current == nil:
		t.addWaiter(d, outcome, d.generation+1)
	case d.successor != nil:
		t.addWaiter(d, outcome, d.successor.generation)
	default:
		t.addWaiter(d, outcome, d.current.generation)
	}
	t.reload(d)
}

func (t *table) addWaiter(d *daemon, outcome chan<- error, generation int) {
	if t.stopRequests > 0 {
		outcome <- errStopping
		return
	}
	d.waiters = append(d.waiters, waiter{outcome, generation})
}

// notifyWaiters tells those who wait for this generation or an older one.
func (t *table) notifyWaiters(d *daemon, generation int, err error) {
	var rest []waiter
	for _, w := range d.waiters {
		if w.generation > generation {
			rest = append(rest, w)
			continue
		}
		w.outcome <- err
	}
	d.waiters = rest
}
