package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/control"
	"airlock/internal/reap"
)

// Time limits.
const (
	grace        = 8 * time.Second  // for all daemons together, after SIGTERM
	shortGrace   = time.Second      // after a second SIGTERM
	readyTimeout = 10 * time.Second // a start or a replacement
)

var (
	errSupervisorGone = errors.New("the supervisor is gone")
	errStopping       = errors.New("the supervisor is stopping")
)

// effects are the side effects of the table. The loop calls them, so none may block.
type effects interface {
	// launch starts a process. It reports what happens to it with onNotify and onExit.
	launch(daemon string, generation int) (*process, error)
	// rejectConns makes connections to a daemon be reset, or lets them wait.
	rejectConns(daemon string, on bool)
	// failed and recovered inform the operator.
	failed(daemon, why string)
	recovered(daemon string)
	// allReady is called once, when every daemon serves.
	allReady()
	// tableChanged is called after each event.
	tableChanged()
	logf(format string, args ...any)
}

// child is a running process: a *reap.Process.
type child interface {
	Signal(syscall.Signal)
	SignalGroup(syscall.Signal)
}

// process is one run of a daemon.
type process struct {
	child
	pid           int
	generation    int
	started       time.Time
	ready         bool
	stopRequested bool // by the supervisor: its exit is no crash
	timer         *time.Timer
	link          *activation.Link
	isolation     control.Isolation
	memory        *memLimit
	degraded      string // what it cannot do; empty: nothing
	unavailable   string // why it refuses all requests; empty: it does not
}

// kill kills the process group.
func (p *process) kill() { p.SignalGroup(syscall.SIGKILL) }

// daemon is one row of the table. The loop owns it.
type daemon struct {
	name            string
	state           State
	current         *process
	successor       *process
	draining        map[int]*process // by generation
	replaceAgain    bool             // a replacement was requested during a start or a replacement
	crashes         int              // without a stable run in between
	starts          int
	generation      int       // of the newest process
	downSince       time.Time // since when no process serves; zero: one does
	failureReported bool      // the failure was reported to the operator
	lastExit        string
	lastCode        int
	digest          string
	problem         string
	nextDigest      string // the digest that the successor reported
	waiters         []waiter
}

// table holds the state of the daemons. The goroutine of loop owns it; other goroutines use post and
// runInLoop.
type table struct {
	effects effects
	order   []string
	daemons map[string]*daemon
	tasks   chan func()
	done    chan struct{} // closed when the loop ends

	stopRequests  int // how often a stop was requested
	killTimer     *time.Timer
	stopAllTimer  *time.Timer
	readyReported bool // allReady was called
}

// signals are the signals that the loop handles.
type signals struct{ stop, reload, replace chan os.Signal }

func newTable(order []string, w effects) *table {
	t := &table{effects: w, order: order, daemons: map[string]*daemon{}, tasks: make(chan func(), 64), done: make(chan struct{})}
	for _, name := range order {
		t.daemons[name] = &daemon{name: name, state: Down, draining: map[int]*process{}}
	}
	return t
}

// post lets the loop run f later.
func (t *table) post(f func()) {
	select {
	case t.tasks <- f:
	case <-t.done:
	}
}

// runInLoop lets the loop run f and waits until it has.
func (t *table) runInLoop(f func()) error {
	done := make(chan struct{})
	t.post(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-t.done:
		return errSupervisorGone
	}
}

// loop handles events until all daemons have stopped.
func (t *table) loop(ctx context.Context, sig signals) error {
	defer close(t.done)
	for _, name := range t.order {
		t.startDaemon(t.daemons[name], Start)
	}
	done := ctx.Done()
	for !t.finished() {
		select {
		case <-done:
			done = nil
			t.stop()
		case <-sig.stop:
			t.stop()
		case <-sig.reload:
			t.reload(t.daemons[bundle.Egress])
		case <-sig.replace:
			t.replace(t.daemons[bundle.Pipelock])
		case f := <-t.tasks:
			f()
		}
		t.reportReady()
		t.effects.tableChanged()
	}
	return t.result()
}

// move applies an event to the state of a daemon and reports whether the state has that event.
func (t *table) move(d *daemon, e Event) bool {
	to, ok := nextState(d.state, e)
	if !ok {
		return false
	}
	d.state = to
	switch {
	case serves(to):
		d.downSince = time.Time{}
	case d.downSince.IsZero():
		d.downSince = time.Now()
	}
	t.effects.rejectConns(d.name, rejectsConns(to, time.Since(d.downSince)))
	return true
}

// startDaemon starts a process of the daemon if its state has the event.
func (t *table) startDaemon(d *daemon, e Event) {
	if t.stopRequests > 0 || !t.move(d, e) {
		return
	}
	p := t.launch(d)
	if p == nil {
		t.onCrash(d, time.Now())
		return
	}
	d.current = p
}

// launch starts a process of the daemon, which is killed unless it becomes ready within readyTimeout.
func (t *table) launch(d *daemon) *process {
	d.generation++
	p, err := t.effects.launch(d.name, d.generation)
	if err != nil {
		t.effects.logf("%s could not be started: %v", d.name, err)
		d.lastExit = err.Error()
		return nil
	}
	d.starts++
	p.generation, p.started = d.generation, time.Now()
	p.timer = time.AfterFunc(readyTimeout, func() { t.post(func() { t.onStartTimeout(d, p) }) })
	return p
}

