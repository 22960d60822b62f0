package pipelock

import "sync"

// cleanSums are the sums of texts that were read and hold nothing: what is
// said again and again need not be read each time.
type cleanSums struct {
	mu  sync.Mutex
	now map[uint64]struct{}
	old map[uint64]struct{} // those of the time before now was begun
}

// maxClean bounds each half of what is remembered.
const maxClean = 2048

func (c *cleanSums) has(sum uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.now[sum]; ok {
		return true
	}
	_, ok := c.old[sum]
	if ok {
		c.keep(sum)
	}
	return ok
}

func (c *cleanSums) add(sums ...uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sum := range sums {
		c.keep(sum)
	}
}

func (c *cleanSums) keep(sum uint64) {
	if c.now == nil || len(c.now) >= maxClean {
		c.now, c.old = map[uint64]struct{}{}, c.now
	}
	c.now[sum] = struct{}{}
}
