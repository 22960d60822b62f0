package probe

import (
	"context"
	"errors"
	"net"
	"syscall"
)

// answers wants a connection.
func answers(address string) attempt {
	return func(ctx context.Context) Finding {
		conn, err := dial(ctx, address)
		if err != nil {
			return Finding{"wanted", address, false, "no answer: " + cause(err)}
		}
		conn.Close()
		return Finding{"wanted", address, true, "answers"}
	}
}

// unreachable wants no sign of life. A refused connection is one: the packet
// got there, and only the port happened to be closed.
func unreachable(check, address string) attempt {
	return func(ctx context.Context) Finding {
		conn, err := dial(ctx, address)
		switch {
		case err == nil:
			conn.Close()
			return Finding{check, address, false, "connected"}
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
			return Finding{check, address, false, "reached, though the port is closed"}
		}
		return Finding{check, address, true, "not reached: " + cause(err)}
	}
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", address)
}

// cause is the last error of the chain: the address is known.
func cause(err error) string {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e.Error()
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.Err
	}
	if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		return "no answer in time"
	}
	return err.Error()
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// dns asks the system's servers for a name of the outside.
func dns(name string) attempt {
	return func(ctx context.Context) Finding {
		r := net.Resolver{PreferGo: true}
		addrs, err := r.LookupHost(ctx, name)
		if err == nil && len(addrs) > 0 {
			return Finding{"dns", name, false, "resolved"}
		}
		return Finding{"dns", name, true, "not resolved: " + cause(err)}
	}
}
