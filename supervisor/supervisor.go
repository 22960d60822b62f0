// Package supervisor is PID 1 of the sidecars: it holds every listening
// socket, starts the daemons with what each needs and no more, replaces one
// without its neighbours noticing, restarts what ends, and buries orphans.
// The operator speaks to it over the control socket; the agent cannot.
package supervisor

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/handoff"
	"airlock/internal/secrets"
)

const (
	grace       = 8 * time.Second  // for all daemons together, after SIGTERM
	readyWithin = 10 * time.Second // a start or a replacement
	maxSecrets  = 1 << 20          // bytes on standard input
)

// supervisor is owned by one loop; other goroutines send to its channels.
type supervisor struct {
	dirs    bundle.Dirs
	pair    string
	secrets map[string]string
	sockets map[string][]socket
	order   []string
	daemons map[string]*daemon

	reaper  *reaper
	out     *output
	news    chan news
	asked   chan request
	due     chan dueEvent
	over    chan struct{} // closed when the loop ends
	readers sync.WaitGroup

	stopping bool
	cut      *time.Timer
	told     bool // that everything is ready
}

// daemon is one row of the table.
type daemon struct {
	name       string
	state      State
	current    *process
	successor  *process
	draining   map[int]*process
	again      bool // a replacement was asked for during one
	ends       int  // in a row
	starts     int
	generation int
	lastExit   string
	lastCode   int
	digest     string
	problem    string
	next       string // digest that the successor reported
	waiters    []chan<- error
}

// dueEvent is a timer that ran out, for the process that it was set for.
type dueEvent struct {
	daemon string
	pid    int // 0: the wait before a restart
}

// Main runs the supervisor as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("supervisor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	stdin := flags.Bool("secrets-stdin", false, "read the slots from standard input, one JSON object, before anything starts")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return config.Usagef("supervisor: %v", err)
	}
	if flags.NArg() > 0 {
		return config.Usagef("supervisor: unexpected argument %q", flags.Arg(0))
	}
	daemons, err := chosen(os.Getenv("SIDECAR_DAEMONS"))
	if err != nil {
		return err
	}
	held, err := readSecrets(*stdin, os.Stdin)
	if err != nil {
		return err
	}
	return Run(ctx, Config{Dirs: bundle.DirsFromEnv(), Pair: os.Getenv("AIRLOCK_PAIR"), Daemons: daemons, Secrets: held, Stdout: stdout})
}

// chosen reads SIDECAR_DAEMONS: a list with commas, or nothing for all.
func chosen(list string) ([]string, error) {
	if list == "" {
		return bundle.Daemons(), nil
	}
	var want []string
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); !slices.Contains(bundle.Daemons(), name) {
			return nil, config.Usagef("SIDECAR_DAEMONS: %q is none of %s", name, strings.Join(bundle.Daemons(), ", "))
		}
		want = append(want, name)
	}
	return slices.DeleteFunc(bundle.Daemons(), func(n string) bool { return !slices.Contains(want, n) }), nil
}

// readSecrets takes the slots from the environment and, if told so, from
// standard input, and takes them out of our own environment.
func readSecrets(fromStdin bool, stdin io.Reader) (map[string]string, error) {
	held := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		for _, prefix := range slots {
			if strings.HasPrefix(name, prefix) && value != "" {
				held[name] = value
				os.Unsetenv(name)
			}
		}
	}
	if !fromStdin {
		return held, nil
	}
	more := map[string]string{}
	dec := json.NewDecoder(io.LimitReader(stdin, maxSecrets))
	if err := dec.Decode(&more); err != nil {
		// The error of the library could quote a part of a value.
		return nil, config.Usagef("supervisor: standard input: one JSON object of slots and their values was wanted")
	}
	maps.Copy(held, more)
	return held, nil
}

// addDigests gives pipelock a keyed digest of every value that egress holds,
// so that it can look for the value without knowing it.
func addDigests(held map[string]string) error {
	key := rand.Text()
	for name, value := range maps.Clone(held) {
		number, ok := strings.CutPrefix(name, "EGRESS_TOKEN_")
		if !ok || len(value) < 8 || held["EGRESS_DIGEST_"+number] != "" {
			continue
		}
		digest, err := secrets.NewDigest(value, key)
		if err != nil {
			return fmt.Errorf("making the digest of %s: %w", name, err)
		}
		held["EGRESS_DIGEST_"+number] = digest
	}
	return nil
}

