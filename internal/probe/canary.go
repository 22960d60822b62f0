package probe

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Canary listens on every address of this machine, so that "the host was not
// reached" is shown against a port that is surely open. It takes connections
// and datagrams.
type Canary struct {
	addresses []string
	token     string
	tcp       net.Listener
	udp       []net.PacketConn
}

// NewCanary opens one. The hosts in more are to be forbidden with the same port.
func NewCanary(more ...string) (*Canary, error) {
	c := &Canary{token: rand.Text()}
	var err error
	for range 10 { // the port may be taken for datagrams
		if err = c.listen(); err == nil {
			break
		}
		c.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("opening a port to probe against: %w", err)
	}
	port := c.tcp.Addr().(*net.TCPAddr).Port
	for _, host := range more {
		c.addresses = append(c.addresses, address(host, port))
	}
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("listing the addresses of this machine: %w", err)
	}
	for _, a := range ifaces {
		p, err := netip.ParsePrefix(a.String())
		// Loopback and link-local addresses mean another machine in there.
		if err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			c.addresses = append(c.addresses, address(p.Addr().String(), port))
		}
	}
	return c, nil
}

func (c *Canary) listen() (err error) {
	if c.tcp, err = net.Listen("tcp", ":0"); err != nil {
		return err
	}
	port := c.tcp.Addr().(*net.TCPAddr).Port
	c.udp = nil
	for _, l := range []struct{ network, host string }{{"udp4", "0.0.0.0"}, {"udp6", "::"}} {
		conn, err := net.ListenPacket(l.network, address(l.host, port))
		if l.network == "udp6" && err != nil && !strings.Contains(err.Error(), "in use") {
			continue // a machine without IPv6
		}
		if err != nil {
			return err
		}
		c.udp = append(c.udp, conn)
	}
	return nil
}

// Addresses are for Config.Forbid.
func (c *Canary) Addresses() []string { return c.addresses }

// Args are the arguments of the applet that try to reach the canary. A nil
// canary has none.
func (c *Canary) Args() []string {
	if c == nil {
		return nil
	}
	return []string{"-forbid", strings.Join(c.addresses, ","), "-datagram", c.token}
}

// Token is for Config.Datagram.
func (c *Canary) Token() string { return c.token }

// Arrived says, after the probe, in which ways its datagrams have arrived: there
// is no other sign of that, for the host cannot answer.
func (c *Canary) Arrived() (ways []string, err error) {
	buf := make([]byte, 2048)
	for _, conn := range c.udp {
		if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return nil, err
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("listening for datagrams of the probe: %w", err)
			}
			if way, ok := strings.CutPrefix(string(buf[:n]), c.token+" "); ok {
				ways = append(ways, way)
			}
		}
	}
	slices.Sort(ways)
	return slices.Compact(ways), nil
}

// Close stops it.
func (c *Canary) Close() {
	if c.tcp != nil {
		c.tcp.Close()
	}
	for _, conn := range c.udp {
		conn.Close()
	}
}
