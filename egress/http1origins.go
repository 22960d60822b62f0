package egress

import (
	"sync"
	"time"

	"airlock/internal/policy"
)

const (
	// http1OriginTTL is how long an origin counts as having no HTTP/2.
	http1OriginTTL = time.Hour
	// maxHTTP1Origins bounds the number of entries.
	maxHTTP1Origins = 1024
)

// http1Origins caches, for an hour, origins that answered an HTTP/2 client over HTTP/1.1, so that the
// next tunnel to them does not offer h2 and nothing has to be translated. The first tunnel cannot
// know: no request has been allowed when it is opened, so nothing has been dialled. Its methods may
// be called concurrently.
type http1Origins struct {
	mu    sync.Mutex
	until map[policy.Authority]time.Time
}

func (o *http1Origins) add(a policy.Authority) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until == nil || len(o.until) >= maxHTTP1Origins {
		o.until = map[policy.Authority]time.Time{} // costs one translation per origin
	}
	o.until[a] = time.Now().Add(http1OriginTTL)
}

func (o *http1Origins) has(a policy.Authority) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Before(o.until[a])
}
