package pipelock

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// rules are what pipelock decides by, from one configuration.
type rules struct {
	allow       []policy.Pattern
	hosts       map[policy.Host]netip.Addr
	exempt      []netip.Prefix
	passthrough []policy.Pattern
	file        string // that they were read from
	lines       []int  // of each entry of allow in it
}

// newRules takes a file that has been validated.
func newRules(f bundle.PipelockFile) rules {
	r := rules{allow: f.Allow, lines: f.Lines, exempt: f.Addresses.Allow, passthrough: f.Secrets.Passthrough, hosts: map[policy.Host]netip.Addr{}}
	for name, addr := range f.Hosts {
		if h, err := policy.ParseHost(name); err == nil { // Validate has refused the others
			r.hosts[h] = addr
		}
	}
	return r
}

// decide asks the allowlist: a pattern without a port stands for 443 and 80.
func (r rules) decide(a policy.Authority) policy.Verdict {
	for i, p := range r.allow {
		if p.MatchesAuthority(a, 443, 80) {
			return policy.Allowed(r.name(i))
		}
	}
	return policy.Denied("allow", "the allowlist does not have "+a.String())
}

// name is what a verdict calls an entry of the allowlist.
func (r rules) name(i int) string { return fmt.Sprintf("allow[%d] %s", i, r.allow[i]) }

// reads tells whether the content that goes to the host is scanned.
func (r rules) reads(h policy.Host) bool {
	return !slices.ContainsFunc(r.passthrough, func(p policy.Pattern) bool { return p.Matches(h) })
}

// judgeAll sorts the addresses of one resolution: those that may be dialled,
// in order, or the reason why there are none. An entry of hosts is the
// operator's word and needs no exception.
func (r rules) judgeAll(h policy.Host, found []netip.Addr) ([]netip.Addr, policy.Verdict) {
	if len(found) == 0 {
		return nil, policy.Denied("address", h.String()+" has no address")
	}
	var good []netip.Addr
	var reasons []string
	for _, addr := range found {
		if v := policy.JudgeAddr(addr, r.exempt); v.Allow {
			good = append(good, addr.Unmap())
		} else {
			reasons = append(reasons, v.Why)
		}
	}
	if len(good) == 0 {
		return nil, policy.Denied("address", h.String()+" leads to: "+strings.Join(reasons, "; "))
	}
	return good, policy.Allowed("address")
}
