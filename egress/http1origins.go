package egress

import (
	"sync"
	"time"

	"airlock/internal/policy"
)

const (
	// http1OriginTTL is how long an origin counts as one without HTTP/2.
	http1OriginTTL = time.Hour
	// maxHTTP1Origins bounds how many are remembered.
	maxHTTP1Origins = 1024
)

// http1Origins are the origins that were asked by an agent with HTTP/2 and have only
// HTTP/1.1. The next tunnel to one of them does not offer what it does not
// have, so that nothing need be translated. The first cannot know: whoever
// opens a tunnel has not been allowed anything yet, and nothing is dialled.
type http1Origins struct {
	mu    sync.Mutex
	until map[policy.Authority]time.Time
}

func (o *http1Origins) add(a policy.Authority) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until == nil || len(o.until) >= maxHTTP1Origins {
		o.until = map[policy.Authority]time.Time{} // to be learnt anew costs a translation
	}
	o.until[a] = time.Now().Add(http1OriginTTL)
}

func (o *http1Origins) has(a policy.Authority) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Before(o.until[a])
}
