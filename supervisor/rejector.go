package supervisor

import (
	"net"
	"sync/atomic"
)

// rejector accepts and resets connections on the sockets of a daemon that has been down for too long.
// The sockets stay bound, so clients fail fast instead of hanging. No data is read or sent.
type rejector struct {
	listening map[string]func() // by daemon: stops the rejection; owned by the loop
	rejected  atomic.Uint64     // connections
}

// rejectConns resets the connections that wait on a daemon's sockets, and all later ones, until it is
// called with false.
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
	s.logf("no process serves the sockets of %s: connections are rejected", daemon)
	var listeners []net.Listener
	for _, sock := range s.sockets[daemon] {
		l, err := net.FileListener(sock.file)
		if err != nil {
			s.logf("%s: clients have to wait: %v", sock.name, err)
			continue
		}
		listeners = append(listeners, l)
		s.readers.Go(func() { s.rejector.rejectAll(l) })
	}
	s.rejector.listening[daemon] = func() {
		for _, l := range listeners {
			_ = l.Close() // closes this descriptor alone; the socket stays bound
		}
	}
}

// rejectAll resets connections until the listener is closed.
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
