package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Ways to send a datagram past the routing table, as bits.
const (
	dontRoute = 1 << iota // SO_DONTROUTE: the target is taken for a neighbour
	bound                 // SO_BINDTODEVICE, which any process may set
	named                 // the interface in IP_PKTINFO or IPV6_PKTINFO: no filter of system calls sees it
	allWays
)

// datagrams sends to the forbidden addresses, to everybody on each network and
// to multicast groups, in every way. Only their receiver knows whether they
// arrive: see Canary.
func (c Config) datagrams(ctx context.Context) Finding {
	ifaces, err := net.Interfaces()
	if err != nil {
		return Finding{"datagram", "", true, "no interfaces: " + err.Error()}
	}
	var sent, refused int
	for _, wait := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond} { // the first ones may wait for an answer about the address
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		for _, i := range ifaces {
			for _, to := range c.receivers(i) {
				for way := range allWays {
					if send(to, i, way, c.Datagram) == nil {
						sent++
					} else {
						refused++
					}
				}
			}
		}
	}
	return Finding{"datagram", "", true, fmt.Sprintf("%d were sent, %d refused; the host says what arrived", sent, refused)}
}

// receivers are the forbidden addresses and every listener on the interface.
// Loopback is the sender's own.
func (c Config) receivers(i net.Interface) []netip.AddrPort {
	if i.Flags&net.FlagLoopback != 0 {
		return nil
	}
	var all []netip.AddrPort
	ports := map[uint16]bool{}
	for _, f := range c.Forbid {
		if a, err := netip.ParseAddrPort(f); err == nil {
			all, ports[a.Port()] = append(all, a), true
		}
	}
	groups := []string{"255.255.255.255", "224.0.0.1", "ff02::1%" + i.Name}
	addrs, _ := i.Addrs() // none, then
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			groups = append(groups, broadcast(p).String())
		}
	}
	for port := range ports {
		for _, g := range groups {
			if a, err := netip.ParseAddr(g); err == nil {
				all = append(all, netip.AddrPortFrom(a, port))
			}
		}
	}
	return all
}

// broadcast is the last address of a network.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

func send(to netip.AddrPort, i net.Interface, way int, token string) error {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var words []string
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) // where it is refused, so are broadcasts
	if way&dontRoute != 0 {
		words = append(words, "SO_DONTROUTE")
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DONTROUTE, 1); err != nil {
			return err
		}
	}
	if way&bound != 0 {
		words = append(words, "SO_BINDTODEVICE")
		if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, i.Name); err != nil {
			return err
		}
	}
	var oob []byte
	if way&named != 0 {
		words = append(words, "PKTINFO")
	}
	var sa unix.Sockaddr
	if family == unix.AF_INET {
		_ = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(i.Index)}) // else by the routes
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		if way&named != 0 {
			oob = unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(i.Index)})
		}
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, i.Index) // else by the routes
		six := &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if to.Addr().Zone() != "" {
			six.ZoneId = uint32(i.Index)
		}
		sa = six
		if way&named != 0 {
			oob = unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(i.Index)})
		}
	}
	text := fmt.Sprintf("%s to %s by %s %s", token, to, i.Name, strings.Join(words, " "))
	return unix.Sendmsg(fd, []byte(strings.TrimSpace(text)), oob, sa, 0)
}
