package websocket

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// smallFrame is up to which length frames take little enough memory to be
	// held without asking.
	smallFrame = 64 << 10
	// heldBytes bounds what all connections hold beyond that: two of the
	// longest frames.
	heldBytes = 2 * longest * copies
	// heldWait is how long a frame waits for others to let go of theirs.
	heldWait = 10 * time.Second
	// copies of a frame are there while it is inspected and given on.
	copies = 3
	// longest is one with the beginning of the next.
	longest = maxFrame + maxHeader + smallFrame
)

// ErrBusy ends a connection whose frames there is no memory for.
var ErrBusy = errors.New("too many long websocket frames at once")

var free = semaphore.NewWeighted(heldBytes)

// room is the memory that one direction of a connection has. The zero value
// has none.
type room struct {
	mu     sync.Mutex
	taken  int64
	closed bool
}

// grow waits until n bytes may be held.
func (r *room) grow(n int) error {
	r.mu.Lock()
	taken, closed := r.taken, r.closed
	r.mu.Unlock()
	if n <= smallFrame || taken >= int64(n)*copies {
		return nil
	}
	// Twice as much each time: few steps, and never much that has not come.
	want := min(max(int64(n)*copies, min(2*taken, longest*copies)), heldBytes)
	if closed || want <= taken {
		return nil // what has been closed is read no more
	}
	ctx, cancel := context.WithTimeout(context.Background(), heldWait)
	defer cancel()
	if free.Acquire(ctx, want-taken) != nil {
		return ErrBusy
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		free.Release(want - taken)
	} else {
		r.taken = want
	}
	return nil
}

// shrink gives back what n bytes do not need.
func (r *room) shrink(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n <= smallFrame && r.taken > 0 {
		free.Release(r.taken)
		r.taken = 0
	}
}

// close gives everything back, now and later.
func (r *room) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.shrink(0)
}

// settle is called when what was fed has been given on.
func (i *Inspector) settle() {
	if len(i.pending)+i.holding <= smallFrame && cap(i.pending) > 2*smallFrame {
		i.pending = append([]byte(nil), i.pending...) // not with the room of a long one
	}
	i.room.shrink(len(i.pending) + i.holding)
}
