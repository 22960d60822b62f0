// Package rest gives memory back when a daemon has nothing to do. The
// collector keeps what a burst needed for minutes; a pair waits for hours.
package rest

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// after is how long nothing must have happened.
	after = 2 * time.Second
	// worth is how much must be there to give back, in bytes.
	worth = 2 << 20
)

var state struct {
	mu    sync.Mutex
	last  time.Time
	armed bool
}

// Soon is called with each thing that a daemon has done. When it was the last
// for a while, memory that is not in use goes back to the system. A daemon at
// rest is not woken.
func Soon() {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.last = time.Now()
	if !state.armed {
		state.armed = true
		time.AfterFunc(after, look)
	}
}

func look() {
	state.mu.Lock()
	if left := after - time.Since(state.last); left > 0 {
		time.AfterFunc(left, look)
		state.mu.Unlock()
		return
	}
	state.armed = false
	state.mu.Unlock()
	if spare() > worth {
		runtime.GC() // what pools hold goes with the second collection
		debug.FreeOSMemory()
	}
}

// spare is what the heap holds beyond what was alive at the last collection,
// in bytes.
func spare() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	held := samples[0].Value.Uint64() + samples[1].Value.Uint64() + samples[2].Value.Uint64()
	return held - min(held, samples[3].Value.Uint64())
}
