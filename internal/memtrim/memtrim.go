// Package memtrim returns unused heap to the operating system when a daemon is idle. The garbage
// collector keeps the memory that a burst of work needed for minutes, and a pair can be idle for
// hours. The idle timer is shared by the whole process; ScheduleIdle may be called concurrently.
package memtrim

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// idleAfter is how long after the last call of ScheduleIdle the process counts as idle.
	idleAfter = 2 * time.Second
	// minUnused is the amount of unused heap in bytes below which trimming is not worth its cost.
	minUnused = 2 << 20
)

var state struct {
	mu       sync.Mutex
	lastWork time.Time
	armed    bool // a timer that calls trimIfIdle is running
}

// ScheduleIdle is called after each unit of work of a daemon. Once no call has come for idleAfter,
// unused heap is returned to the operating system. No timer runs in an idle process.
func ScheduleIdle() {
	state.mu.Lock()
	defer state.mu.Unlock()
	state.lastWork = time.Now()
	if !state.armed {
		state.armed = true
		time.AfterFunc(idleAfter, trimIfIdle)
	}
}

// trimIfIdle trims the heap if the process has been idle for idleAfter, and else waits for what
// is left of that time.
func trimIfIdle() {
	state.mu.Lock()
	if left := idleAfter - time.Since(state.lastWork); left > 0 {
		time.AfterFunc(left, trimIfIdle)
		state.mu.Unlock()
		return
	}
	state.armed = false
	state.mu.Unlock()
	if unused() > minUnused {
		runtime.GC() // a sync.Pool gives up its values in the second collection, that of FreeOSMemory
		debug.FreeOSMemory()
	}
}

// unused returns the number of bytes that the heap occupies beyond what was live at the end of the
// last collection.
func unused() uint64 {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples)
	held := samples[0].Value.Uint64() + samples[1].Value.Uint64() + samples[2].Value.Uint64()
	return held - min(held, samples[3].Value.Uint64())
}
