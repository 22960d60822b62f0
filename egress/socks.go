package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/socks"
)

// handshakeTimeout is how long a client may take for the SOCKS handshake and the first bytes after it.
const handshakeTimeout = 20 * time.Second

// sniffListener is the listener of the port. Its connections detect SOCKS by their first byte.
type sniffListener struct {
	net.Listener
	s *server
}

// Accept implements net.Listener.
func (f sniffListener) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sniffConn{Conn: c, s: f.s}, nil
}

// sniffConn is a connection of the port. The first Read looks at the first byte; if it is that of SOCKS,
// the Read also performs the handshake. A TLS connection after it is handed to the tunnels; plain HTTP
// continues on this connection, for the authority that SOCKS requested.
type sniffConn struct {
	net.Conn
	s         *server
	sniffed   bool             // the first byte was read; owned by the reader
	early     io.Reader        // input that was read ahead, then the rest; nil: none was
	authority policy.Authority // requested by SOCKS; zero: no SOCKS

	mu       sync.Mutex
	detached bool // the tunnels own the connection
}

// Read implements net.Conn.
func (c *sniffConn) Read(p []byte) (int, error) {
	switch {
	case c.early != nil:
		return c.early.Read(p)
	case c.sniffed:
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	if n == 0 {
		return n, err
	}
	c.sniffed = true
	if p[0] != socks.Version5 && p[0] != socks.Version4 {
		return n, err
	}
	if err := c.acceptSOCKS(bytes.Clone(p[:n])); err != nil {
		if !errors.Is(err, errIntercepted) {
			c.s.log.Info("a SOCKS connection was closed", "authority", c.requested(), "why", err.Error())
		}
		return 0, io.EOF
	}
	return c.early.Read(p)
}

func (c *sniffConn) requested() string {
	if c.authority.Host.IsZero() {
		return ""
	}
	return c.authority.String()
}

// errIntercepted reports that the tunnels serve the connection.
var errIntercepted = errors.New("taken over")

// acceptSOCKS performs the handshake, which accepts every authority as CONNECT does, and detects the
// protocol after it. TLS is handed to the tunnels.
func (c *sniffConn) acceptSOCKS(first []byte) (err error) {
	_ = c.Conn.SetDeadline(time.Now().Add(handshakeTimeout)) // fails only on a closed connection
	r := io.MultiReader(bytes.NewReader(first), c.Conn)
	if c.authority, err = socks.Accept(r, c.Conn); err != nil {
		return err
	}
	head := make([]byte, 1, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return errors.New("no data after the handshake")
	}
	if head[0] == recordHandshake {
		_ = c.Conn.SetDeadline(time.Time{})
		c.detach()
		c.s.tunnels.Intercept(&replay{c.Conn, io.MultiReader(bytes.NewReader(head), r)}, c.authority)
		return errIntercepted
	}
	if head[0] < 'A' || head[0] > 'Z' {
		return errors.New("neither TLS nor plain HTTP")
	}
	head = head[:4] // no request is shorter
	if _, err := io.ReadFull(r, head[1:]); err != nil || string(head) == "SSH-" {
		return errors.New("an SSH banner, or what is no request")
	}
	_ = c.Conn.SetDeadline(time.Time{})
	_ = c.Conn.SetReadDeadline(time.Now().Add(httpd.HeaderTimeout))
	c.early = io.MultiReader(bytes.NewReader(head), r)
	return nil
}

// recordHandshake is the first byte of a ClientHello (RFC 8446 §5.1).
const recordHandshake = 0x16

func (c *sniffConn) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = true
}

// ifAttached runs f unless the tunnels own the connection.
func (c *sniffConn) ifAttached(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.detached {
		return nil
	}
	return f()
}

// Close implements net.Conn.
func (c *sniffConn) Close() error { return c.ifAttached(c.Conn.Close) }

// SetDeadline implements net.Conn.
func (c *sniffConn) SetDeadline(t time.Time) error {
	return c.ifAttached(func() error { return c.Conn.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn.
func (c *sniffConn) SetReadDeadline(t time.Time) error {
	return c.ifAttached(func() error { return c.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn.
func (c *sniffConn) SetWriteDeadline(t time.Time) error {
	return c.ifAttached(func() error { return c.Conn.SetWriteDeadline(t) })
}

// CloseWrite half-closes the connection.
func (c *sniffConn) CloseWrite() error {
	return c.ifAttached(func() error {
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			return half.CloseWrite()
		}
		return net.ErrClosed
	})
}

// NetConn returns the underlying connection.
func (c *sniffConn) NetConn() net.Conn { return c.Conn }

// replay is a connection whose first bytes have already been read.
type replay struct {
	net.Conn
	r io.Reader
}

func (c *replay) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends our half of the connection.
func (c *replay) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

type connKey struct{}

// withConn returns a context from which socksAuthority finds the connection of a request.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// socksAuthority returns the authority that SOCKS requested on the connection of a request.
func socksAuthority(ctx context.Context) (policy.Authority, bool) {
	c, ok := ctx.Value(connKey{}).(*sniffConn)
	if !ok || c.authority.Host.IsZero() {
		return policy.Authority{}, false
	}
	return c.authority, true
}

// serveSOCKS handles a plain request on a SOCKS connection. Its Host must be the authority that SOCKS
// requested.
func (s *server) serveSOCKS(w http.ResponseWriter, r *http.Request, a policy.Authority) {
	if status, v := checkAuthority(r, a); !v.Allow {
		s.log.Info("refused behind SOCKS", "authority", a.Shown(), "why", v.Why)
		w.Header().Set("Connection", "close")
		refuse(w, httpd.PrefersText(r), status, v.Rule, v.Why, "http://"+a.HostFor(80)+"/", httpd.AskOperator)
		return
	}
	s.serveRequest(w, r, a, false)
}

// checkAuthority refuses a request that is not for the authority of its connection.
func checkAuthority(r *http.Request, a policy.Authority) (status int, v policy.Verdict) {
	if r.Method == http.MethodConnect {
		return http.StatusMethodNotAllowed, policy.Denied("authority", "CONNECT behind SOCKS")
	}
	if (r.URL.Scheme != "" && r.URL.Scheme != "http") || r.URL.User != nil {
		return http.StatusBadRequest, policy.Denied("authority", "a target that is not http behind SOCKS")
	}
	named, err := policy.ParseAuthority(r.Host, 80)
	if err != nil {
		return http.StatusBadRequest, policy.Denied("authority", "the Host header is not a host: "+err.Error())
	}
	if named != a {
		return http.StatusMisdirectedRequest, policy.Denied("authority", "SOCKS was asked for "+a.String()+", the request speaks of "+named.String())
	}
	return 0, policy.Allowed("authority")
}
