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

// memoryDefaults bound each process of a daemon, in bytes.
var memoryDefaults = map[string]int64{
	bundle.Egress: 512 << 20, bundle.Pipelock: 512 << 20, bundle.GitGate: 1 << 30, bundle.Supervise: 256 << 20,
}

const (
	// mappedUnused is what a Go program has mapped beyond what it uses: for
	// RLIMIT_DATA both count (measured: 71 to 76 MiB in an idle daemon).
	mappedUnused = 76 << 20

	minMemory = 8 << 20 // below it no daemon starts

	// daemonGOGC is GOGC of the daemons, in percent. What lives in them is a few
	// MB: at the usual 100 a busy one collects a hundred times a second, which
	// costs a quarter of its requests. What a burst leaves goes back
	// (internal/memtrim); above the soft limit it does not count.
	daemonGOGC = "800"
)

// parseMemoryLimits reads SIDECAR_MEMORY: what differs from the defaults.
func parseMemoryLimits(list string) (map[string]int64, error) {
	limits := maps.Clone(memoryDefaults)
	if list == "" {
		return limits, nil
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(list, ",") {
		name, text, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, known := limits[name]; !ok || !known || seen[name] {
			return nil, config.Usagef("SIDECAR_MEMORY: %q: NAME=SIZE was wanted, as in egress=256MiB,git-gate=2GiB, once for any of %s", part, strings.Join(bundle.Daemons(), ", "))
		}
		var size config.Bytes
		if err := size.UnmarshalText([]byte(text)); err != nil {
			return nil, config.Usagef("SIDECAR_MEMORY: %s: %v", name, err)
		}
		if size < minMemory {
			return nil, config.Usagef("SIDECAR_MEMORY: %s: %q: at least 8MiB was wanted", name, text)
		}
		limits[name], seen[name] = int64(size), true
	}
	return limits, nil
}

// softLimit is GOMEMLIMIT: from there on the collector works harder.
func softLimit(limit int64) string { return fmt.Sprint(limit / 100 * 85) }

// memLimit is the memory of one process.
type memLimit struct {
	limit      int64
	group      *cgroup       // nil: by RLIMIT_DATA, or not at all
	kind       string        // cgroup or rlimit; empty: not bounded
	stderr     *oomDetector  // what the runtime says before it ends
	stderrDone chan struct{} // closed when its standard error has been read
	oomKilled  bool          // out of memory; set before the exit is told
}

// applyMemLimit bounds a process that has just been started.
func (s *supervisor) applyMemLimit(pid int, daemon string, generation int) *memLimit {
	b := &memLimit{limit: s.limits[daemon], stderr: &oomDetector{}, stderrDone: make(chan struct{})}
	if confine.Race {
		return b // its shadow memory would count
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

// onExit is called once, when the process has ended, and calls told.
func (b *memLimit) onExit(status syscall.WaitStatus, done func()) {
	if b.group != nil {
		b.oomKilled = b.group.oomKilled()
		b.group.remove()
	}
	if b.kind != "rlimit" || status.ExitStatus() != 2 {
		done()
		return
	}
	go func() { // ends with its output, which ends with the process group
		<-b.stderrDone
		b.oomKilled = b.stderr.found
		done()
	}()
}

// exitNote is what is added to the description of the process's end.
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

// oomDetector listens to the standard error of a Go program for the words with
// which the runtime ends when the system gives it no memory.
type oomDetector struct {
	tail  []byte
	found bool
}

var oomMessages = []string{"fatal error: runtime: out of memory", "fatal error: runtime: cannot allocate memory", "fatal error: out of memory",
	"runtime: cannot map pages in arena address space", "fatal error: failed to allocate", "runtime: failed to create new OS thread", "fatal error: newosproc"}

func (l *oomDetector) Write(p []byte) (int, error) {
	text := string(append(l.tail, p...))
	l.found = l.found || slices.ContainsFunc(oomMessages, func(w string) bool { return strings.Contains(text, w) })
	l.tail = []byte(text[max(0, len(text)-64):])
	return len(p), nil
}

// oomTee is r, with what is read from it told to w; read is closed at its
// end.
type oomTee struct {
	io.ReadCloser
	w    io.Writer
	done chan struct{}
}

func (o oomTee) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	_, _ = o.w.Write(p[:n]) // it takes everything
	if err != nil && !errors.Is(err, syscall.EINTR) {
		close(o.done) // nobody reads behind the end
	}
	return n, err
}
