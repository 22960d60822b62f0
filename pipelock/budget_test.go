package pipelock

import (
	"fmt"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// TestBudgets goes through requests in time.
func TestBudgets(t *testing.T) {
	b := newBudget(parse(t, `version: 1
allow: [a.test]
limits:
  requests_per_minute: 2
  bytes_per_hour: 1000B
  hosts:
    "*.cdn.test": {requests_per_minute: 3}
    big.cdn.test: {requests_per_minute: 0, bytes_per_hour: 0}
    "*.deep.cdn.test": {requests_per_minute: 1}
`).Limits)
	requests := func(rule, h, most string) policy.Verdict {
		return policy.Denied(rule, "the budget of "+h+" is used up: "+most)
	}
	now := time.Unix(1_000_000, 0)
	for i, c := range []struct {
		host  string
		bytes int64
		after time.Duration
		want  policy.Verdict // zero: it passes
		retry time.Duration
	}{
		{"a.test", 10, 0, policy.Verdict{}, 0},
		{"a.test", 10, time.Second, policy.Verdict{}, 0},
		{"a.test", 10, 2 * time.Second, requests("limits.requests_per_minute", "a.test", "2 requests a minute"), 58 * time.Second},
		{"b.test", 10, 2 * time.Second, policy.Verdict{}, 0},
		{"a.test", 10, time.Minute, policy.Verdict{}, 0},
		{"a.test", 971, time.Minute, requests("limits.bytes_per_hour", "a.test", "1000 bytes an hour"), 59 * time.Minute},
		{"a.test", 970, 2 * time.Minute, policy.Verdict{}, 0},
		{"a.test", 1, 3 * time.Minute, requests("limits.bytes_per_hour", "a.test", "1000 bytes an hour"), 57 * time.Minute},
		{"a.test", 1000, time.Hour, policy.Verdict{}, 0},
		{"x.cdn.test", 1, 0, policy.Verdict{}, 0},
		{"x.cdn.test", 1, 0, policy.Verdict{}, 0},
		{"x.cdn.test", 1, 0, policy.Verdict{}, 0},
		{"x.cdn.test", 1, 0, requests("limits.hosts.*.cdn.test.requests_per_minute", "x.cdn.test", "3 requests a minute"), time.Minute},
		{"x.cdn.test", 1000, time.Minute, requests("limits.hosts.*.cdn.test.bytes_per_hour", "x.cdn.test", "1000 bytes an hour"), 59 * time.Minute},
		{"y.deep.cdn.test", 1, 0, policy.Verdict{}, 0},
		{"y.deep.cdn.test", 1, 0, requests("limits.hosts.*.deep.cdn.test.requests_per_minute", "y.deep.cdn.test", "1 requests a minute"), time.Minute},
		{"big.cdn.test", 1 << 40, 0, policy.Verdict{}, 0},
		{"big.cdn.test", 1 << 40, 0, policy.Verdict{}, 0},
	} {
		got := b.request(host(t, c.host), c.bytes, now.Add(c.after))
		switch {
		case got == nil && c.want == policy.Verdict{}:
		case got == nil || got.v != c.want || got.retry != c.retry:
			t.Errorf("%d: %+v, want %+v after %v", i, got, c.want, c.retry)
		}
	}
	if newBudget(bundle.PipelockLimits{}).request(host(t, "a.test"), 1<<60, now) != nil {
		t.Error("no budget is a limit")
	}
}

func TestTunnelBudget(t *testing.T) {
	b := newBudget(bundle.PipelockLimits{Tunnels: 2})
	now := time.Unix(1_000_000, 0)
	h := host(t, "a.test")
	first, over := b.open(h, now)
	if over != nil {
		t.Fatal(over)
	}
	if _, over = b.open(h, now); over != nil {
		t.Fatal(over)
	}
	want := policy.Denied("limits.tunnels", "the budget of a.test is used up: 2 tunnels at once")
	if _, over = b.open(h, now); over == nil || over.v != want || over.retry != tunnelRetry {
		t.Errorf("%+v", over)
	}
	if _, over = b.open(host(t, "b.test"), now); over != nil {
		t.Error(over)
	}
	first()
	first()
	if _, over = b.open(h, now); over != nil {
		t.Error(over)
	}
	if _, over = b.open(h, now); over == nil {
		t.Error("what is closed twice counts twice")
	}
}

// TestBudgetKeepsEveryHost: who names thousands of hosts under a wildcard
// does not get the budget of one back, and has one budget for the surplus.
func TestBudgetKeepsEveryHost(t *testing.T) {
	b := newBudget(bundle.PipelockLimits{RequestsPerMinute: 1, Tunnels: 1})
	now := time.Unix(1_000_000, 0)
	h := host(t, "first.cdn.test")
	if over := b.request(h, 1, now); over != nil {
		t.Fatal(over)
	}
	if _, over := b.open(h, now); over != nil {
		t.Fatal(over)
	}
	passed := 0
	for i := range 3 * maxHosts {
		if b.request(host(t, fmt.Sprintf("h%d.cdn.test", i)), 1, now) == nil {
			passed++
		}
	}
	if passed != maxHosts { // without the first, and with one for the rest
		t.Errorf("%d of %d passed", passed, 3*maxHosts)
	}
	if len(b.hosts) != maxHosts {
		t.Errorf("%d hosts are remembered", len(b.hosts))
	}
	if b.request(h, 1, now.Add(59*time.Second)) == nil {
		t.Error("the first host's budget was forgotten")
	}
	if over := b.request(host(t, "late.cdn.test"), 1, now.Add(2*time.Hour)); over != nil {
		t.Error(over)
	}
	if len(b.hosts) != 2 { // with the one that has a tunnel
		t.Errorf("%d hosts are remembered after two hours", len(b.hosts))
	}
	if _, over := b.open(h, now.Add(2*time.Hour)); over == nil {
		t.Error("an open tunnel was forgotten")
	}
}

func BenchmarkBudget(b *testing.B) {
	bud := newBudget(bundle.PipelockLimits{RequestsPerMinute: 1 << 30, BytesPerHour: 1 << 60})
	h, err := policy.ParseHost("a.test")
	if err != nil {
		b.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	for b.Loop() {
		if over := bud.request(h, 1, now); over != nil {
			b.Fatal(over)
		}
	}
}
