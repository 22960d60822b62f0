// Package supervisor is PID 1 of the sidecars: it keeps all listening sockets, starts each daemon with
// the least privileges, replaces a daemon without interrupting the others, restarts crashed ones, and
// reaps orphans. The operator controls it over the control socket, which the agent cannot reach.
//
// One goroutine, table.loop, owns the state of the daemons and applies all events to it. Other
// goroutines read output and links, and post their events to the loop.
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

const finalTimeout = time.Second // for output and proposals that are still being written at the end

// supervisor implements the effects of the table with real processes, sockets and output.
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
	tracer       *tracer           // nil: no traces are exported
	levels       map[string]string // log levels set by the operator, by daemon; owned by the loop
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
	// Other descriptors inherited from the parent must not reach a daemon.
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
		// The supervisor allocates little: half the default saves 2.5 MB, and a collection is short.
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
	// An OTEL variable meant for other programs must not prevent the start.
	traces, untraced := otlp.FromEnv(os.Getenv)
	return Run(ctx, Config{
		Dirs: bundle.DirsFromEnv(), Pair: os.Getenv("AIRLOCK_PAIR"), Daemons: daemons, Secrets: held, Stdout: stdout, JSON: json,
		Traces: traces, Warning: errors.Join(warning, untraced), Memory: limits,
	})
}

// parseDaemons parses SIDECAR_DAEMONS: a list with commas, or empty for all daemons.
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
	Warning error            // logged at the start; nil: none
	Memory  map[string]int64 // memory limit of a process in bytes, by daemon
	Traces  *otlp.Exporter   // nil: none
	Stdout  io.Writer        // the daemons' output, line by line …
	JSON    bool             // … as JSON objects
}

// Run runs the daemons until ctx ends or SIGTERM comes. Other code in the process must not wait for
// children: Run reaps all of them.
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
		out:       newOutput(c.JSON, newMasker(append(c.Secrets.All(), c.Traces.Secrets()...))),
		reaper:    reap.New(),
		levels:    map[string]string{},
		statusHub: newStatusHub(),
		rejector:  rejector{listening: map[string]func(){}},
	}
	defer s.cgroups.close()
	s.table = newTable(c.Daemons, s)
	if c.Warning != nil {
		s.logf("warning: %v", c.Warning)
	}
	go s.reaper.Run() // not joined: it ends with the process
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
	waitTimeout(finalTimeout, s.readers.Wait) // a goroutine that writes a proposal may wait for a lock
	s.out.close()
	waitTimeout(finalTimeout, func() { <-written }) // the reader of the output may be gone
	return err
}

// waitTimeout returns when f has returned or after limit. In the second case the goroutine of f is
// abandoned.
func waitTimeout(limit time.Duration, f func()) {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// lockSockets locks the folder of the sockets, because a second supervisor would replace the sockets of
// the first. Closing the result releases the lock.
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

// notifySignals returns channels of the signals that the loop handles. Repeated requests for a reload
// or a replacement count once until the loop handles them. Other signals that would end this process
// are caught and ignored, except for the runtime's own (SIGURG, SIGPROF), faults, and those that
// cannot be caught.
func notifySignals() signals {
	s := signals{stop: make(chan os.Signal, 3), reload: make(chan os.Signal, 1), replace: make(chan os.Signal, 1)}
	signal.Notify(s.stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	signal.Notify(s.reload, syscall.SIGHUP)
	signal.Notify(s.replace, syscall.SIGUSR1)
	signal.Notify(make(chan os.Signal, 1),
		syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR,
		syscall.SIGSTKFLT, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGPIPE)
	return s
}

// logf writes a line of the supervisor itself to the output.
func (s *supervisor) logf(format string, args ...any) {
	s.out.add("supervisor", "stdout", fmt.Appendf(nil, format, args...), false)
}

// allReady notifies the supervisor's own parent that all daemons serve.
func (s *supervisor) allReady() { activation.Notify(activation.KeyReady, "1") }
