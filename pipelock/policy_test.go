package pipelock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/lab"
	"airlock/internal/policy"
)

func parse(t *testing.T, text string) bundle.PipelockFile {
	t.Helper()
	var f bundle.PipelockFile
	if err := config.Decode("sample", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

const sample = `version: 1
allow:
  - api.ok.test
  - "*.cdn.test"
  - git.test:8443
  - 93.184.216.34
hosts: {pinned.cdn.test: 93.184.216.35, inside.cdn.test: 10.0.0.1}
addresses: {allow: [192.0.2.0/24]}
secrets: {passthrough: [chat.cdn.test]}
`

func TestDecide(t *testing.T) {
	r := newRules(parse(t, sample))
	for authority, want := range map[string]policy.Verdict{
		"api.ok.test:443":      policy.Allowed("allow[0] api.ok.test"),
		"api.ok.test:80":       policy.Allowed("allow[0] api.ok.test"),
		"api.ok.test:22":       policy.Denied("allow", "the allowlist does not have api.ok.test:22"),
		"a.cdn.test:443":       policy.Allowed("allow[1] *.cdn.test"),
		"cdn.test:443":         policy.Denied("allow", "the allowlist does not have cdn.test:443"),
		"evilcdn.test:443":     policy.Denied("allow", "the allowlist does not have evilcdn.test:443"),
		"cdn.test.evil.test:1": policy.Denied("allow", "the allowlist does not have cdn.test.evil.test:1"),
		"git.test:8443":        policy.Allowed("allow[2] git.test:8443"),
		"git.test:443":         policy.Denied("allow", "the allowlist does not have git.test:443"),
		"93.184.216.34:443":    policy.Allowed("allow[3] 93.184.216.34"),
		"127.0.0.1:443":        policy.Denied("allow", "the allowlist does not have 127.0.0.1:443"),
	} {
		a, err := policy.ParseAuthority(authority, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.decide(a, time.Unix(1_800_000_000, 0)); got != want {
			t.Errorf("%s: %+v, want %+v", authority, got, want)
		}
	}
	if v := (rules{}).decide(policy.Authority{}, time.Time{}); v.Allow {
		t.Error("no rules allow something")
	}
}

// resolver counts and answers.
type resolver struct {
	asked   []string
	answers [][]netip.Addr
}

func (r *resolver) lookup(_ context.Context, _, host string) ([]netip.Addr, error) {
	r.asked = append(r.asked, host)
	if len(r.answers) == 0 {
		return nil, errors.New("no such host")
	}
	answer := r.answers[0]
	r.answers = r.answers[1:]
	return answer, nil
}

func addrs(list ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range list {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestResolveJudgesEveryAddress(t *testing.T) {
	for _, c := range []struct {
		name, host string
		found      []netip.Addr
		want       []netip.Addr
		why        string
	}{
		{"public", "api.ok.test", addrs("1.1.1.1", "2606:4700::1"), addrs("1.1.1.1", "2606:4700::1"), ""},
		{"private", "api.ok.test", addrs("10.1.2.3"), nil, "10.1.2.3 is in a special range (private 10.0.0.0/8)"},
		{"metadata", "api.ok.test", addrs("169.254.169.254"), nil, "metadata"},
		{"mapped", "api.ok.test", addrs("::ffff:127.0.0.1"), nil, "loopback"},
		{"one of each", "api.ok.test", addrs("127.0.0.1", "1.1.1.1"), addrs("1.1.1.1"), ""},
		{"an exception", "api.ok.test", addrs("192.0.2.7"), addrs("192.0.2.7"), ""},
		{"from hosts", "pinned.cdn.test", nil, addrs("93.184.216.35"), ""},
		{"from hosts, private", "inside.cdn.test", nil, nil, "private"},
		{"nothing", "api.ok.test", addrs(), nil, "has no address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := &resolver{answers: [][]netip.Addr{c.found}}
			g := newGuard(newRules(parse(t, sample)))
			g.lookup = res.lookup
			host, err := policy.ParseHost(c.host)
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.resolve(t.Context(), policy.Authority{Host: host, Port: 443})
			var refused *refusedError
			if c.why != "" {
				if !errors.As(err, &refused) || !strings.Contains(refused.v.Why, c.why) || refused.v.Rule != "address" {
					t.Errorf("%v, want %q", err, c.why)
				}
				return
			}
			if err != nil || len(got) != len(c.want) || got[0] != c.want[0] {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
		})
	}
}

// TestDialGoesToWhatWasJudged is invariant 4: the second answer of a name
// that changes is never asked for.
func TestDialGoesToWhatWasJudged(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan struct{}, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
			accepted <- struct{}{}
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	res := &resolver{answers: [][]netip.Addr{addrs("127.0.0.1"), addrs("10.0.0.1")}}
	g := newGuard(newRules(parse(t, "version: 1\nallow: ['api.ok.test:"+port+"']\naddresses: {allow: [127.0.0.1/32]}\n")))
	g.lookup = res.lookup
	c, err := g.DialContext(t.Context(), "tcp", "api.ok.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	lab.Receive(t, accepted, "the connection is accepted")
	if len(res.asked) != 1 || res.asked[0] != "api.ok.test." {
		t.Errorf("asked %v", res.asked)
	}
}

// TestUnlistedNameIsNotResolved is invariant 3.
func TestUnlistedNameIsNotResolved(t *testing.T) {
	res := &resolver{}
	g := newGuard(newRules(parse(t, sample)))
	g.lookup = res.lookup
	for _, address := range []string{"evil.test:443", "127.0.0.1:80", "api.ok.test:22", "[::1]:443", "api.ok.test"} {
		if c, err := g.DialContext(t.Context(), "tcp", address); err == nil {
			c.Close()
			t.Errorf("%s was dialled", address)
		}
	}
	if len(res.asked) != 0 {
		t.Errorf("the resolver was asked for %v", res.asked)
	}
}

// TestExpiry: an entry matches until its time, and not a moment longer.
func TestExpiry(t *testing.T) {
	r := newRules(parse(t, `version: 1
allow:
  - {host: api.ok.test, expires: 2026-12-31T12:00:00Z}
  - {host: "*.cdn.test", expires: 2026-12-31T12:00:00Z}
  - {host: both.test, expires: 2026-12-31T12:00:00Z}
  - {host: both.test, expires: 2026-12-31T13:00:00Z}
  - a.cdn.test
`))
	r.file = "pipelock.yaml"
	end := time.Date(2026, 12, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		authority string
		now       time.Time
		want      policy.Verdict
		until     time.Time
	}{
		{"api.ok.test:443", end.Add(-1), policy.Allowed("allow[0] api.ok.test"), end},
		{"api.ok.test:443", end, policy.Denied("allow", "the entry allow[0] api.ok.test of the allowlist expired at 2026-12-31T12:00:00Z"), end},
		{"b.cdn.test:443", end.Add(-1), policy.Allowed("allow[1] *.cdn.test"), end},
		{"b.cdn.test:443", end, policy.Denied("allow", "the entry allow[1] *.cdn.test of the allowlist expired at 2026-12-31T12:00:00Z"), end},
		{"a.cdn.test:443", end, policy.Allowed("allow[4] a.cdn.test"), time.Time{}},
		{"both.test:443", end, policy.Allowed("allow[3] both.test"), end.Add(time.Hour)},
		{"other.test:443", end, policy.Denied("allow", "the allowlist does not have other.test:443"), time.Time{}},
	} {
		a, err := policy.ParseAuthority(c.authority, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.decide(a, c.now); got != c.want {
			t.Errorf("%s at %v: %+v, want %+v", a, c.now, got, c.want)
		}
		if got := r.until(a); !got.Equal(c.until) {
			t.Errorf("%s: until %v, want %v", a, got, c.until)
		}
	}
}
