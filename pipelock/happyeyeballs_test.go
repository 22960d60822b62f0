package pipelock

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"airlock/internal/lab"
	"airlock/internal/policy"
)

// listenAt accepts on an address of loopback, and tells of each connection
// when it has ended.
func listenAt(t *testing.T, address string) (port string, ended <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	over := make(chan struct{}, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
				over <- struct{}{}
			}()
		}
	}()
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, over
}

// silentAt lets connections hang: its queue is full.
func silentAt(t *testing.T, ip [4]byte, port int) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: ip, Port: port}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d := net.Dialer{Timeout: 200 * time.Millisecond}
		if c, err := d.Dial("tcp", netip.AddrPortFrom(netip.AddrFrom4(ip), uint16(port)).String()); err == nil {
			t.Cleanup(func() { c.Close() })
		}
	}
}

func TestInterleaveAlternatesFamilies(t *testing.T) {
	for _, c := range []struct{ in, want []netip.Addr }{
		{addrs("1.1.1.1"), addrs("1.1.1.1")},
		{addrs("2606::1", "2606::2", "1.1.1.1", "1.1.1.2", "1.1.1.3"), addrs("2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "1.1.1.3")},
		{addrs("1.1.1.1", "2606::1", "2606::2"), addrs("1.1.1.1", "2606::1", "2606::2")},
		{addrs("1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4", "1.0.0.5", "1.0.0.6", "1.0.0.7", "1.0.0.8", "2606::1"), addrs("1.0.0.1", "2606::1", "1.0.0.2", "1.0.0.3", "1.0.0.4", "1.0.0.5", "1.0.0.6", "1.0.0.7")},
	} {
		if got := interleave(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

// TestFirstConnectionWins checks that an address that refuses, and one that does not answer, delay no
// connection.
func TestFirstConnectionWins(t *testing.T) {
	text, ended := listenAt(t, "127.0.0.9:0")
	port, err := net.LookupPort("tcp", text)
	if err != nil {
		t.Fatal(err)
	}
	silentAt(t, [4]byte{127, 0, 0, 8}, port)
	g := newGuard(rules{})
	for name, list := range map[string][]netip.Addr{
		"alone": addrs("127.0.0.9"), "behind one that refuses": addrs("127.0.0.7", "127.0.0.9"),
		"behind one that is silent": addrs("127.0.0.8", "127.0.0.9"), "behind both": addrs("127.0.0.7", "127.0.0.8", "127.0.0.9"),
	} {
		began := time.Now()
		c, err := g.dialParallel(t.Context(), list, uint16(port))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if took := time.Since(began); c.RemoteAddr().String() != "127.0.0.9:"+text || took > dialTimeout/2 {
			t.Errorf("%s: %v after %v", name, c.RemoteAddr(), took)
		}
		c.Close()
		lab.Receive(t, ended, "what was started ends")
	}
	many := make([]netip.Addr, 30)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
	}
	if _, err := g.dialParallel(t.Context(), many, uint16(port)); err == nil || strings.Count(err.Error(), "refused") != maxAddrs {
		t.Errorf("thirty that refuse: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := g.dialParallel(ctx, addrs("127.0.0.8", "127.0.0.8"), uint16(port)); err == nil {
		c.Close()
		t.Error("a silent address answered")
	}
}

// TestSlowerConnectionsAreClosed lets two attempts run side by side.
func TestSlowerConnectionsAreClosed(t *testing.T) {
	text, first := listenAt(t, "127.0.0.9:0")
	_, second := listenAt(t, "127.0.0.10:"+text)
	port, err := net.LookupPort("tcp", text)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuard(rules{})
	both := make(chan struct{})
	var once sync.Once
	attempts := make(chan string, 2)
	g.dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		attempts <- address
		if strings.HasPrefix(address, "127.0.0.10:") {
			once.Do(func() { close(both) })
		}
		lab.Receive(t, both, "both dials begin")
		return nil
	}
	c, err := g.dialParallel(t.Context(), addrs("127.0.0.9", "127.0.0.10"), uint16(port))
	if err != nil {
		t.Fatal(err)
	}
	if len(attempts) != 2 {
		t.Errorf("%d attempts", len(attempts))
	}
	won := c.RemoteAddr().String()
	c.Close()
	ended := map[string]<-chan struct{}{"127.0.0.9:" + text: first, "127.0.0.10:" + text: second}
	lab.Receive(t, ended[won], "what was started ends")
	for address, over := range ended {
		if address == won {
			continue
		}
		select {
		case <-over: // it had connected
		case <-time.After(300 * time.Millisecond): // it had not
		}
	}
}

// TestOwnPortsAndAddressesAreRefused: a range exempts neither the doors of the bundle nor the
// machine's own addresses.
func TestOwnPortsAndAddressesAreRefused(t *testing.T) {
	isOwn := func(a netip.Addr) bool { return slices.Contains(addrs("10.9.8.7", "93.184.216.40", "2606:4700::5"), a) }
	r := newRules(parse(t, `version: 1
listen: 0.0.0.0:18888
allow: [api.ok.test]
hosts: {named.test: 10.9.8.7, local.test: 127.0.0.1}
addresses: {allow: [127.0.0.0/8, 10.0.0.0/8, 192.168.7.7/32]}
`))
	for _, c := range []struct {
		authority, addr string
		want            policy.Verdict
	}{
		{"api.ok.test:443", "93.184.216.34", policy.Allowed("address")},
		{"api.ok.test:443", "93.184.216.40", policy.Denied("address", "api.ok.test leads to: 93.184.216.40 is an address of the machine that pipelock runs on: it must stand in hosts")},
		{"api.ok.test:443", "2606:4700::5", policy.Denied("address", "api.ok.test leads to: 2606:4700::5 is an address of the machine that pipelock runs on: it must stand in hosts")},
		{"api.ok.test:443", "10.9.8.6", policy.Allowed("address")},
		{"api.ok.test:443", "10.9.8.7", policy.Denied("address", "api.ok.test leads to: 10.9.8.7 is an address of the machine that pipelock runs on: it must stand in hosts")},
		{"named.test:443", "10.9.8.7", policy.Allowed("address")},
		{"named.test:9099", "10.9.8.7", policy.Denied("address", "named.test leads to: 10.9.8.7:9099 is a door of the sidecars themselves")},
		{"local.test:8443", "127.0.0.1", policy.Allowed("address")},
		{"api.ok.test:8443", "127.0.0.1", policy.Allowed("address")},
		{"api.ok.test:8443", "::ffff:127.0.0.1", policy.Allowed("address")},
		{"local.test:9099", "127.0.0.1", policy.Denied("address", "local.test leads to: 127.0.0.1:9099 is a door of the sidecars themselves")},
		{"local.test:8888", "127.0.0.2", policy.Denied("address", "local.test leads to: 127.0.0.2:8888 is a door of the sidecars themselves")},
		{"local.test:9418", "127.0.0.1", policy.Denied("address", "local.test leads to: 127.0.0.1:9418 is a door of the sidecars themselves")},
		{"local.test:9420", "127.0.0.1", policy.Denied("address", "local.test leads to: 127.0.0.1:9420 is a door of the sidecars themselves")},
		{"local.test:9100", "127.0.0.1", policy.Denied("address", "local.test leads to: 127.0.0.1:9100 is a door of the sidecars themselves")},
		{"local.test:18888", "127.0.0.1", policy.Denied("address", "local.test leads to: 127.0.0.1:18888 is a door of the sidecars themselves")},
		{"api.ok.test:9099", "93.184.216.34", policy.Allowed("address")},
	} {
		a, err := policy.ParseAuthority(c.authority, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, v := r.judgeAll(a, addrs(c.addr), isOwn); v != c.want {
			t.Errorf("%s at %s: %+v, want %+v", c.authority, c.addr, v, c.want)
		}
	}
}

// TestIsOwnAddr asks the system.
func TestIsOwnAddr(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		addr := netip.MustParsePrefix(a.String()).Addr().Unmap()
		if !addr.IsLinkLocalUnicast() && !isOwnAddr(addr) {
			t.Errorf("%s is not known as our own", addr)
		}
	}
	for _, a := range addrs("93.184.216.34", "10.254.253.252") {
		if isOwnAddr(a) {
			t.Errorf("%s is taken for our own", a)
		}
	}
}

// TestNameServer has a real one: what is refused is never asked for, and a
// name is resolved once.
func TestNameServer(t *testing.T) {
	dns, err := lab.NewDNS("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dns.Close()
	port, ended := listenAt(t, "127.0.0.9:0")
	dns.Set("rebound.cdn.test.", lab.DNSAnswer{Addrs: addrs("127.0.0.9", "10.0.0.1")}, lab.DNSAnswer{Addrs: addrs("10.0.0.1")})
	dns.Set("alias.cdn.test.", lab.DNSAnswer{Alias: "inside.test.", Addrs: addrs("10.0.0.7", "fd00::7")})
	dns.Set("nat64.cdn.test.", lab.DNSAnswer{Addrs: addrs("64:ff9b::7f00:1")})
	g := newGuard(newRules(parse(t, "version: 1\nallow: ['*.cdn.test:"+port+"', 'metadata.google.internal:"+port+"']\naddresses: {allow: [127.0.0.9/32]}\n")))
	g.lookup = (&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", dns.Addr())
	}}).LookupNetIP

	for _, c := range []struct {
		name string
		want *policy.Verdict // nil: connected
		err  string
		asks []string
	}{
		{"evil.test", &policy.Verdict{Rule: "allow", Why: "the allowlist does not have evil.test:" + port}, "", nil},
		{"cdn.test", &policy.Verdict{Rule: "allow", Why: "the allowlist does not have cdn.test:" + port}, "", nil},
		{"metadata.google.internal", &policy.Verdict{Rule: "metadata", Why: "metadata.google.internal is the metadata service of a cloud: the allowlist alone does not open it"}, "", nil},
		{"rebound.cdn.test", nil, "", []string{"A rebound.cdn.test.", "AAAA rebound.cdn.test."}},
		{"REBOUND.cdn.test.", &policy.Verdict{Rule: "address", Why: "rebound.cdn.test leads to: 10.0.0.1 is in a special range (private 10.0.0.0/8)"}, "", []string{"A rebound.cdn.test.", "AAAA rebound.cdn.test."}},
		{"alias.cdn.test", &policy.Verdict{Rule: "address", Why: "alias.cdn.test leads to: 10.0.0.7 is in a special range (private 10.0.0.0/8); fd00::7 is in a special range (private fc00::/7)"}, "", []string{"A alias.cdn.test.", "AAAA alias.cdn.test."}},
		{"nat64.cdn.test", &policy.Verdict{Rule: "address", Why: "nat64.cdn.test leads to: 64:ff9b::7f00:1 is in a special range (NAT64 64:ff9b::/96)"}, "", []string{"A nat64.cdn.test.", "AAAA nat64.cdn.test."}},
		{"none.cdn.test", nil, "no such host", []string{"A none.cdn.test.", "AAAA none.cdn.test."}},
	} {
		before := len(dns.Asked())
		conn, err := g.DialContext(t.Context(), "tcp", c.name+":"+port)
		var refused *refusedError
		switch {
		case c.want != nil:
			if !errors.As(err, &refused) || refused.v != *c.want {
				t.Errorf("%s: %v, want %+v", c.name, err, *c.want)
			}
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		default:
			if got := conn.RemoteAddr().String(); got != "127.0.0.9:"+port {
				t.Errorf("%s led to %s", c.name, got)
			}
			conn.Close()
			lab.Receive(t, ended, "what was started ends")
		}
		asked := dns.Asked()[before:]
		slices.Sort(asked)
		if !slices.Equal(asked, c.asks) {
			t.Errorf("%s: the name server was asked %q, want %q", c.name, asked, c.asks)
		}
	}
}
