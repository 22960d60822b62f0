package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/bundle"
	"airlock/internal/control"
	"airlock/internal/handoff"
	"airlock/internal/reap"
)

// Times of the table.
const (
	grace       = 8 * time.Second  // for all daemons together, after SIGTERM
	shortGrace  = time.Second      // after a second SIGTERM
	readyWithin = 10 * time.Second // a start or a replacement
)

var (
	errOver     = errors.New("the supervisor is gone")
	errStopping = errors.New("the supervisor is stopping")
)

// world is what the table acts on. None of its functions waits.
type world interface {
	// launch starts a process. What becomes of it is told by heard and exited.
	launch(daemon string, generation int) (*process, error)
	// turnAway makes the callers of a daemon be refused, or lets them wait.
	turnAway(daemon string, on bool)
	// failed and mended tell the operator.
	failed(daemon, why string)
	mended(daemon string)
	// allReady is called once, when every daemon serves.
	allReady()
	// settled is called by the loop after everything that happened.
	settled()
	say(format string, args ...any)
}

// child is a running process: a *reap.Process.
type child interface {
	Signal(syscall.Signal)
	SignalGroup(syscall.Signal)
}

// process is one run of a daemon.
type process struct {
	child
	pid        int
	generation int
	since      time.Time
	ready      bool
	told       bool // that it should end: its exit is no fault
	late       *time.Timer
	link       *handoff.Link
	isolation  control.Isolation
	memory     *box
}

// kill ends a process and all that it started.
func (p *process) kill() { p.SignalGroup(syscall.SIGKILL) }

// nobodyFollows tells a process that ends, or is about to, that there is no
// need to wait for callers: nobody takes over.
func (p *process) nobodyFollows() {
	if p.link != nil {
		_ = p.link.Tell(handoff.KeyEnding, "1") // else it ends a little later
	}
}

// daemon is one row of the table.
type daemon struct {
	name       string
	state      State
	current    *process
	successor  *process
	draining   map[int]*process // by generation
	again      bool             // a replacement was asked for during one
	ends       int              // in a row
	starts     int
	generation int       // of the newest process
	down       time.Time // since when nobody serves; zero: somebody does
	reported   bool      // that it has failed
	lastExit   string
	lastCode   int
	digest     string
	problem    string
	next       string // digest that the successor reported
	waiters    []waiter
}

// waiter wants to know what became of a change.
type waiter struct {
	outcome    chan<- error // has room
	generation int          // of the process that will show it, or a later one
}

// table is the daemons and what happens to them. One loop owns it; everybody
// else posts to that loop.
type table struct {
	world   world
	order   []string
	daemons map[string]*daemon
	posts   chan func()
	over    chan struct{} // closed when the loop ends

	stopping int // times that an end was asked for
	cut      *time.Timer
	told     bool // that everything is ready
}

// signals are those that the loop obeys.
type signals struct{ stop, reload, replace chan os.Signal }

func newTable(order []string, w world) *table {
	t := &table{world: w, order: order, daemons: map[string]*daemon{}, posts: make(chan func(), 64), over: make(chan struct{})}
	for _, name := range order {
		t.daemons[name] = &daemon{name: name, state: Down, draining: map[int]*process{}}
	}
	return t
}

// post lets the loop run f, some time.
func (t *table) post(f func()) {
	select {
	case t.posts <- f:
	case <-t.over:
	}
}

// do lets the loop run f and waits for it.
func (t *table) do(f func()) error {
	done := make(chan struct{})
	t.post(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-t.over:
		return errOver
	}
}

// loop is the only place that changes the table.
func (t *table) loop(ctx context.Context, sig signals) error {
	defer close(t.over)
	for _, name := range t.order {
		t.begin(t.daemons[name], Start)
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
		case f := <-t.posts:
			f()
		}
		t.tellReady()
		t.world.settled()
	}
	return t.result()
}

// move changes a state by the plan. It tells whether there was a change.
func (t *table) move(d *daemon, e Event) bool {
	to, ok := next(d.state, e)
	if !ok {
		return false
	}
	d.state = to
	switch {
	case serves(to):
		d.down = time.Time{}
	case d.down.IsZero():
		d.down = time.Now()
	}
	t.world.turnAway(d.name, turnsAway(to, time.Since(d.down)))
	return true
}

// begin starts a process because of the event.
func (t *table) begin(d *daemon, e Event) {
	if t.stopping > 0 || !t.move(d, e) {
		return
	}
	p := t.launch(d)
	if p == nil {
		t.fell(d, time.Now())
		return
	}
	d.current = p
}

