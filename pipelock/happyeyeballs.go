package pipelock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

const (
	// attemptDelay is the time between two connection attempts (RFC 8305 §5, Connection Attempt
	// Delay).
	attemptDelay = 250 * time.Millisecond
	// maxAddrs bounds the attempts for one connection.
	maxAddrs = 8
)

// isOwnAddr reports whether the address is one of this machine's: the kernel would then choose the
// same source address. Nothing is sent.
func isOwnAddr(addr netip.Addr) bool {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
	if err != nil {
		return false // no route
	}
	defer c.Close()
	local, ok := c.LocalAddr().(*net.UDPAddr)
	return ok && local.AddrPort().Addr().Unmap() == addr
}

// interleave alternates the address families, beginning with that of the first address (RFC 8305
// §4), and keeps maxAddrs.
func interleave(all []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, a := range all {
		if a.Is4() == all[0].Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	var order []netip.Addr
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			order = append(order, first[i])
		}
		if i < len(second) {
			order = append(order, second[i])
		}
	}
	return order[:min(len(order), maxAddrs)]
}

// dialParallel dials checked addresses in order, starting the next attempt after attemptDelay (RFC
// 8305, Happy Eyeballs). It returns the first connection and closes the others.
func (g *guard) dialParallel(ctx context.Context, addrs []netip.Addr, port uint16) (net.Conn, error) {
	order := interleave(addrs)
	if len(order) == 1 {
		return g.dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(order[0], port).String())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		conn net.Conn
		err  error
	}
	outcomes := make(chan outcome, len(order)) // buffered, so that slower attempts can end
	begin := func(addr netip.Addr) {
		conn, err := g.dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
		outcomes <- outcome{conn, err}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	var failures []error
	begun := 0
	for len(failures) < len(order) {
		select {
		case <-next.C:
			if begun < len(order) {
				go begin(order[begun])
				begun++
				next.Reset(attemptDelay)
			}
		case o := <-outcomes:
			if o.err == nil {
				go func(open int) {
					for range open {
						if late := <-outcomes; late.conn != nil {
							_ = late.conn.Close()
						}
					}
				}(begun - len(failures) - 1)
				return o.conn, nil
			}
			failures = append(failures, o.err)
			next.Reset(0)
		}
	}
	return nil, errors.Join(failures...)
}
