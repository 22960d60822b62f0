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
	beginBytes   = 64 << 20  // the first smallBody of each
	windowBytes  = 128 << 20 // what is held of longer ones, and of their scans
	grownBytes   = 64 << 20  // of windows that something compressed goes on beyond
	inflateBytes = 96 << 20

	ordinaryLimit = 435 << 20 // the soft limit for which these are made
)

// heldWait is how long a request waits for others to let go of theirs.
const heldWait = 10 * time.Second

// memory bounds what is held of bodies.
type memory struct{ begins, windows, grown, inflated *pool }

// newMemory divides what the soft limit leaves.
func newMemory(limit int64) *memory {
	if limit == math.MaxInt64 {
		limit = ordinaryLimit
	}
	part := func(n int64) *pool {
		n = int64(float64(n) * float64(limit) / ordinaryLimit)
		return &pool{size: n, free: semaphore.NewWeighted(n), wait: heldWait}
	}
	return &memory{begins: part(beginBytes), windows: part(windowBytes), grown: part(grownBytes), inflated: part(inflateBytes)}
}

// softLimit is the process's own GOMEMLIMIT.
func softLimit() int64 { return debug.SetMemoryLimit(-1) }

// pool is some of the memory.
type pool struct {
	size int64
	free *semaphore.Weighted
	wait time.Duration
}

// busyRule is the rule of a request for which there was no room.
const busyRule = "memory"

var errBusy = errors.New("too much is being read at once; the request may be tried again")

// take waits until n bytes may be held. What is more than the pool has is
// taken alone. They are held until the first call of done, or the end of ctx.
func (p *pool) take(ctx context.Context, n int64) (done func(), err error) {
	n = min(n, p.size)
	wait, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	if err := p.free.Acquire(wait, n); err != nil {
		return nil, errBusy
	}
	return p.lend(ctx, n), nil
}

// try is take for somebody who can do without.
func (p *pool) try(ctx context.Context, n int64) (done func(), ok bool) {
	n = min(n, p.size)
	if !p.free.TryAcquire(n) {
		return nil, false
	}
	return p.lend(ctx, n), true
}

func (p *pool) lend(ctx context.Context, n int64) (done func()) {
	back := sync.OnceFunc(func() { p.free.Release(n) })
	stop := context.AfterFunc(ctx, back) // whatever becomes of the request
	return func() { stop(); back() }
}

// holding is what one body has of the memory.
type holding struct {
	mu                   sync.Mutex // a body is closed by somebody else than its reader
	begin, window, grown func()     // nil: nothing
	closed               bool
}

// keep remembers how to give something back; at once where the body has been
// closed.
func (h *holding) keep(place *func(), done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		done()
		return
	}
	*place = done
}

// has tells whether there is something to give back.
func (h *holding) has(place *func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *place != nil
}

// drop gives one of them back.
func (h *holding) drop(place *func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *place != nil {
		(*place)()
		*place = nil
	}
}

// close gives back everything, and what comes later.
func (h *holding) close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.drop(&h.begin)
	h.drop(&h.window)
	h.drop(&h.grown)
}

func busy() policy.Verdict { return policy.Denied(busyRule, errBusy.Error()) }