// launch starts a process of the daemon that must become ready in time.
func (t *table) launch(d *daemon) *process {
	d.generation++
	p, err := t.world.launch(d.name, d.generation)
	if err != nil {
		t.world.say("%s could not be started: %v", d.name, err)
		d.lastExit = err.Error()
		return nil
	}
	d.starts++
	p.generation, p.since = d.generation, time.Now()
	p.late = time.AfterFunc(readyWithin, func() { t.post(func() { t.late(d, p) }) })
	return p
}

// late is called when a process was not ready in time.
func (t *table) late(d *daemon, p *process) {
	switch {
	case d.successor == p:
		d.problem = fmt.Sprintf("the replacement was not ready within %v", readyWithin)
		p.kill()
	case d.current == p && !p.ready:
		t.world.say("%s was not ready within %v", d.name, readyWithin)
		p.kill()
	}
}

// fell decides what follows when the serving process is gone by itself.
func (t *table) fell(d *daemon, since time.Time) {
	var e Event
	e, d.ends = afterExit(time.Since(since), d.ends)
	if !t.move(d, e) {
		return
	}
	d.again = false // the next start reads what is there then
	if d.state == Failed {
		why := fmt.Sprintf("%s ended %d times in a row, last with %s; it stays down until it is restarted by hand (ctl restart %s)", d.name, d.ends, d.lastExit, d.name)
		t.world.say("%s", why)
		t.world.failed(d.name, why)
		d.reported = true
		t.answer(d, d.generation, fmt.Errorf("%s does not stay up: %s", d.name, d.lastExit))
		return
	}
	pause := wait(d.ends, rand.Float64())
	t.world.say("%s ended (%s); it starts again in %v", d.name, d.lastExit, pause.Round(time.Millisecond))
	generation := d.generation
	time.AfterFunc(pause, func() {
		t.post(func() {
			if d.state == Backoff && d.generation == generation {
				t.begin(d, Due)
			}
		})
	})
	if left := patience - time.Since(d.down); left > 0 && left < pause {
		time.AfterFunc(left, func() {
			t.post(func() { t.world.turnAway(d.name, !d.down.IsZero() && turnsAway(d.state, time.Since(d.down))) })
		})
	}
}

// exited hears of the end of a process.
func (t *table) exited(name string, generation int, status syscall.WaitStatus) {
	d := t.daemons[name]
	switch p := d.draining[generation]; {
	case p != nil:
		delete(d.draining, generation)
		p.late.Stop()
	case d.successor != nil && d.successor.generation == generation:
		d.successor.late.Stop()
		why := describe(status) + d.successor.memory.note()
		t.rejected(d, "the replacement ended before it was ready ("+why+")")
	case d.current != nil && d.current.generation == generation:
		t.currentExited(d, status)
	}
}

