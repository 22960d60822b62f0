package supervisor

import (
	"net"
	"sync/atomic"
)

// rejector stands in for daemons that are down for too long: their sockets stay
// bound, and whoever calls is refused at once instead of waiting for nobody.
// Nothing is ever sent elsewhere.
type rejector struct {
	listening map[string]func() // ends the refusing, by daemon; owned by the loop
	rejected  atomic.Uint64     // callers
}

// rejectConns resets all who wait at a daemon's sockets, and all who come, until
// it is called with false.
func (s *supervisor) rejectConns(daemon string, on bool) {
	stop, active := s.rejector.listening[daemon]
	if on == active {
		return
	}
	if !on {
		delete(s.rejector.listening, daemon)
		stop()
		return
	}
	s.logf("nobody serves at the sockets of %s: callers are turned away", daemon)
	var listeners []net.Listener
	for _, sock := range s.sockets[daemon] {
		l, err := net.FileListener(sock.file)
		if err != nil {
			s.logf("%s: callers have to wait: %v", sock.name, err)
			continue
		}
		listeners = append(listeners, l)
		s.readers.Go(func() { s.rejector.rejectAll(l) })
	}
	s.rejector.listening[daemon] = func() {
		for _, l := range listeners {
			_ = l.Close() // our descriptor alone; the socket stays
		}
	}
}

// rejectAll resets callers until the listener is closed.
func (d *rejector) rejectAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // closing resets
		}
		_ = c.Close()
		d.rejected.Add(1)
	}
}
