package supervisor

import (
	"errors"
	"syscall"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
)

// waiter waits for the outcome of a change.
type waiter struct {
	outcome    chan<- error // buffered
	generation int          // of the process whose start decides; a later one does, too
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

// promoteSuccessor makes the successor, which has become ready, the current process.
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

// drain asks a replaced process to finish its requests and exit.
func (t *table) drain(d *daemon, p *process) {
	p.stopRequested = true
	d.draining[p.generation] = p
	p.timer = time.AfterFunc(grace+time.Second, func() { t.post(p.kill) })
	p.Signal(syscall.SIGTERM)
}

// onReplacementFailed handles a successor that did not become ready: the old process stays.
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

// replaceIfRequested replaces the daemon again if that was requested in the meantime.
func (t *table) replaceIfRequested(d *daemon) {
	if d.replaceAgain {
		d.replaceAgain = false
		t.replace(d)
	}
}

// replace starts a successor, or the daemon itself if it is down. During a start or a replacement it
// only sets replaceAgain, so any number of requests causes one more replacement.
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

// reload sends SIGHUP to the current process. A process that is starting may get it, too, and reads the
// new file anyway.
func (t *table) reload(d *daemon) {
	if d != nil && d.current != nil && t.stopRequests == 0 {
		d.current.Signal(syscall.SIGHUP)
	}
}

// restart replaces a daemon. outcome gets the result of a process that starts after this call.
func (t *table) restart(d *daemon, outcome chan<- error) {
	t.addWaiter(d, outcome, d.generation+1)
	t.replace(d)
}

// reloadConfig makes a daemon read its configuration again. outcome gets the result.
func (t *table) reloadConfig(d *daemon, outcome chan<- error) {
	switch {
	case d.name != bundle.Egress: // the others read their configuration only at a start
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

// addWaiter registers outcome for the process of that generation.
func (t *table) addWaiter(d *daemon, outcome chan<- error, generation int) {
	if t.stopRequests > 0 {
		outcome <- errStopping
		return
	}
	d.waiters = append(d.waiters, waiter{outcome, generation})
}

// notifyWaiters sends the outcome to the waiters for this generation or an older one.
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
