package gitgate

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// lfsAtOnce is how many objects of LFS are transferred at a time. The connections that are left serve git itself.
	lfsAtOnce = maxConns / 2
	// lfsAtOnceEach is how many of them one client has; git-lfs makes 8 unless it is told otherwise.
	lfsAtOnceEach = 12
)

// errLFSBusy is told to a transfer that has waited for its turn in vain; git-lfs tries again.
var errLFSBusy = &lfsAnswer{http.StatusServiceUnavailable, "lfs", "too many transfers at a time: try again later"}

// lfsTransfers bounds the transfers at a time, of each client and of all.
type lfsTransfers struct {
	all turns

	mu   sync.Mutex
	each map[string]*lfsTransferring
}

// lfsTransferring is one client, known by its address, as long as it has transfers or waits for one.
type lfsTransferring struct {
	turns turns
	users int
}

func newLFSTransfers() *lfsTransfers {
	return &lfsTransfers{all: make(turns, lfsAtOnce), each: map[string]*lfsTransferring{}}
}

// next waits for a turn of the client, until done ends it.
func (l *lfsTransfers) next(ctx context.Context, remote string) (done func(), err error) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	l.mu.Lock()
	c := l.each[host]
	if c == nil {
		c = &lfsTransferring{turns: make(turns, lfsAtOnceEach)}
		l.each[host] = c
	}
	c.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if c.users--; c.users == 0 {
			delete(l.each, host)
		}
	}
	own, err := c.turns.next(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	common, err := l.all.next(ctx)
	if err != nil {
		own()
		leave()
		return nil, err
	}
	return func() { common(); own(); leave() }, nil
}

// lfsTurn waits until a transfer may begin, as long as upstream may be silent.
func (g *gate) lfsTurn(r *http.Request, m *mirror) (done func(), err error) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), m.times.answer, errLFSBusy)
	defer cancel()
	return g.lfsTransfers.next(ctx, r.RemoteAddr)
}

// keepingPace is what upstream sends of an object. It has to come at minRate in the long run: an upstream that sends a byte now and then
// would keep the place of others.
type keepingPace struct {
	listening
	*pace
}

func (k keepingPace) Read(p []byte) (int, error) {
	defer k.dog.rest()
	return k.pace.read(k.Reader, p, func(end time.Time) error {
		k.dog.allow(time.Until(end))
		return nil
	})
}

var _ io.Reader = keepingPace{}
