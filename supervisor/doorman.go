package supervisor

import (
	"net"
	"sync/atomic"
)

// doorman stands in for daemons that are down for too long: their sockets stay
// bound, and whoever calls is refused at once instead of waiting for nobody.
// Nothing is ever sent elsewhere.
type doorman struct {
	open   map[string]func() // ends the refusing, by daemon; owned by the loop
	turned atomic.Uint64     // callers
}

// turnAway resets all who wait at a daemon's sockets, and all who come, until
// it is called with false.
func (s *supervisor) turnAway(daemon string, on bool) {
	end, is := s.doors.open[daemon]
	if on == is {
		return
	}
	if !on {
		delete(s.doors.open, daemon)
		end()
		return
	}
	s.say("nobody serves at the sockets of %s: callers are turned away", daemon)
	var doors []net.Listener
	for _, sock := range s.sockets[daemon] {
		l, err := net.FileListener(sock.file)
		if err != nil {
			s.say("%s: callers have to wait: %v", sock.name, err)
			continue
		}
		doors = append(doors, l)
		s.readers.Go(func() { s.doors.refuse(l) })
	}
	s.doors.open[daemon] = func() {
		for _, l := range doors {
			_ = l.Close() // our descriptor alone; the socket stays
		}
	}
}

// refuse resets callers until the listener is closed.
func (d *doorman) refuse(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // closing resets
		}
		_ = c.Close()
		d.turned.Add(1)
	}
}
