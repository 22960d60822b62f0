package activation

import (
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

// TestOpenConnsCountsConnections also checks that a connection keeps the optional methods that servers
// look for.
func TestOpenConnsCountsConnections(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s.sock")} {
		l, err := Listen("none of that name", address)
		if err != nil {
			t.Fatal(err)
		}
		before := OpenConns()
		client, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.(interface {
			syscall.Conn
			CloseWrite() error
			CloseRead() error
		}); !ok {
			t.Errorf("%T lost methods", c)
		}
		if _, ok := c.(io.ReaderFrom); !ok && c.LocalAddr().Network() == "tcp" {
			t.Errorf("%T has no ReadFrom: no sendfile", c)
		}
		if n := OpenConns(); n != before+1 {
			t.Errorf("%d open, before %d", n, before)
		}
		c.Close()
		c.Close() // as servers do
		if n := OpenConns(); n != before {
			t.Errorf("%d open after the close, before %d", n, before)
		}
		client.Close()
		l.Close()
	}
}