func (t *table) currentExited(d *daemon, status syscall.WaitStatus) {
	p := d.current
	d.current = nil
	p.late.Stop()
	d.lastExit, d.lastCode = describe(status)+p.memory.note(), reap.Code(status)
	if p.told && status.Signaled() {
		d.lastCode = 0 // a signal that we sent
	}
	switch {
	case d.state == Replacing:
		d.current, d.successor = d.successor, nil
		d.digest = d.next // said before, or about to be said
		t.move(d, Exits)
	case t.stopping > 0:
		t.move(d, Exits)
		t.stopNext()
	default:
		t.fell(d, p.since)
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("code %d", status.ExitStatus())
}

// heard takes a process's news.
func (t *table) heard(name string, generation int, key, val string) {
	d := t.daemons[name]
	switch {
	case d.current != nil && d.current.generation == generation:
		t.currentSaid(d, key, val)
	case d.successor != nil && d.successor.generation == generation:
		t.successorSaid(d, key, val)
	}
}

func (t *table) currentSaid(d *daemon, key, val string) {
	switch key {
	case handoff.KeyDigest:
		d.digest = val
	case handoff.KeyError:
		if d.problem = val; val != "" {
			t.answer(d, d.current.generation, errors.New(val))
		}
	case handoff.KeyReady:
		d.current.late.Stop()
		d.current.ready = true
		t.answer(d, d.current.generation, nil)
		if t.move(d, Serves) {
			t.mended(d)
			t.onceMore(d)
		}
	}
}

func (t *table) mended(d *daemon) {
	if d.reported {
		d.reported = false
		t.world.mended(d.name)
	}
}

func (t *table) successorSaid(d *daemon, key, val string) {
	switch key {
	case handoff.KeyDigest:
		d.next = val
	case handoff.KeyError:
		d.problem = val
	case handoff.KeyReady:
		t.succeed(d)
	}
}

// succeed puts the successor, which serves, in the place of the old process.
func (t *table) succeed(d *daemon) {
	if !t.move(d, SuccessorReady) {
		return
	}
	old := d.current
	d.current, d.successor = d.successor, nil
	d.current.ready = true
	d.current.late.Stop()
	d.digest, d.problem, d.ends = d.next, "", 0
	t.drain(d, old)
	t.world.say("%s was replaced: generation %d serves", d.name, d.current.generation)
	t.answer(d, d.current.generation, nil)
	t.onceMore(d)
}

// drain lets a process finish what it has begun.
func (t *table) drain(d *daemon, p *process) {
	p.told = true
	d.draining[p.generation] = p
	p.late = time.AfterFunc(grace+time.Second, func() { t.post(p.kill) })
	p.Signal(syscall.SIGTERM)
}

// rejected keeps the old process.
func (t *table) rejected(d *daemon, why string) {
	generation := d.successor.generation
	d.successor = nil
	if d.problem == "" {
		d.problem = why
	}
	d.problem = "config rejected: " + d.problem
	t.move(d, SuccessorFails)
	t.world.say("%s was not replaced, the old one serves on: %s", d.name, d.problem)
	t.answer(d, generation, errors.New(d.problem))
	t.onceMore(d)
}

// onceMore replaces again when that was asked for in the meantime.
func (t *table) onceMore(d *daemon) {
	if d.again {
		d.again = false
		t.replace(d)
	}
}

// replace starts a successor, or the daemon itself where it is down. During a
// start or a replacement it is remembered, once, however often it is asked for.
func (t *table) replace(d *daemon) {
	if d == nil || t.stopping > 0 {
		return
	}
	switch d.state {
	case Starting, Replacing:
		d.again = true
	case Ready:
		p := t.launch(d)
		if p == nil {
			t.answer(d, d.generation, errors.New("the replacement could not be started: "+d.lastExit))
			return
		}
		d.problem, d.next = "", ""
		d.successor = p
		t.move(d, Replace)
	case Backoff, Failed:
		d.ends = 0
		t.begin(d, Replace)
	}
}

// reload passes SIGHUP on to a daemon that serves. One that is just starting
// reads the new file anyway.
func (t *table) reload(d *daemon) {
	if d != nil && d.current != nil && t.stopping == 0 {
		d.current.Signal(syscall.SIGHUP)
	}
}

// stop ends everything, in the reverse order of the start. The second call
// shortens the patience, the third ends it.
func (t *table) stop() {
	t.stopping++
	switch t.stopping {
	case 1:
		t.cut = time.AfterFunc(grace, func() { t.post(t.killAll) })
	case 2:
		t.cut.Reset(shortGrace)
		return
	default:
		t.killAll()
		return
	}
	for _, d := range t.daemons {
		t.answer(d, math.MaxInt, errStopping)
		if d.successor != nil {
			d.successor.told = true
			d.successor.kill()
		}
		for _, p := range d.draining {
			p.nobodyFollows()
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
		t.world.say("stopping %s", name)
		d.current.told = true
		d.current.nobodyFollows()
		d.current.Signal(syscall.SIGTERM)
		return
	}
}

func (t *table) killAll() {
	for _, d := range t.daemons {
		for _, p := range append(slices.Collect(maps.Values(d.draining)), d.current, d.successor) {
			if p != nil {
				p.told = true
				p.kill()
			}
		}
	}
}

// finished tells whether everything has ended.
func (t *table) finished() bool {
	if t.stopping == 0 {
		return false
	}
	for _, d := range t.daemons {
		if d.state != Stopped || d.successor != nil || len(d.draining) > 0 {
			return false
		}
	}
	t.cut.Stop()
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

// tellReady says once that all daemons serve.
func (t *table) tellReady() {
	if t.told || !t.ready() {
		return
	}
	t.told = true
	t.world.say("ready: %s", strings.Join(t.order, ", "))
	t.world.allReady()
}

func (t *table) ready() bool {
	for _, d := range t.daemons {
		if !serves(d.state) {
			return false
		}
	}
	return t.stopping == 0
}

// restart replaces a daemon for somebody who wants to know the outcome: that
// of a process which starts after this call.
func (t *table) restart(d *daemon, outcome chan<- error) {
	t.wait(d, outcome, d.generation+1)
	t.replace(d)
}

// reread makes a daemon read its configuration again for somebody who wants
// to know the outcome.
func (t *table) reread(d *daemon, outcome chan<- error) {
	generation := d.generation
	if d.current == nil {
		generation++ // the next start reads it
	}
	t.wait(d, outcome, generation)
	t.reload(d)
}

func (t *table) wait(d *daemon, outcome chan<- error, generation int) {
	if t.stopping > 0 {
		outcome <- errStopping
		return
	}
	d.waiters = append(d.waiters, waiter{outcome, generation})
}

// answer tells those who wait for this generation or an older one.
func (t *table) answer(d *daemon, generation int, err error) {
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
