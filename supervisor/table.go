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
	link       *activation.Link
	isolation  control.Isolation
	memory     *box
	mode       string // that it does less than it should
	trouble    string // why it refuses everything
}

// kill ends a process and all that it started.
func (p *process) kill() { p.SignalGroup(syscall.SIGKILL) }

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
	rest     *time.Timer
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
	d.lastExit, d.lastCode = describe(status)+p.memory.note(), reap.ExitCode(status)
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
	for _, p := range []*process{d.current, d.successor} {
		if p == nil || p.generation != generation {
			continue
		}
		switch key {
		case activation.KeyDegraded:
			p.mode = val
		case activation.KeyUnavailable:
			p.trouble = val
		}
	}
	switch {
	case d.current != nil && d.current.generation == generation:
		t.currentSaid(d, key, val)
	case d.successor != nil && d.successor.generation == generation:
		t.successorSaid(d, key, val)
	}
}

func (t *table) currentSaid(d *daemon, key, val string) {
	switch key {
	case activation.KeyDigest:
		d.digest = val
	case activation.KeyError:
		if d.problem = val; val != "" {
			t.answer(d, d.current.generation, errors.New(val))
		}
	case activation.KeyReady:
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
