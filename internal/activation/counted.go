package activation

import (
	"net"
	"sync"
	"sync/atomic"

	"airlock/internal/metrics"
)

var (
	openConns atomic.Int64
	accepted  = metrics.NewCounter("airlock_connections_accepted_total", "Connections that were accepted.")
)

// exposeMetrics adds the connections of Listen to the metrics.
func exposeMetrics() {
	metrics.Expose(accepted)
	metrics.SetGauge("airlock_connections_open", "Connections that were accepted and not closed yet.", func() (float64, bool) {
		return float64(openConns.Load()), true
	})
}

// OpenConns returns the number of connections that this process accepted from listeners of Listen and
// has not closed.
func OpenConns() int { return int(openConns.Load()) }

// countedListener counts its connections until they are closed. They keep the methods of their
// type, such as CloseWrite and ReadFrom.
type countedListener struct{ net.Listener }

// Accept implements net.Listener.
func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	openConns.Add(1)
	accepted.Inc()
	switch c := c.(type) {
	case *net.TCPConn:
		return &tcpConn{TCPConn: c}, nil
	case *net.UnixConn:
		return &unixConn{UnixConn: c}, nil
	}
	return &otherConn{Conn: c}, nil
}

type tcpConn struct {
	*net.TCPConn
	once sync.Once
}

func (c *tcpConn) Close() error { c.once.Do(connClosed); return c.TCPConn.Close() }

type unixConn struct {
	*net.UnixConn
	once sync.Once
}

func (c *unixConn) Close() error { c.once.Do(connClosed); return c.UnixConn.Close() }

type otherConn struct {
	net.Conn
	once sync.Once
}

func (c *otherConn) Close() error { c.once.Do(connClosed); return c.Conn.Close() }

func connClosed() { openConns.Add(-1) }
