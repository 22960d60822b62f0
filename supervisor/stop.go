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

// announceNoSuccessor tells a process that ends, or is about to, that there is no
// need to wait for callers: nobody takes over.
func (p *process) announceNoSuccessor() {
	if p.link != nil {
		_ = p.link.Send(activation.KeyNoSuccessor, "1") // else it ends a little later
	}
}

// stop ends everything, in the reverse order of the start. The second call
// shortens the patience, the third ends it.
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

// stopNext tells the last daemon that still runs.
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

// stopRemaining tells all who still run, when one takes long: its slowness must not
// cost the others their own leave.
func (t *table) stopRemaining() {
	for _, name := range slices.Backward(t.order) {
		if d := t.daemons[name]; d.state != Stopping && t.move(d, Stop) && d.current != nil {
			t.stopDaemon(d)
		}
	}
}

// stopDaemon asks a daemon to end.
func (t *table) stopDaemon(d *daemon) {
	t.effects.logf("stopping %s", d.name)
	d.current.stopRequested = true
	d.current.announceNoSuccessor()
	d.current.Signal(syscall.SIGTERM)
}

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

// finished tells whether everything has ended.
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

// exitError carries the exit code of the worst child.
type exitError struct {
	daemon string
	code   int
}

func (e *exitError) Error() string { return fmt.Sprintf("%s ended with code %d", e.daemon, e.code) }

// ExitCode is the highest code among the daemons'.
func (e *exitError) ExitCode() int { return e.code }

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
