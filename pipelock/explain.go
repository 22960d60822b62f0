package pipelock

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// explain says how a request would be judged that nobody has sent, as far as
// its URL tells. No name is resolved for it: only an address that is written
// in the URL or in the file is judged.
func (r rules) explain(q policy.Question) policy.Explanation {
	x := policy.Explanation{Daemon: bundle.Pipelock}
	t, err := policy.ParseTarget(q.URL)
	if err != nil {
		x.Rule, x.Why = "authority", err.Error()
		return x
	}
	v := r.decide(t.Authority, time.Now())
	x.Allow, x.Rule, x.Why, x.At = v.Allow, v.Rule, v.Why, r.at(v.Rule)
	if !v.Allow {
		x.Line = strconv.Quote(lineFor(t))
		x.Nearest = r.nearest(t.Authority.Host)
		x.NearestAt = r.at(x.Nearest)
		return x
	}
	labels, _ := r.agentLabels(t.Authority, time.Now())
	if why := dataReason(labels); why != "" {
		x.Allow, x.Rule, x.Why, x.At, x.Line = false, ruleName, why, "", strconv.Quote(lineFor(t))
		return x
	}
	addr, known := r.hosts[t.Authority.Host]
	if !known {
		addr = t.Authority.Host.Addr()
	}
	if addr.IsValid() {
		if _, v := r.judgeAll(t.Authority, []netip.Addr{addr}, isOwnAddr); !v.Allow {
			x.Allow, x.Rule, x.Why, x.At = false, v.Rule, v.Why, ""
			x.Line = "addresses: {allow: [" + netip.PrefixFrom(addr, addr.BitLen()).String() + "]}"
		}
	}
	return x
}

// lineFor is the entry of the allowlist that names the target: without a port
// where a pattern without one means it.
func lineFor(t policy.Target) string {
	if t.Authority.Port == 80 {
		return t.Authority.HostFor(80)
	}
	return t.Authority.HostFor(443)
}

// at is the file and the line of a rule that is an entry of the allowlist.
func (r rules) at(rule string) string {
	for i := range r.allow {
		if i < len(r.lines) && r.name(i) == rule {
			return fmt.Sprintf("%s:%d", filepath.Base(r.file), r.lines[i])
		}
	}
	return ""
}

// nearest is the first entry whose host has most in common with a name.
func (r rules) nearest(h policy.Host) (name string) {
	best := 0
	for i, e := range r.allow {
		n := e.Host.Kin(h)
		if n == 0 && e.Host.Matches(h) {
			n = 1 // an address, with another port
		}
		if n > best {
			name, best = r.name(i), n
		}
	}
	return name
}
