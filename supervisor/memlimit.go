package supervisor

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/confine"
)

// memoryDefaults are the memory limits of one process of each daemon, in bytes.
var memoryDefaults = map[string]int64{
	bundle.Egress: 512 << 20, bundle.Pipelock: 512 << 20, bundle.GitGate: 1 << 30, bundle.Supervise: 256 << 20,
}

const (
	// mappedUnused is the memory that a Go program maps beyond what it uses, which RLIMIT_DATA counts
	// too (measured: 71 to 76 MiB in an idle daemon).
	mappedUnused = 76 << 20

	minMemory = 8 << 20 // no daemon starts with less

	// daemonGOGC is GOGC of the daemons, in percent. Their live heap is a few MB: at the default of
	// 100 a busy daemon collects a hundred times a second, which costs a quarter of its throughput.
	// internal/memtrim returns the garbage of a burst; above the soft limit GOGC has no effect.
	daemonGOGC = "800"
)

// parseMemoryLimits parses SIDECAR_MEMORY, which overrides memoryDefaults.
func parseMemoryLimits(list string) (map[string]int64, error) {
	limits := maps.Clone(memoryDefaults)
	if list == "" {
		return limits, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(list, ",") {
		name, text, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, known := limits[name]; !ok || !known || seen[name] {
			return nil, config.Usagef("SIDECAR_MEMORY: %q: expected NAME=SIZE, as in egress=256MiB,git-gate=2GiB, at most once for each of %s", part, strings.Join(bundle.Daemons(), ", "))
		}
		var size config.Bytes
		if err := size.UnmarshalText([]byte(text)); err != nil {
			return nil, config.Usagef("SIDECAR_MEMORY: %s: %v", name, err)
		}
		if size < minMemory {
			return nil, config.Usagef("SIDECAR_MEMORY: %s: %q: expected at least 8MiB", name, text)
		}
		limits[name], seen[name] = int64(size), true
	}
	return limits, nil
}

// softLimit returns GOMEMLIMIT for a limit; the collector runs more often above it.
func softLimit(limit int64) string { return fmt.Sprint(limit / 100 * 85) }

// memLimit is the memory limit of one process, and detects whether the process exceeded it.
type memLimit struct {
	limit      int64
	group      *cgroup       // nil: limited by RLIMIT_DATA, or not at all
	kind       string        // "cgroup" or "rlimit"; empty: not limited
	stderr     *oomDetector  // looks for the last messages of the runtime
	stderrDone chan struct{} // closed when the standard error has been read to its end
	oomKilled  bool          // set before the exit is reported
}

// applyMemLimit limits the memory of a process that has just been started.
func (s *supervisor) applyMemLimit(pid int, daemon string, generation int) *memLimit {
	b := &memLimit{limit: s.limits[daemon], stderr: &oomDetector{}, stderrDone: make(chan struct{})}
	if confine.Race {
		return b // the shadow memory of the race detector would count
	}
	if b.group = s.cgroups.make(fmt.Sprintf("%s-%d", daemon, generation), b.limit, pid); b.group != nil {
		b.kind = "cgroup"
		return b
	}
	if dynamic() {
		return b // the stacks that the C library reserves would count
	}
	n := uint64(b.limit + mappedUnused)
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: n, Max: n}, nil); err == nil {
		b.kind = "rlimit"
	}
	return b
}

// onExit is called once when the process has ended. It sets oomKilled and then calls done, perhaps from
// another goroutine.
func (b *memLimit) onExit(status syscall.WaitStatus, done func()) {
	if b.group != nil {
		b.oomKilled = b.group.oomKilled()
		b.group.remove()
	}
	if b.kind != "rlimit" || status.ExitStatus() != 2 {
		done()
		return
	}
	go func() { // ends when standard error is closed, that is, with the process group
		<-b.stderrDone
		b.oomKilled = b.stderr.found
		done()
	}()
}

// exitNote returns what is added to the description of the process's exit: empty, or that it ran out
// of memory.
func (b *memLimit) exitNote() string {
	if b == nil || !b.oomKilled {
		return ""
	}
	size, err := config.Bytes(b.limit).MarshalText()
	if err != nil {
		return ", out of memory"
	}
	return ", out of memory: its limit is " + string(size)
}

// oomDetector looks in the standard error of a Go program for the messages with which the runtime
// exits when the system refuses it memory. It implements io.Writer.
type oomDetector struct {
	tail  []byte
	found bool
}

var oomMessages = []string{
	"fatal error: runtime: out of memory", "fatal error: runtime: cannot allocate memory",
	"fatal error: out of memory", "runtime: cannot map pages in arena address space",
	"fatal error: failed to allocate", "runtime: failed to create new OS thread", "fatal error: newosproc",
}

func (l *oomDetector) Write(p []byte) (int, error) {
	text := string(append(l.tail, p...))
	l.found = l.found || slices.ContainsFunc(oomMessages, func(w string) bool { return strings.Contains(text, w) })
	l.tail = []byte(text[max(0, len(text)-64):])
	return len(p), nil
}

// oomTee copies what is read from the ReadCloser to w, and closes done at its end.
type oomTee struct {
	io.ReadCloser
	w    io.Writer
	done chan struct{}
}

func (o oomTee) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	_, _ = o.w.Write(p[:n]) // an oomDetector does not fail
	if err != nil && !errors.Is(err, syscall.EINTR) {
		close(o.done) // no Read follows the end
	}
	return n, err
}
