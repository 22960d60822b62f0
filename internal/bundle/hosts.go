package bundle

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"airlock/internal/config"
	"airlock/internal/policy"
)

// HostTable is a table of addresses that stand in the place of DNS, with the
// key that it has in its file.
type HostTable struct {
	Key   string
	Hosts map[string]netip.Addr
}

// ParseHosts returns a table by canonical host. It takes one that CheckHosts
// has accepted.
func ParseHosts(table map[string]netip.Addr) map[policy.Host]netip.Addr {
	hosts := make(map[policy.Host]netip.Addr, len(table))
	for name, addr := range table {
		if h, err := policy.ParseHost(name); err == nil {
			hosts[h] = addr
		}
	}
	return hosts
}

// CheckHosts reports the names of one table that are no hosts, and those that
// are one host with several addresses, whatever their spelling. The
// repositories concerned are named.
func CheckHosts(table HostTable, repos map[string]Repo) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(table.Hosts)) {
		if _, err := policy.ParseHost(name); err != nil {
			errs = append(errs, config.At(table.Key+"."+name, "%v", err))
		}
	}
	return errors.Join(append(errs, conflicts([]HostTable{table}, repos))...)
}

// CheckHostTables reports the hosts that have one address in one table and
// another one in another. What is wrong within a table is for CheckHosts.
func CheckHostTables(repos map[string]Repo, tables ...HostTable) error {
	return conflicts(tables, repos)
}

// conflicts looks within a table if it is the only one, else between them.
func conflicts(tables []HostTable, repos map[string]Repo) error {
	type entry struct {
		table     int
		key, name string
		addr      netip.Addr
	}
	first := map[policy.Host]entry{}
	var errs []error
	for i, t := range tables {
		for _, name := range slices.Sorted(maps.Keys(t.Hosts)) {
			h, err := policy.ParseHost(name)
			if err != nil {
				continue
			}
			e := entry{i, t.Key + "." + name, name, t.Hosts[name].Unmap()}
			have, known := first[h]
			if !known {
				first[h] = e
				continue
			}
			if have.addr != e.addr && (len(tables) == 1 || have.table != e.table) {
				other := "at " + have.key
				if have.table == e.table {
					other = fmt.Sprintf("as %q", have.name) // the file may have the table below another key
				}
				errs = append(errs, config.At(e.key, "%s has the address %s here and %s %s%s: one host has one address", h, e.addr, have.addr, other, concerned(h, repos)))
			}
		}
	}
	return errors.Join(errs...)
}

// concerned names the repositories at a host.
func concerned(h policy.Host, repos map[string]Repo) string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(repos)) {
		u, err := url.Parse(repos[name].URL)
		if err != nil {
			continue
		}
		if at, err := policy.ParseHost(u.Hostname()); err == nil && at == h {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf(" (it has the repositories %s)", strings.Join(names, ", "))
}