// Config is what Run needs.
type Config struct {
	Dirs    bundle.Dirs
	Pair    string
	Daemons []string // in start order
	Secrets map[string]string
	Stdout  io.Writer // the daemons' output, line by line
}

// Run starts the daemons and keeps them until ctx ends or SIGTERM comes. It
// must be alone in its process: it waits for every child there is.
func Run(ctx context.Context, c Config) error {
	if os.Getpid() != 1 {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("becoming the reaper of orphans: %w", err)
		}
	}
	if err := os.MkdirAll(c.Dirs.Run, 0o700); err != nil {
		return fmt.Errorf("making the folder of the sockets: %w", err)
	}
	sockets, err := openSockets(c.Daemons, c.Dirs)
	if err != nil {
		return err
	}
	if err := addDigests(c.Secrets); err != nil {
		return err
	}
	s := &supervisor{
		dirs: c.Dirs, pair: c.Pair, secrets: c.Secrets, sockets: sockets, order: c.Daemons,
		daemons: map[string]*daemon{},
		reaper:  newReaper(), out: newOutput(c.Secrets),
		news: make(chan news), asked: make(chan request), due: make(chan dueEvent), over: make(chan struct{}),
	}
	go s.reaper.run() // for as long as the process lives: nothing else may wait
	written := make(chan struct{})
	go func() { defer close(written); s.out.write(c.Stdout) }()
	stopControl, err := s.serveControl()
	if err != nil {
		return err
	}
	err = s.loop(ctx)
	stopControl()
	s.readers.Wait()
	close(s.out.lines)
	select {
	case <-written:
	case <-time.After(time.Second): // nobody reads our output any more
	}
	return err
}

// loop is the only place that changes the table.
func (s *supervisor) loop(ctx context.Context) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	defer close(s.over)
	for _, name := range s.order {
		s.daemons[name] = &daemon{name: name, state: Down, draining: map[int]*process{}}
	}
	for _, name := range s.order {
		s.begin(s.daemons[name], Start)
	}
	done := ctx.Done()
	for !s.finished() {
		select {
		case <-done:
			done = nil
			s.stop()
		case sig := <-signals:
			s.signalled(sig)
		case e := <-s.reaper.exits:
			s.exited(e)
		case n := <-s.news:
			s.heard(n)
		case d := <-s.due:
			s.timeUp(d)
		case r := <-s.asked:
			r.run(s)
			close(r.done)
		}
		s.tellReady()
	}
	return s.result()
}

// move changes a state by the table. It tells whether there was a change.
func (s *supervisor) move(d *daemon, e Event) bool {
	to, ok := next(d.state, e)
	if ok {
		d.state = to
	}
	return ok
}

// begin starts a process because of the event.
func (s *supervisor) begin(d *daemon, e Event) {
	if s.stopping || !s.move(d, e) {
		return
	}
	p := s.launch(d)
	if p == nil {
		s.fell(d, time.Now())
		return
	}
	d.current = p
}

// launch spawns a process of the daemon that must become ready in time.
func (s *supervisor) launch(d *daemon) *process {
	p, err := s.spawn(d.name, d.generation+1)
	if err != nil {
		s.say("%s could not be started: %v", d.name, err)
		d.lastExit = err.Error()
		return nil
	}
	d.generation++
	d.starts++
	p.late = time.AfterFunc(readyWithin, func() { s.later(dueEvent{d.name, p.pid}) })
	return p
}

func (s *supervisor) later(e dueEvent) {
	select {
	case s.due <- e:
	case <-s.over:
	}
}

// fell decides what follows when the serving process is gone by itself.
func (s *supervisor) fell(d *daemon, since time.Time) {
	var e Event
	e, d.ends = afterExit(time.Since(since), d.ends)
	if !s.move(d, e) {
		return
	}
	if d.state == Failed {
		s.say("%s ended %d times in a row; it stays down until it is restarted by hand (ctl restart %s)", d.name, d.ends, d.name)
		s.answer(d, fmt.Errorf("%s does not stay up: %s", d.name, d.lastExit))
		return
	}
	pause := wait(d.ends, mathrand.Float64())
	s.say("%s ended (%s); it starts again in %v", d.name, d.lastExit, pause.Round(time.Millisecond))
	time.AfterFunc(pause, func() { s.later(dueEvent{daemon: d.name}) })
}

