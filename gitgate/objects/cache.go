package objects

import (
	"container/list"
	"sync"
)

// cacheBytes is how much inflated data one pack keeps for the deltas to come.
const cacheBytes = 32 << 20

// cache keeps the objects read last, by offset.
type cache struct {
	mu     sync.Mutex
	byAt   map[int64]*list.Element
	recent *list.List
	bytes  int
}

type cached struct {
	at   int64
	typ  Type
	data []byte
}

func newCache() *cache { return &cache{byAt: map[int64]*list.Element{}, recent: list.New()} }

// forget drops everything.
func (c *cache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byAt, c.recent, c.bytes = map[int64]*list.Element{}, list.New(), 0
}

func (c *cache) get(at int64) (Type, []byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byAt[at]
	if !ok {
		return 0, nil, false
	}
	c.recent.MoveToFront(e)
	v := e.Value.(cached)
	return v.typ, v.data, true
}

// cacheable tells an object that is small enough to be kept.
func cacheable(data []byte) bool { return len(data) <= cacheBytes/4 }

func (c *cache) put(at int64, typ Type, data []byte) {
	if !cacheable(data) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byAt[at]; ok {
		return
	}
	c.byAt[at] = c.recent.PushFront(cached{at, typ, data})
	for c.bytes += len(data) + 64; c.bytes > cacheBytes; {
		old := c.recent.Remove(c.recent.Back()).(cached)
		delete(c.byAt, old.at)
		c.bytes -= len(old.data) + 64
	}
}
