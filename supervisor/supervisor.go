// Package supervisor is PID 1 of the sidecars: it holds every listening
// socket, starts the daemons with what each needs and no more, replaces one
// without its neighbours noticing, restarts what ends, and buries orphans.
// The operator speaks to it over the control socket; the agent cannot.
package supervisor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/logs"
	"airlock/internal/otlp"
	"airlock/internal/reap"
	"airlock/internal/secretmem"
)

const finalTimeout = time.Second // for what is still being written at the end

// supervisor is the world in which the table of daemons acts: processes,
// sockets, output.
type supervisor struct {
	*table
	dirs         bundle.Dirs
	pair         string
	secrets      *secretmem.Store
	limits       map[string]int64
	cgroups      *cgroups
	sockets      map[string][]socket
	reaper       *reap.Reaper
	out          *output
	rejector     rejector
	statusHub    *statusHub
	tracer       *tracer           // nil: nobody wants traces
	levels       map[string]string // of each daemon's log, when it was changed; owned by the loop
	readers      sync.WaitGroup
	heldRequests heldRequests
}

// Main runs the supervisor as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("supervisor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	stdin := flags.Bool("secrets-stdin", false, "read the slots from standard input, one JSON object, before anything starts")
	tied := flags.Bool("end-with-stdin", false, "stop, as after SIGTERM, when standard input ends: the process that started us holds its other end")
	maxLog := flags.Int64("max-log", 0, "keep the file on standard output, open for reading too, below so many `bytes` (0: no bound)")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return config.Usagef("supervisor: %v", err)
	}
	if flags.NArg() > 0 {
		return config.Usagef("supervisor: unexpected argument %q", flags.Arg(0))
	}
	// Whatever else our parent left open stays with us: no daemon gets it.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("keeping inherited files from the daemons: %w", err)
	}
	daemons, err := parseDaemons(os.Getenv("SIDECAR_DAEMONS"))
	if err != nil {
		return err
	}
	limits, err := parseMemoryLimits(os.Getenv("SIDECAR_MEMORY"))
	if err != nil {
		return err
	}
	held, warning, err := readSecrets(*stdin, os.Stdin)
	if err != nil {
		return err
	}
	json, err := logs.FromEnv()
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		// Little is allocated here, mostly for answers on the control socket:
		// half the usual garbage is 2.5 MB less, and a collection is short.
		debug.SetGCPercent(50)
	}
	if *tied {
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		go func() { // ends with the input, or with the process
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	if file, ok := stdout.(*os.File); ok && *maxLog > 0 {
		stdout = logs.NewBounded(file, *maxLog)
	}
	// A variable that was meant for others must not keep the bundle down.
	traces, untraced := otlp.FromEnv(os.Getenv)
	return Run(ctx, Config{
		Dirs: bundle.DirsFromEnv(), Pair: os.Getenv("AIRLOCK_PAIR"), Daemons: daemons, Secrets: held, Stdout: stdout, JSON: json,
		Traces: traces, Warning: errors.Join(warning, untraced), Memory: limits,
	})
}

// parseDaemons reads SIDECAR_DAEMONS: a list with commas, or nothing for all.
func parseDaemons(list string) ([]string, error) {
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

// Config is what Run needs.
type Config struct {
	Dirs    bundle.Dirs
	Pair    string
	Daemons []string         // in start order
	Secrets *secretmem.Store // the slots of all daemons
	Warning error            // about what is not as it should be; nil: all is
	Memory  map[string]int64 // bytes that a process of each daemon may have
	Traces  *otlp.Exporter   // nil: none
	Stdout  io.Writer        // the daemons' output, line by line …
	JSON    bool             // … as JSON objects
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
	lock, err := lockSockets(c.Dirs.Run)
	if err != nil {
		return err
	}
	defer lock.Close()
	sockets, err := openSockets(c.Daemons, c.Dirs)
	if err != nil {
		return err
	}
	s := &supervisor{
		dirs: c.Dirs, pair: c.Pair, secrets: c.Secrets, limits: c.Memory, cgroups: openGroups(), sockets: sockets,
		reaper: reap.New(), out: newOutput(c.JSON, newMasker(append(c.Secrets.All(), c.Traces.Secrets()...))), levels: map[string]string{}, statusHub: newStatusHub(), rejector: rejector{listening: map[string]func(){}},
	}
	defer s.cgroups.close()
	s.table = newTable(c.Daemons, s)
	if c.Warning != nil {
		s.logf("warning: %v", c.Warning)
	}
	go s.reaper.Run() // for as long as the process lives: nothing else may wait
	written := make(chan struct{})
	go func() { defer close(written); s.out.write(c.Stdout) }()
	stopControl, err := s.serveControl()
	if err != nil {
		return err
	}
	stopTraces := s.exportTraces(c.Traces)
	err = s.loop(ctx, notifySignals())
	stopTraces()
	stopControl()
	waitTimeout(finalTimeout, s.readers.Wait) // what still writes a proposal may wait for a lock
	s.out.close()
	waitTimeout(finalTimeout, func() { <-written }) // perhaps nobody reads our output any more
	return err
}

// waitTimeout waits for f, but not for ever. It ends with the process.
func waitTimeout(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// lockSockets takes the lock of the folder of the sockets: a second supervisor would
// take the first one's sockets away. The lock lies on the file until it is
// closed.
func lockSockets(dir string) (io.Closer, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "supervisor.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the folder of the sockets: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, config.Usagef("another supervisor runs on %s: %v", dir, err)
	}
	return lock, nil
}

// notifySignals takes the signals that mean something. A reload or a replacement that
// is asked for twice before the loop looks is one. All others that would end
// this process are taken and mean nothing, except for the runtime's own
// (SIGURG, SIGPROF), faults, and what nobody can take.
func notifySignals() signals {
	s := signals{stop: make(chan os.Signal, 3), reload: make(chan os.Signal, 1), replace: make(chan os.Signal, 1)}
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.replace, syscall.SIGUSR1)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR, syscall.SIGSTKFLT, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGPIPE)
	return s
}

// logf writes a line of our own.
func (s *supervisor) logf(format string, args ...any) {
	s.out.add("supervisor", "stdout", fmt.Appendf(nil, format, args...), false)
}

// allReady tells our own parent that all daemons serve.
func (s *supervisor) allReady() { activation.Notify(activation.KeyReady, "1") }
