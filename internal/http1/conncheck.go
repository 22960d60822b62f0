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

// isReusable reports whether an idle connection is open and has no unread input. Input that came
// without a request would be taken for the next response.
func isReusable(c net.Conn) bool {
	_, err := peekSocket(c)
	return errors.Is(err, unix.EAGAIN) && !hasUndelivered(c)
}

// hasUndelivered reports whether a layered connection holds input that it has read and not yet
// returned. A TLS connection does, because it reads whole records. A Read with a deadline in the past
// returns just that input.
func hasUndelivered(c net.Conn) bool {
	if _, layered := c.(interface{ NetConn() net.Conn }); !layered {
		return false
	}
	_ = c.SetReadDeadline(time.Unix(1, 0))
	n, err := c.Read(make([]byte, 1))
	_ = c.SetReadDeadline(time.Time{})
	return n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
}

// isReadable reports whether input waits on the socket.
func isReadable(c io.Reader) bool {
	n, err := peekSocket(c)
	return err == nil && n > 0
}

// peekSocket peeks at the next byte of the socket below the connection, without waiting.
func peekSocket(c any) (n int, err error) {
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

// isReset reports whether err means that the other side closed the connection.
func isReset(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
