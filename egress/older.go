package egress

import (
	"sync"
	"time"

	"airlock/internal/policy"
)

const (
	// olderFor is how long an origin counts as one without HTTP/2.
	olderFor = time.Hour
	// maxOlder bounds how many are remembered.
	maxOlder = 1024
)

// older are the origins that were asked by an agent with HTTP/2 and have only
// HTTP/1.1. The next tunnel to one of them does not offer what it does not
// have, so that nothing need be translated. The first cannot know: whoever
// opens a tunnel has not been allowed anything yet, and nothing is dialled.
type older struct {
	mu    sync.Mutex
	until map[policy.Authority]time.Time
}

func (o *older) add(a policy.Authority) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until == nil || len(o.until) >= maxOlder {
		o.until = map[policy.Authority]time.Time{} // to be learnt anew costs a translation
	}
	o.until[a] = time.Now().Add(olderFor)
}

func (o *older) has(a policy.Authority) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Before(o.until[a])
}