// exited hears of the end of a process of ours.
func (s *supervisor) exited(e exit) {
	for _, d := range s.daemons {
		switch p := d.draining[e.pid]; {
		case p != nil:
			delete(d.draining, e.pid)
			p.late.Stop()
		case d.successor != nil && d.successor.pid == e.pid:
			d.successor.late.Stop()
			s.rejected(d, "the replacement ended before it was ready ("+describe(e.status)+")")
		case d.current != nil && d.current.pid == e.pid:
			s.currentExited(d, e.status)
		}
	}
}

func (s *supervisor) currentExited(d *daemon, status syscall.WaitStatus) {
	p := d.current
	d.current = nil
	p.late.Stop()
	d.lastExit, d.lastCode = describe(status), code(status)
	if p.told && status.Signaled() {
		d.lastCode = 0 // a signal that we sent
	}
	// What it left behind in its group goes with it.
	p.kill()
	if d.state == Replacing {
		d.current, d.successor = d.successor, nil
		d.digest = d.next // said before, or about to be said
		s.move(d, Exits)
		return
	}
	if s.stopping {
		s.move(d, Exits)
		s.stopNext()
		return
	}
	s.fell(d, p.since)
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + unix.SignalName(status.Signal())
	}
	return fmt.Sprintf("code %d", status.ExitStatus())
}

// heard takes a process's news.
func (s *supervisor) heard(n news) {
	for _, d := range s.daemons {
		switch {
		case d.current != nil && d.current.pid == n.pid:
			s.currentSaid(d, n)
		case d.successor != nil && d.successor.pid == n.pid:
			s.successorSaid(d, n)
		}
	}
}

func (s *supervisor) currentSaid(d *daemon, n news) {
	switch n.key {
	case handoff.KeyDigest:
		d.digest = n.val
	case handoff.KeyError:
		if d.problem = n.val; n.val != "" {
			s.answer(d, errors.New(n.val))
		}
	case handoff.KeyReady:
		d.current.late.Stop()
		d.current.ready = true
		if s.move(d, Serves) {
			s.onceMore(d)
		}
		if d.state != Replacing { // else the successor will answer
			s.answer(d, nil)
		}
	}
}

func (s *supervisor) successorSaid(d *daemon, n news) {
	switch n.key {
	case handoff.KeyDigest:
		d.next = n.val
	case handoff.KeyError:
		d.problem = n.val
	case handoff.KeyReady:
		s.succeed(d)
	}
}

// succeed puts the successor, which serves, in the place of the old process.
func (s *supervisor) succeed(d *daemon) {
	if !s.move(d, SuccessorReady) {
		return
	}
	old := d.current
	d.current, d.successor = d.successor, nil
	d.current.ready = true
	d.current.late.Stop()
	d.digest, d.problem, d.ends = d.next, "", 0
	s.drain(d, old)
	s.say("%s was replaced: generation %d serves", d.name, d.current.generation)
	s.answer(d, nil)
	s.onceMore(d)
}

// drain lets a process finish what it has begun.
func (s *supervisor) drain(d *daemon, p *process) {
	p.told = true
	p.signal(syscall.SIGTERM)
	d.draining[p.pid] = p
	p.late = time.AfterFunc(grace+time.Second, func() { s.later(dueEvent{d.name, p.pid}) })
}

// rejected keeps the old process.
func (s *supervisor) rejected(d *daemon, why string) {
	d.successor = nil
	if d.problem == "" {
		d.problem = why
	}
	d.problem = "config rejected: " + d.problem
	s.move(d, SuccessorFails)
	s.say("%s was not replaced, the old one serves on: %s", d.name, d.problem)
	s.answer(d, errors.New(d.problem))
	s.onceMore(d)
}

// onceMore replaces again when that was asked for in the meantime.
func (s *supervisor) onceMore(d *daemon) {
	if d.again {
		d.again = false
		s.replace(d)
	}
}

