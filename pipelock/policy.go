package pipelock

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// rules are what pipelock decides by, from one configuration.
type rules struct {
	allow       []bundle.Allowed
	hosts       map[policy.Host]netip.Addr
	exempt      []netip.Prefix
	passthrough []policy.Pattern
	ownPorts    []uint16 // ports of the bundle's daemons
	file        string   // that they were read from
	lines       []int    // of each entry of allow in it
}

// newRules takes a file that has been validated.
func newRules(f bundle.PipelockFile) rules {
	r := rules{ownPorts: ownPorts(f), allow: f.Allow, lines: f.Lines, exempt: f.Addresses.Allow, passthrough: f.Secrets.Passthrough, hosts: bundle.ParseHosts(f.Hosts)}
	return r
}

// decide asks the allowlist: a pattern without a port is for 443 and 80.
// The metadata service of a cloud needs an entry in hosts, too.
func (r rules) decide(a policy.Authority, now time.Time) policy.Verdict {
	if _, named := r.hosts[a.Host]; !named && a.Host.IsMetadata() && a.Host.Addr() == (netip.Addr{}) {
		return policy.Denied("metadata", a.Host.String()+" is the metadata service of a cloud: the allowlist alone does not open it")
	}
	if i := r.match(a, now); i >= 0 {
		return policy.Allowed(r.name(i))
	}
	if i := r.match(a, time.Time{}); i >= 0 {
		return policy.Denied("allow", "the entry "+r.name(i)+" of the allowlist expired at "+r.allow[i].Expires.UTC().Format(time.RFC3339))
	}
	return policy.Denied("allow", "the allowlist does not have "+a.Shown())
}

// match is the first entry that names the authority and is in force, -1 where
// there is none.
func (r rules) match(a policy.Authority, now time.Time) int {
	return slices.IndexFunc(r.allow, func(e bundle.Allowed) bool { return e.Host.MatchesAuthority(a, 443, 80) && e.At(now) })
}

// until is when the allowlist ceases to have the authority; zero: never.
func (r rules) until(a policy.Authority) (last time.Time) {
	for _, e := range r.allow {
		switch {
		case !e.Host.MatchesAuthority(a, 443, 80):
		case e.Expires.IsZero():
			return time.Time{}
		case e.Expires.After(last):
			last = e.Expires
		}
	}
	return last
}

// name is what a verdict calls an entry of the allowlist.
func (r rules) name(i int) string { return fmt.Sprintf("allow[%d] %s", i, r.allow[i].Host) }

// ownPorts returns the ports of the bundle's daemons.
func ownPorts(f bundle.PipelockFile) []uint16 {
	all := []uint16{bundle.PortEgress, bundle.PortPipelock, bundle.PortGit, bundle.PortGitHTTP, bundle.PortSupervise}
	if own, err := netip.ParseAddrPort(f.Listen); err == nil {
		all = append(all, own.Port())
	}
	return all
}

// reads reports whether requests to the host are scanned.
func (r rules) reads(h policy.Host) bool {
	return !slices.ContainsFunc(r.passthrough, func(p policy.Pattern) bool { return p.Matches(h) })
}

// judgeAll returns the addresses of one resolution that may be dialled, in order, or the reason why
// there are none. own reports whether an address is this machine's, besides loopback.
func (r rules) judgeAll(a policy.Authority, found []netip.Addr, own func(netip.Addr) bool) ([]netip.Addr, policy.Verdict) {
	h := a.Host
	if len(found) == 0 {
		return nil, policy.Denied("address", h.String()+" has no address")
	}
	var good []netip.Addr
	var reasons []string
	for _, addr := range found {
		v := policy.JudgeAddr(addr, r.exempt)
		if v.Allow {
			v = r.judgeOwn(a, addr.Unmap(), own)
		}
		if v.Allow {
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

// judgeOwn refuses requests that would come back: to a port of the bundle, and to other services of
// the machine. A range exempts loopback except these ports; another address of the machine must be
// listed in hosts.
func (r rules) judgeOwn(a policy.Authority, addr netip.Addr, own func(netip.Addr) bool) policy.Verdict {
	if !addr.IsLoopback() && !own(addr) {
		return policy.Allowed("address")
	}
	if slices.Contains(r.ownPorts, a.Port) {
		return policy.Denied("address", netip.AddrPortFrom(addr, a.Port).String()+" is a door of the sidecars themselves")
	}
	if named := r.hosts[a.Host]; !addr.IsLoopback() && named.Unmap() != addr {
		return policy.Denied("address", addr.String()+" is an address of the machine that pipelock runs on: it must stand in hosts")
	}
	return policy.Allowed("address")
}
