package http1

import (
	"errors"
	"io"
	"net"
	"time"
)

// Bounds of a lingering close (RFC 9112 §9.6): for how long a server that has sent its response
// reads and drops what the client still sends.
const (
	// lingerQuiet is how long the server waits for one more byte.
	lingerQuiet = 3 * time.Second
	// lingerRate is the minimum average rate in bytes per second; it applies after the first
	// lingerQuiet.
	lingerRate = 64 << 10
	// lingerMost bounds the whole time. An upload of some gigabytes fits.
	lingerMost = 2 * time.Minute
	// lastRead is how long the server waits for the client to close its end once the client has
	// nothing more to send.
	lastRead = 500 * time.Millisecond
)

// lingerDeadline returns the deadline of the next read, after n bytes were dropped since start. No
// single read may take longer than quiet.
func lingerDeadline(start, now time.Time, quiet time.Duration, n int64) time.Time {
	deadline := now.Add(quiet)
	for _, other := range [...]time.Time{
		start.Add(lingerMost),
		start.Add(lingerQuiet + time.Duration(float64(n)/lingerRate*float64(time.Second))),
	} {
		if other.Before(deadline) {
			deadline = other
		}
	}
	return deadline
}

// Drain reads and drops what a client still sends after its response, within the bounds of a
// lingering close. It waits for the next byte no longer than quiet. It returns nil when r has ended.
func Drain(r io.Reader, quiet time.Duration, setReadDeadline func(time.Time) error) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	start, total := time.Now(), int64(0)
	for {
		now := time.Now()
		deadline := lingerDeadline(start, now, quiet, total)
		if !deadline.After(now) {
			return errors.New("the client sends too slowly, or for too long")
		}
		if err := setReadDeadline(deadline); err != nil {
			return err
		}
		n, err := r.Read(*buf)
		total += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// LingeringClose closes a connection on which a response was written before the client had sent its
// whole request. Closing a socket with unread input resets the connection, and the client may lose
// the response. So this half-closes the connection, reads until the client closes, and then closes.
func LingeringClose(c net.Conn) {
	defer c.Close()
	half, ok := c.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil {
		_ = Drain(c, lingerQuiet, c.SetReadDeadline) // it is closed in any case
	}
}

// lingeringClose half-closes the connection and reads what the client still sends. With unread, when
// a body was not read to its end or the input was no request, the length is not bounded.
func (k *conn) lingeringClose(unread bool, body *requestBody) {
	c, ok := k.c.(interface{ CloseWrite() error })
	if !ok || c.CloseWrite() != nil {
		return
	}
	if unread {
		var rest io.Reader = k.c
		if body != nil && body.err == nil {
			rest = &body.framedBody
		}
		if err := Drain(rest, lingerQuiet, k.c.SetReadDeadline); err != nil {
			var v *Violation
			if !errors.As(err, &v) || Drain(k.c, lingerQuiet, k.c.SetReadDeadline) != nil {
				return
			}
		}
	}
	_ = k.c.SetReadDeadline(time.Now().Add(lastRead))
	_, _ = io.CopyN(io.Discard, k.c, maxDiscard)
}
