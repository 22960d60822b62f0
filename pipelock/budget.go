package pipelock

import (
	"sync"
	"time"

	"airlock/internal/policy"
)

// maxHosts bounds how many hosts the budget remembers.
const maxHosts = 4096

// budget counts requests a host in a window of a minute.
type budget struct {
	perMinute int // 0: unlimited

	mu    sync.Mutex
	hosts map[policy.Host]*window
}

type window struct {
	began time.Time
	count int
}

// take counts a request. Where the budget is used up it says after how long
// there is a new one.
func (b *budget) take(h policy.Host, now time.Time) (ok bool, retry time.Duration) {
	if b.perMinute == 0 {
		return true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hosts == nil || len(b.hosts) >= maxHosts {
		b.hosts = map[policy.Host]*window{}
	}
	w := b.hosts[h]
	if w == nil || now.Sub(w.began) >= time.Minute {
		w = &window{began: now}
		b.hosts[h] = w
	}
	if w.count >= b.perMinute {
		return false, w.began.Add(time.Minute).Sub(now)
	}
	w.count++
	return true, 0
}