// replace starts a successor, or the daemon itself where it is down.
func (s *supervisor) replace(d *daemon) {
	switch d.state {
	case Starting, Replacing:
		d.again = true
	case Ready:
		p := s.launch(d)
		if p == nil {
			s.answer(d, errors.New("the replacement could not be started: "+d.lastExit))
			return
		}
		d.problem, d.next = "", ""
		d.successor = p
		s.move(d, Replace)
	case Backoff, Failed:
		d.ends = 0
		s.begin(d, Replace)
	}
}

// timeUp is called when a timer of the table runs out.
func (s *supervisor) timeUp(e dueEvent) {
	d := s.daemons[e.daemon]
	switch {
	case e.pid == 0:
		if d.state == Backoff {
			s.begin(d, Due)
		}
	case d.successor != nil && d.successor.pid == e.pid:
		d.successor.kill()
		d.problem = fmt.Sprintf("the replacement was not ready within %v", readyWithin)
	case d.current != nil && d.current.pid == e.pid && !d.current.ready:
		s.say("%s was not ready within %v", d.name, readyWithin)
		d.current.kill()
	case d.draining[e.pid] != nil:
		d.draining[e.pid].kill()
	}
}

// signalled obeys a signal to the supervisor. During shutdown only a second
// request to end has an effect: it ends the patience.
func (s *supervisor) signalled(sig os.Signal) {
	switch {
	case sig == syscall.SIGTERM || sig == syscall.SIGINT:
		if s.stopping {
			s.killAll()
			return
		}
		s.stop()
	case s.stopping:
	case sig == syscall.SIGHUP:
		s.reload(s.daemons[bundle.Egress])
	case sig == syscall.SIGUSR1:
		if d := s.daemons[bundle.Pipelock]; d != nil {
			s.replace(d)
		}
	}
}

// reload forwards SIGHUP to a daemon that serves. One that is just starting
// reads the new file anyway.
func (s *supervisor) reload(d *daemon) {
	if d != nil && d.current != nil {
		d.current.signal(syscall.SIGHUP)
	}
}

// stop ends everything, in the reverse order of the start.
func (s *supervisor) stop() {
	if s.stopping {
		return
	}
	s.stopping = true
	s.cut = time.AfterFunc(grace, func() {
		select {
		case s.asked <- request{run: func(s *supervisor) { s.killAll() }, done: make(chan struct{})}:
		case <-s.over:
		}
	})
	for _, d := range s.daemons {
		s.answer(d, errors.New("the supervisor is stopping"))
		if d.successor != nil {
			d.successor.kill()
		}
	}
	s.stopNext()
}

// stopNext tells the last daemon that still runs.
func (s *supervisor) stopNext() {
	for _, name := range slices.Backward(s.order) {
		d := s.daemons[name]
		if d.state == Stopping {
			return
		}
		if !s.move(d, Stop) {
			continue
		}
		if d.current == nil {
			s.move(d, Exits)
			continue
		}
		s.say("stopping %s", name)
		d.current.told = true
		d.current.signal(syscall.SIGTERM)
		return
	}
}

func (s *supervisor) killAll() {
	for _, d := range s.daemons {
		for _, p := range append(slices.Collect(maps.Values(d.draining)), d.current, d.successor) {
			if p != nil {
				p.told = true
				p.kill()
			}
		}
	}
}

// finished tells whether everything has ended.
func (s *supervisor) finished() bool {
	if !s.stopping {
		return false
	}
	for _, d := range s.daemons {
		if d.state != Stopped || d.successor != nil || len(d.draining) > 0 {
			return false
		}
	}
	s.cut.Stop()
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

func (s *supervisor) result() error {
	worst := &exitError{}
	for _, d := range s.daemons {
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
func (s *supervisor) tellReady() {
	if s.told || !s.ready() {
		return
	}
	s.told = true
	s.say("ready: %s", strings.Join(s.order, ", "))
	handoff.Notify(handoff.KeyReady, "1")
}

func (s *supervisor) ready() bool {
	for _, d := range s.daemons {
		if d.state != Ready && d.state != Replacing {
			return false
		}
	}
	return !s.stopping
}

// say writes a line of our own.
func (s *supervisor) say(format string, args ...any) {
	s.out.put("supervisor", fmt.Appendf(nil, format, args...))
}

// answer tells those who wait for the outcome of a change.
func (s *supervisor) answer(d *daemon, err error) {
	for _, w := range d.waiters {
		w <- err
	}
	d.waiters = nil
}
