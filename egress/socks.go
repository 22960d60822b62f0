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

// handshakeTimeout is how long a client may take to shake hands and to say the
// first word behind that.
const handshakeTimeout = 20 * time.Second

// sniffListener is the port's listener: what it accepts may turn out to speak SOCKS5.
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

// sniffConn is a connection of the port. Its first byte says what it speaks, and
// whoever reads that byte serves SOCKS there and then: TLS behind a handshake
// goes to the tunnels, plain HTTP stays an ordinary connection, but one whose
// authority is settled.
type sniffConn struct {
	net.Conn
	s         *server
	sniffed   bool             // the first byte was read; of the reader
	early     io.Reader        // what was read and not handed on, then the rest; nil: nothing was
	authority policy.Authority // what SOCKS was asked for; zero: no SOCKS

	mu       sync.Mutex
	detached bool // the tunnels have it: it is no longer ours to touch
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

// errIntercepted says that the tunnels serve the connection.
var errIntercepted = errors.New("taken over")

// acceptSOCKS shakes hands, always with yes, as CONNECT does, and looks at what
// follows.
func (c *sniffConn) acceptSOCKS(first []byte) (err error) {
	_ = c.Conn.SetDeadline(time.Now().Add(handshakeTimeout)) // one that cannot be set is closed
	r := io.MultiReader(bytes.NewReader(first), c.Conn)
	if c.authority, err = socks.Accept(r, c.Conn); err != nil {
		return err
	}
	head := make([]byte, 1, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return errors.New("nothing was said behind the handshake")
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

// recordHandshake begins every ClientHello (RFC 8446 §5.1).
const recordHandshake = 0x16

func (c *sniffConn) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detached = true
}

// ifAttached does something to the connection while it is ours.
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

// CloseWrite ends our half.
func (c *sniffConn) CloseWrite() error {
	return c.ifAttached(func() error {
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			return half.CloseWrite()
		}
		return net.ErrClosed
	})
}

// NetConn is the connection below.
func (c *sniffConn) NetConn() net.Conn { return c.Conn }

// replay is a connection whose first bytes had been read already.
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

// withConn lets the handlers find the connection of a request.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// socksAuthority is what SOCKS was asked for on the connection of a request.
func socksAuthority(ctx context.Context) (policy.Authority, bool) {
	c, ok := ctx.Value(connKey{}).(*sniffConn)
	if !ok || c.authority.Host.IsZero() {
		return policy.Authority{}, false
	}
	return c.authority, true
}

// serveSOCKS judges a request that came by SOCKS without TLS, once it speaks of
// what SOCKS was asked for.
func (s *server) serveSOCKS(w http.ResponseWriter, r *http.Request, a policy.Authority) {
	if status, v := checkAuthority(r, a); !v.Allow {
		s.log.Info("refused behind SOCKS", "authority", a.Shown(), "why", v.Why)
		w.Header().Set("Connection", "close")
		refuse(w, httpd.PrefersText(r), status, v.Rule, v.Why, "http://"+a.HostFor(80)+"/", httpd.AskOperator)
		return
	}
	s.serveRequest(w, r, a, false)
}

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
