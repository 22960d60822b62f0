package pipelock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

const (
	// maxHosts bounds how many hosts have budgets of their own. What an agent
	// names beyond that, under a wildcard, shares one: no host's budget is
	// forgotten for another's.
	maxHosts = 4096
	// sweepEvery is how often a full budget looks for hosts that have used
	// nothing lately.
	sweepEvery = time.Second
	// tunnelRetry is the Retry-After of a client with too many open tunnels.
	tunnelRetry = 5 * time.Second
)

// limits are the budgets of a host; 0 is unlimited.
type limits struct {
	perMinute int           // requests
	perHour   int64         // bytes of requests
	tunnels   int           // WebSockets and CONNECT tunnels at once
	idle      time.Duration // of a WebSocket
	rule      string        // their prefix in rules, as in "limits."
}

// override replaces limits for some hosts.
type override struct {
	pattern policy.Pattern
	limits
}

// budget counts what is sent to each host.
type budget struct {
	all       limits
	overrides []override // the narrowest pattern first

	mu    sync.Mutex
	hosts map[policy.Host]*spent
	rest  spent // of the hosts that have no budget of their own
	swept time.Time
}

// spent is what a host has used up.
type spent struct {
	minute, hour window
	open         int // tunnels
}

// window is an amount since a time.
type window struct {
	began time.Time
	used  int64
}

// newBudget takes limits that have been validated.
func newBudget(l bundle.PipelockLimits) *budget {
	b := &budget{all: limits{l.RequestsPerMinute, int64(l.BytesPerHour), l.Tunnels, l.TunnelIdle.Or(defaultIdle), "limits."}}
	for name, h := range l.Hosts {
		p, err := policy.ParsePattern(name)
		if err != nil {
			continue
		}
		o := override{p, b.all}
		o.rule = "limits.hosts." + name + "."
		if h.RequestsPerMinute != nil {
			o.perMinute = *h.RequestsPerMinute
		}
		if h.BytesPerHour != nil {
			o.perHour = int64(*h.BytesPerHour)
		}
		if h.Tunnels != nil {
			o.tunnels = *h.Tunnels
		}
		if h.TunnelIdle != nil {
			o.idle = h.TunnelIdle.Or(defaultIdle)
		}
		b.overrides = append(b.overrides, o)
	}
	slices.SortFunc(b.overrides, func(x, y override) int { return narrower(x.pattern, y.pattern) })
	return b
}

// of are the limits of a host. A pattern with a port is for all ports:
// budgets are those of the host.
func (b *budget) of(h policy.Host) limits {
	for _, o := range b.overrides {
		if o.pattern.Matches(h) {
			return o.limits
		}
	}
	return b.all
}

// account finds what a host has spent. The caller holds mu.
func (b *budget) account(h policy.Host, now time.Time) *spent {
	if s := b.hosts[h]; s != nil {
		return s
	}
	if len(b.hosts) >= maxHosts && now.Sub(b.swept) >= sweepEvery {
		b.swept = now
		for name, s := range b.hosts {
			if s.open == 0 && now.Sub(s.minute.began) >= time.Minute && now.Sub(s.hour.began) >= time.Hour {
				delete(b.hosts, name)
			}
		}
	}
	if len(b.hosts) >= maxHosts {
		return &b.rest
	}
	if b.hosts == nil {
		b.hosts = map[policy.Host]*spent{}
	}
	s := &spent{}
	b.hosts[h] = s
	return s
}

// count uses up n of at most most in a length of time. Where that is too much
// it says after how long there is more.
func (w *window) count(n, most int64, length time.Duration, now time.Time) (ok bool, retry time.Duration) {
	if now.Sub(w.began) >= length {
		*w = window{began: now}
	}
	if n > most-w.used {
		return false, w.began.Add(length).Sub(now)
	}
	w.used += n
	return true, 0
}

// overspent is a refusal, and when to come again.
func overspent(rule, what string, h policy.Host, retry time.Duration) *refusedError {
	return &refusedError{v: policy.Denied(rule, "the budget of "+h.String()+" is used up: "+what), retry: retry}
}

// request counts a request, and the bytes of it that are known.
func (b *budget) request(h policy.Host, bytes int64, now time.Time) *refusedError {
	l := b.of(h)
	if l.perMinute == 0 && l.perHour == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.account(h, now)
	if l.perMinute > 0 {
		if ok, retry := s.minute.count(1, int64(l.perMinute), time.Minute, now); !ok {
			return overspent(l.rule+"requests_per_minute", fmt.Sprintf("%d requests a minute", l.perMinute), h, retry)
		}
	}
	return s.bytes(l, h, bytes, now)
}

func (s *spent) bytes(l limits, h policy.Host, n int64, now time.Time) *refusedError {
	if l.perHour == 0 {
		return nil
	}
	if ok, retry := s.hour.count(n, l.perHour, time.Hour, now); !ok {
		return overspent(l.rule+"bytes_per_hour", fmt.Sprintf("%d bytes an hour", l.perHour), h, retry)
	}
	return nil
}

// sent counts bytes of a request that is under way.
func (b *budget) sent(h policy.Host, n int64, now time.Time) *refusedError {
	l := b.of(h)
	if l.perHour == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.account(h, now).bytes(l, h, n, now)
}

// open counts a tunnel until it is closed, which may be told more than once.
func (b *budget) open(h policy.Host, now time.Time) (closed func(), refused *refusedError) {
	l := b.of(h)
	if l.tunnels == 0 {
		return func() {}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.account(h, now)
	if s.open >= l.tunnels {
		return nil, overspent(l.rule+"tunnels", fmt.Sprintf("%d tunnels at once", l.tunnels), h, tunnelRetry)
	}
	s.open++
	var once sync.Once
	return func() {
		once.Do(func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			s.open--
		})
	}, nil
}

// knownBytes is the size of a request as far as it can be told: its head, and
// its body where it has a length.
func knownBytes(r *http.Request) int64 {
	n := int64(len(r.Method)) + int64(len(r.URL.Path)) + int64(len(r.URL.RawQuery))
	for name, values := range r.Header {
		for _, v := range values {
			n += int64(len(name) + len(v) + 4)
		}
	}
	return n + max(0, r.ContentLength)
}

// countedBody counts a body of unknown length.
type countedBody struct {
	io.ReadCloser
	budget *budget
	host   policy.Host
}

// Read implements io.Reader.
func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		if refused := c.budget.sent(c.host, int64(n), time.Now()); refused != nil {
			return 0, refused
		}
	}
	return n, err
}

// countedConn counts what is written to a WebSocket.
type countedConn struct {
	io.ReadWriteCloser
	budget *budget
	host   policy.Host
	told   func(policy.Verdict) // why it is closed
}

// Write implements io.Writer.
func (c *countedConn) Write(p []byte) (int, error) {
	if refused := c.budget.sent(c.host, int64(len(p)), time.Now()); refused != nil {
		c.told(refused.v)
		return 0, refused // the writer closes: the client is to be told first
	}
	return c.ReadWriteCloser.Write(p)
}

// tunnelConn tells when it is closed.
type tunnelConn struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c tunnelConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// CloseWrite ends our half of the connection.
func (c tunnelConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
