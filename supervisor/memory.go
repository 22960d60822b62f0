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
	// untouched is what a Go program has mapped beyond what it uses: for
	// RLIMIT_DATA both count (measured: 71 to 76 MiB in an idle daemon).
	untouched = 76 << 20

	leastMemory = 8 << 20 // below it no daemon starts

	// garbage is GOGC of the daemons, in percent. What lives in them is a few
	// MB: at the usual 100 a busy one collects a hundred times a second, which
	// costs a quarter of its requests. What a burst leaves goes back
	// (internal/memtrim); above the soft limit it does not count.
	garbage = "800"
)

// memoryLimits reads SIDECAR_MEMORY: what differs from the defaults.
func memoryLimits(list string) (map[string]int64, error) {
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
		if size < leastMemory {
			return nil, config.Usagef("SIDECAR_MEMORY: %s: %q: at least 8MiB was wanted", name, text)
		}
		limits[name], seen[name] = int64(size), true
	}
	return limits, nil
}

// softLimit is GOMEMLIMIT: from there on the collector works harder.
func softLimit(limit int64) string { return fmt.Sprint(limit / 100 * 85) }

// box is the memory of one process.
type box struct {
	limit int64
	group *group        // nil: by RLIMIT_DATA, or not at all
	kind  string        // cgroup or rlimit; empty: not bounded
	said  *oomListener  // what the runtime says before it ends
	read  chan struct{} // closed when its standard error has been read
	ran   bool          // out of memory; set before the exit is told
}

// pack bounds a process that has just been started.
func (s *supervisor) pack(pid int, daemon string, generation int) *box {
	b := &box{limit: s.limits[daemon], said: &oomListener{}, read: make(chan struct{})}
	if confine.Race {
		return b // its shadow memory would count
	}
	if b.group = s.groups.make(fmt.Sprintf("%s-%d", daemon, generation), b.limit, pid); b.group != nil {
		b.kind = "cgroup"
		return b
	}
	if dynamic() {
		return b // the stacks that the C library reserves would count
	}
	n := uint64(b.limit + untouched)
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &unix.Rlimit{Cur: n, Max: n}, nil); err == nil {
		b.kind = "rlimit"
	}
	return b
}

// unpack is called once, when the process has ended, and calls told.
func (b *box) unpack(status syscall.WaitStatus, told func()) {
	if b.group != nil {
		b.ran = b.group.overran()
		b.group.remove()
	}
	if b.kind != "rlimit" || status.ExitStatus() != 2 {
		told()
		return
	}
	go func() { // ends with its output, which ends with the process group
		<-b.read
		b.ran = b.said.heard
		told()
	}()
}

// note is what is added to the description of the process's end.
func (b *box) note() string {
	if b == nil || !b.ran {
		return ""
	}
	size, err := config.Bytes(b.limit).MarshalText()
	if err != nil {
		return ", out of memory"
	}
	return ", out of memory: its limit is " + string(size)
}

// oomListener listens to the standard error of a Go program for the words with
// which the runtime ends when the system gives it no memory.
type oomListener struct {
	tail  []byte
	heard bool
}

var oomWords = []string{"fatal error: runtime: out of memory", "fatal error: runtime: cannot allocate memory", "fatal error: out of memory",
	"runtime: cannot map pages in arena address space", "fatal error: failed to allocate", "runtime: failed to create new OS thread", "fatal error: newosproc"}

func (l *oomListener) Write(p []byte) (int, error) {
	text := string(append(l.tail, p...))
	l.heard = l.heard || slices.ContainsFunc(oomWords, func(w string) bool { return strings.Contains(text, w) })
	l.tail = []byte(text[max(0, len(text)-64):])
	return len(p), nil
}

// overheard is r, with what is read from it told to w; read is closed at its
// end.
type overheard struct {
	io.ReadCloser
	w    io.Writer
	read chan struct{}
}

func (o overheard) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	_, _ = o.w.Write(p[:n]) // it takes everything
	if err != nil && !errors.Is(err, syscall.EINTR) {
		close(o.read) // nobody reads behind the end
	}
	return n, err
}
