package probe

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// system are the ways out that depend on the machine: its routes, neighbours
// and kinds of sockets.
func (c Config) system() []attempt {
	attempts := []attempt{defaultRoutes, linkLocal, rawSocket("raw-socket", unix.AF_INET, unix.IPPROTO_ICMP), rawSocket("raw-socket6", unix.AF_INET6, unix.IPPROTO_ICMPV6),
		rawSocket("packet-socket", unix.AF_PACKET, 0), vsock}
	for _, a := range bridges(c.Want) {
		attempts = append(attempts, unreachable("bridge", a))
	}
	if c.Datagram != "" {
		attempts = append(attempts, c.datagrams)
	}
	return attempts
}

// defaultRoutes wants none, or none that leads to anybody: an engine may set
// one by way of a gateway that does not exist.
func defaultRoutes(ctx context.Context) Finding {
	if ways := defaults6(); len(ways) > 0 {
		return Finding{"default-route", "", false, "by " + strings.Join(ways, ", ")}
	}
	detail := "there is none"
	for _, r := range defaults4() {
		if !r.gateway.IsValid() || r.gateway.IsUnspecified() {
			return Finding{"default-route", "", false, "by " + r.iface}
		}
		if isNeighbour(ctx, r.gateway) {
			return Finding{"default-route", "", false, "by " + r.iface + " via " + r.gateway.String()}
		}
		detail = "leads nowhere: no neighbour has the address " + r.gateway.String()
	}
	return Finding{"default-route", "", true, detail}
}

// isNeighbour makes the kernel look for the address on the wire and waits for
// an answer until ctx ends. Neighbours answer within milliseconds.
func isNeighbour(ctx context.Context, a netip.Addr) bool {
	conn, err := net.Dial("udp", netip.AddrPortFrom(a, 9).String())
	if err != nil {
		return false
	}
	defer conn.Close()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, _ = conn.Write([]byte{0}) // the discard port; an error says no more than the table
		for _, row := range fields("/proc/net/arp") {
			if len(row) >= 3 && row[0] == a.String() && row[2] != "0x0" {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// linkLocal wants no interface on which every neighbour, the host's end of a
// bridge among them, can be found by IPv6 without any address being given out.
func linkLocal(context.Context) Finding {
	ifaces, err := net.Interfaces()
	if err != nil {
		return Finding{"ipv6-link", "", true, "no interfaces: " + err.Error()}
	}
	for _, i := range ifaces {
		addrs, _ := i.Addrs() // none, then
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				return Finding{"ipv6-link", i.Name, false, "has a link-local address: neighbours can be reached"}
			}
		}
	}
	return Finding{"ipv6-link", "", true, "no link-local address"}
}

// fields are the lines of a table in /proc, split.
func fields(path string) [][]string {
	f, err := os.Open(path)
	if err != nil {
		return nil // no such protocol in this kernel: no such route
	}
	defer f.Close()
	var rows [][]string
	for s := bufio.NewScanner(f); s.Scan(); {
		rows = append(rows, strings.Fields(s.Text()))
	}
	return rows
}

// route is a default route of IPv4.
type route struct {
	iface   string
	gateway netip.Addr
}

func defaults4() []route {
	var ways []route
	for _, row := range fields("/proc/net/route") {
		if len(row) >= 8 && row[1] == "00000000" && row[7] == "00000000" {
			ways = append(ways, route{row[0], addr4(row[2])})
		}
	}
	return ways
}

// addr4 reads an address as /proc/net/route writes it: the bytes backwards.
func addr4(s string) netip.Addr {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return netip.Addr{}
	}
	slices.Reverse(b)
	a, _ := netip.AddrFromSlice(b) // four bytes are one
	return a
}

// defaults6 leaves out the entry that every kernel has on lo to refuse what
// has no route.
func defaults6() []string {
	var ways []string
	for _, row := range fields("/proc/net/ipv6_route") {
		if len(row) >= 10 && strings.Trim(row[0], "0") == "" && row[1] == "00" && row[9] != "lo" {
			ways = append(ways, row[9]+" (IPv6)")
		}
	}
	return ways
}

// bridges are the addresses at which a bridge or router usually sits: every
// gateway of the routing table, and the first address of each network that we
// are in. A wanted host may sit there: it is left out.
func bridges(want []string) []string {
	var found []netip.Addr
	for _, row := range fields("/proc/net/route") {
		if len(row) >= 3 && addr4(row[2]).IsValid() && !addr4(row[2]).IsUnspecified() {
			found = append(found, addr4(row[2]))
		}
	}
	ours := interfaceAddrs()
	for _, p := range ours {
		if p.Addr().Is4() && !p.Addr().IsLoopback() && p.Bits() < 31 {
			found = append(found, p.Masked().Addr().Next())
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	var targets []string
	for _, a := range slices.Compact(found) {
		if slices.ContainsFunc(ours, func(p netip.Prefix) bool { return p.Addr() == a }) || isWanted(a, want) {
			continue
		}
		for _, port := range []int{22, 53, 80, 2375} {
			targets = append(targets, address(a.String(), port))
		}
	}
	return targets
}

func interfaceAddrs() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var all []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			all = append(all, p)
		}
	}
	return all
}

func isWanted(a netip.Addr, want []string) bool {
	return slices.ContainsFunc(want, func(w string) bool {
		host, _, _ := net.SplitHostPort(w) // it has been validated
		addrs, _ := net.LookupHost(host)   // not found: it is not there
		return slices.Contains(addrs, a.String())
	})
}

// rawSocket wants that the kernel refuses to make one.
func rawSocket(check string, domain, protocol int) attempt {
	return func(context.Context) Finding {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return Finding{check, "", true, "refused: " + err.Error()}
		}
		unix.Close(fd)
		return Finding{check, "", false, "can be opened"}
	}
}

// vsock wants that no machine is reached by AF_VSOCK, which knows nothing of
// network namespaces: context 2 is the one that hosts this virtual machine.
func vsock(context.Context) Finding {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Finding{"vsock", "", true, "refused: " + err.Error()}
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(attemptTime / time.Nanosecond))
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &limit) // else two seconds
	err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 22})
	switch {
	case err == nil:
		return Finding{"vsock", "", false, "connected to the machine below"}
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return Finding{"vsock", "", true, "leads nowhere: " + err.Error()}
	}
	return Finding{"vsock", "", false, fmt.Sprintf("may reach the machine below: %v", err)}
}
