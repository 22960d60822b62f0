package pipelock

import (
	"context"
	"errors"
	"math"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"airlock/internal/policy"
)

// What bodies may take of the memory, in bytes, all of them together, where the
// daemon has its 512 MiB; with another limit it is in proportion. The rest is
// for connections, WebSockets, archives and garbage.
const (
	firstWindowBytes = 64 << 20  // the first smallBody of each
	windowBytes      = 128 << 20 // what is held of longer ones, and of their scans
	grownBytes       = 64 << 20  // of windows that something compressed goes on beyond
	inflateBytes     = 96 << 20

	ordinaryLimit = 435 << 20 // the soft limit for which these are made
)

// acquireTimeout is how long a request waits for memory.
const acquireTimeout = 10 * time.Second

// memoryPools bounds the memory that bodies take, by purpose.
type memoryPools struct{ firstWindows, windows, grown, inflated *pool }

// newMemoryPools divides the soft limit.
func newMemoryPools(limit int64) *memoryPools {
	if limit == math.MaxInt64 {
		limit = ordinaryLimit
	}
	part := func(n int64) *pool {
		n = int64(float64(n) * float64(limit) / ordinaryLimit)
		return &pool{size: n, free: semaphore.NewWeighted(n), wait: acquireTimeout}
	}
	return &memoryPools{
		firstWindows: part(firstWindowBytes), windows: part(windowBytes),
		grown: part(grownBytes), inflated: part(inflateBytes),
	}
}

// softLimit is the process's own GOMEMLIMIT.
func softLimit() int64 { return debug.SetMemoryLimit(-1) }

// pool is a bounded share of the memory.
type pool struct {
	size int64
	free *semaphore.Weighted
	wait time.Duration
}

// busyRule is the rule of a request for which there was no room.
const busyRule = "memory"

var errBusy = errors.New("too much is being read at once; the request may be tried again")

// acquire waits until n bytes may be used; more than the size of the pool counts as all of it. They
// are released by the first call of done, or when ctx ends.
func (p *pool) acquire(ctx context.Context, n int64) (done func(), err error) {
	n = min(n, p.size)
	wait, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	if err := p.free.Acquire(wait, n); err != nil {
		return nil, errBusy
	}
	return p.releaseOnce(ctx, n), nil
}

// tryAcquire is acquire without waiting.
func (p *pool) tryAcquire(ctx context.Context, n int64) (done func(), ok bool) {
	n = min(n, p.size)
	if !p.free.TryAcquire(n) {
		return nil, false
	}
	return p.releaseOnce(ctx, n), true
}

// releaseOnce returns the function that releases n bytes.
func (p *pool) releaseOnce(ctx context.Context, n int64) (done func()) {
	release := sync.OnceFunc(func() { p.free.Release(n) })
	stop := context.AfterFunc(ctx, release) // also when the request is cancelled
	return func() { stop(); release() }
}

// reservation is the memory that one body has acquired.
type reservation struct {
	mu                   sync.Mutex // a body may be closed while it is read
	first, window, grown func()     // nil: nothing
	closed               bool
}

// set stores a release function. It calls it at once where the body has been closed.
func (h *reservation) set(place *func(), done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		done()
		return
	}
	*place = done
}

// holds reports whether there is something to release.
func (h *reservation) holds(place *func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *place != nil
}

// release releases one of them.
func (h *reservation) release(place *func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *place != nil {
		(*place)()
		*place = nil
	}
}

// releaseAll releases everything, including what is set later.
func (h *reservation) releaseAll() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.release(&h.first)
	h.release(&h.window)
	h.release(&h.grown)
}

func busy() policy.Verdict { return policy.Denied(busyRule, errBusy.Error()) }
