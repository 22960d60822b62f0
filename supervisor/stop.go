package supervisor

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"syscall"
	"time"

	"airlock/internal/activation"
)

// announceNoSuccessor informs a process that no other takes over its sockets, so that it closes idle
// connections at once when it stops.
func (p *process) announceNoSuccessor() {
	if p.link != nil {
		_ = p.link.Send(activation.KeyNoSuccessor, "1") // if this fails, the process ends a little later
	}
}

// stop stops the daemons in the reverse order of their start. The second call shortens the grace
// period, the third kills all processes.
func (t *table) stop() {
	t.stopRequests++
	switch t.stopRequests {
	case 1:
		t.killTimer = time.AfterFunc(grace, func() { t.post(t.killAll) })
		t.stopAllTimer = time.AfterFunc(grace/2, func() { t.post(t.stopRemaining) })
	case 2:
		t.killTimer.Reset(shortGrace)
		return
	default:
		t.killAll()
		return
	}
	for _, d := range t.daemons {
		t.notifyWaiters(d, math.MaxInt, errStopping)
		if d.successor != nil {
			d.successor.stopRequested = true
			d.successor.kill()
		}
		for _, p := range d.draining {
			p.announceNoSuccessor()
		}
	}
	t.stopNext()
}

// stopNext stops the last daemon of the order that still runs, unless one is stopping already.
func (t *table) stopNext() {
	for _, name := range slices.Backward(t.order) {
		d := t.daemons[name]
		if d.state == Stopping {
			return
		}
		if !t.move(d, Stop) {
			continue
		}
		if d.current == nil {
			t.move(d, Exits)
			continue
		}
		t.stopDaemon(d)
		return
	}
}

// stopRemaining stops all daemons that still run. It is called when one takes long to stop, so that
// the others get the rest of the grace period.
func (t *table) stopRemaining() {
	for _, name := range slices.Backward(t.order) {
		if d := t.daemons[name]; d.state != Stopping && t.move(d, Stop) && d.current != nil {
			t.stopDaemon(d)
		}
	}
}

// stopDaemon asks the current process of a daemon to exit.
func (t *table) stopDaemon(d *daemon) {
	t.effects.logf("stopping %s", d.name)
	d.current.stopRequested = true
	d.current.announceNoSuccessor()
	d.current.Signal(syscall.SIGTERM)
}

// killAll kills all processes.
func (t *table) killAll() {
	for _, d := range t.daemons {
		for _, p := range append(slices.Collect(maps.Values(d.draining)), d.current, d.successor) {
			if p != nil {
				p.stopRequested = true
				p.kill()
			}
		}
	}
}

// finished reports whether a stop was requested and all processes have exited.
func (t *table) finished() bool {
	if t.stopRequests == 0 {
		return false
	}
	for _, d := range t.daemons {
		if d.state != Stopped || d.successor != nil || len(d.draining) > 0 {
			return false
		}
	}
	t.killTimer.Stop()
	t.stopAllTimer.Stop()
	return true
}

// exitError carries the highest exit code of the daemons.
type exitError struct {
	daemon string
	code   int
}

func (e *exitError) Error() string { return fmt.Sprintf("%s ended with code %d", e.daemon, e.code) }

// ExitCode returns that code.
func (e *exitError) ExitCode() int { return e.code }

// result returns an exitError if a daemon ended with a code other than 0.
func (t *table) result() error {
	worst := &exitError{}
	for _, d := range t.daemons {
		if d.lastCode > worst.code {
			worst = &exitError{d.name, d.lastCode}
		}
	}
	if worst.code == 0 {
		return nil
	}
	return worst
}
