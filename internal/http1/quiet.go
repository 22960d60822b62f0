package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// quiet tells whether an idle connection is open and has nothing to say.
func quiet(c net.Conn) bool {
	_, err := peek(c)
	return errors.Is(err, unix.EAGAIN) && !holds(c)
}

// holds tells whether a connection has read more than it has handed out, as
// that of TLS may: it reads whole records. A Read that may not wait gives just
// that.
func holds(c net.Conn) bool {
	if _, layered := c.(interface{ NetConn() net.Conn }); !layered {
		return false
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	n, err := c.Read(make([]byte, 1))
	_ = c.SetReadDeadline(time.Time{})
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// arrived tells whether a Read would find something.
func arrived(c io.Reader) bool {
	n, err := peek(c)
	return err == nil && n > 0
}

// peek looks for the next byte on the socket below the connection.
func peek(c any) (n int, err error) {
	for {
		below, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = below.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	if failed := raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	}); failed != nil {
		return 0, failed
	}
	return n, err
}

// isReset tells whether the other side closed the connection.
func isReset(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
