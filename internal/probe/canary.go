package probe

import (
	"fmt"
	"net"
	"net/netip"
)

// Canary listens on every address of this machine, so that "the host was not
// reached" is shown against a port that is surely open. Addresses are for
// Config.Forbid; more are hosts to forbid with the same port. Stop it when the
// probe is over.
func Canary(more ...string) (addresses []string, stop func(), err error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return nil, nil, fmt.Errorf("opening a port to probe against: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	for _, host := range more {
		addresses = append(addresses, address(host, port))
	}
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		l.Close()
		return nil, nil, fmt.Errorf("listing the addresses of this machine: %w", err)
	}
	for _, a := range ifaces {
		p, err := netip.ParsePrefix(a.String())
		// Loopback and link-local addresses mean another machine in there.
		if err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			addresses = append(addresses, address(p.Addr().String(), port))
		}
	}
	return addresses, func() { l.Close() }, nil
}