// onStartTimeout is called readyTimeout after the start of a process, if it was not ready before.
func (t *table) onStartTimeout(d *daemon, p *process) {
	switch {
	case d.successor == p:
		d.problem = fmt.Sprintf("the replacement was not ready within %v", readyTimeout)
		p.kill()
	case d.current == p && !p.ready:
		t.effects.logf("%s was not ready within %v", d.name, readyTimeout)
		p.kill()
	}
}

// onCrash handles the exit of the current process that was not requested: it schedules the next start,
// or gives up.
func (t *table) onCrash(d *daemon, since time.Time) {
	var e Event
	e, d.crashes = afterExit(time.Since(since), d.crashes)
	if !t.move(d, e) {
		return
	}
	d.replaceAgain = false // the next start reads the current configuration anyway
	if d.state == Failed {
		why := fmt.Sprintf("%s ended %d times in a row, last with %s; it stays down until it is restarted by hand (ctl restart %s)", d.name, d.crashes, d.lastExit, d.name)
		t.effects.logf("%s", why)
		t.effects.failed(d.name, why)
		d.failureReported = true
		t.notifyWaiters(d, d.generation, fmt.Errorf("%s does not stay up: %s", d.name, d.lastExit))
		return
	}
	pause := backoffDelay(d.crashes, rand.Float64())
	t.effects.logf("%s ended (%s); it starts again in %v", d.name, d.lastExit, pause.Round(time.Millisecond))
	generation := d.generation
	time.AfterFunc(pause, func() {
		t.post(func() {
			if d.state == Backoff && d.generation == generation {
				t.startDaemon(d, Due)
			}
		})
	})
	if left := rejectAfter - time.Since(d.downSince); left > 0 && left < pause {
		time.AfterFunc(left, func() {
			t.post(func() {
				t.effects.rejectConns(d.name, !d.downSince.IsZero() && rejectsConns(d.state, time.Since(d.downSince)))
			})
		})
	}
}

// onExit handles the exit of a process.
func (t *table) onExit(name string, generation int, status syscall.WaitStatus) {
	d := t.daemons[name]
	switch p := d.draining[generation]; {
	case p != nil:
		delete(d.draining, generation)
		p.timer.Stop()
	case d.successor != nil && d.successor.generation == generation:
		d.successor.timer.Stop()
		why := describe(status) + d.successor.memory.exitNote()
		t.onReplacementFailed(d, "the replacement ended before it was ready ("+why+")")
	case d.current != nil && d.current.generation == generation:
		t.onCurrentExit(d, status)
	}
}

func (t *table) onCurrentExit(d *daemon, status syscall.WaitStatus) {
	p := d.current
	d.current = nil
	p.timer.Stop()
	d.lastExit, d.lastCode = describe(status)+p.memory.exitNote(), reap.ExitCode(status)
	if p.stopRequested && status.Signaled() {
		d.lastCode = 0 // the supervisor's own signal
	}
	switch {
	case d.state == Replacing:
		d.current, d.successor = d.successor, nil
		d.digest = d.nextDigest // a digest that comes later replaces it
		t.move(d, Exits)
	case t.stopRequests > 0:
		t.move(d, Exits)
		t.stopNext()
	default:
		t.onCrash(d, p.started)
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("code %d", status.ExitStatus())
}

// onNotify handles a notification of a process.
func (t *table) onNotify(name string, generation int, key, val string) {
	d := t.daemons[name]
	for _, p := range []*process{d.current, d.successor} {
		if p == nil || p.generation != generation {
			continue
		}
		switch key {
		case activation.KeyDegraded:
			p.degraded = val
		case activation.KeyUnavailable:
			p.unavailable = val
		}
	}
	switch {
	case d.current != nil && d.current.generation == generation:
		t.onCurrentNotify(d, key, val)
	case d.successor != nil && d.successor.generation == generation:
		t.onSuccessorNotify(d, key, val)
	}
}

func (t *table) onCurrentNotify(d *daemon, key, val string) {
	switch key {
	case activation.KeyDigest:
		d.digest = val
	case activation.KeyError:
		if d.problem = val; val != "" {
			t.notifyWaiters(d, d.current.generation, errors.New(val))
		}
	case activation.KeyReady:
		d.current.timer.Stop()
		d.current.ready = true
		t.notifyWaiters(d, d.current.generation, nil)
		if t.move(d, Serves) {
			t.reportRecovered(d)
			t.replaceIfRequested(d)
		}
	}
}

// reportRecovered informs the operator that a daemon that had failed serves again.
func (t *table) reportRecovered(d *daemon) {
	if d.failureReported {
		d.failureReported = false
		t.effects.recovered(d.name)
	}
}

// reportReady reports once that all daemons serve.
func (t *table) reportReady() {
	if t.readyReported || !t.ready() {
		return
	}
	t.readyReported = true
	t.effects.logf("ready: %s", strings.Join(t.order, ", "))
	t.effects.allReady()
}

func (t *table) ready() bool {
	for _, d := range t.daemons {
		if !serves(d.state) {
			return false
		}
	}
	return t.stopRequests == 0
}
