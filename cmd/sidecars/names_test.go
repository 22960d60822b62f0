package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// TestNames has a whole bundle with a name server of its own, and a search
// domain that must not be used.
func TestNames(t *testing.T) {
	dns, err := lab.NewDNS("127.0.0.77:53")
	if err != nil {
		t.Skip("no name server can be here:", err)
	}
	defer dns.Close()
	b := prepare(t, nil)
	b.write("pipelock.yaml", strings.Replace(b.pipelockYAML(""), ", a.cdn.test: 127.0.0.1", "", 1))
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(resolv, []byte("nameserver 127.0.0.77\nsearch leak.test\noptions ndots:9\n"), 0o644))
	at := func(list ...string) (a lab.DNSAnswer) {
		for _, s := range list {
			a.Addrs = append(a.Addrs, netip.MustParseAddr(s))
		}
		return a
	}
	good, other := at("127.0.0.1", "10.0.0.1"), at("10.0.0.1")
	dns.Set("a.cdn.test.", good)
	dns.Set("alias.cdn.test.", lab.DNSAnswer{Alias: "metadata.google.internal.", Addrs: at("169.254.169.254").Addrs})
	done := make(chan error)
	go func() {
		// The thread has the file in a mount namespace of its own, and ends with this goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, "")
		}
		if err == nil {
			b.run()
		}
		done <- err
	}()
	if err := lab.Receive(t, done, "what runs beside the test ends"); err != nil {
		t.Skip("no mount namespace can be made here:", err)
	}
	for _, door := range []string{b.egress, b.lock} {
		for _, c := range []struct {
			what, host string
			want       int
			why        string
			asks       []string
		}{
			{"the first answer", "a.cdn.test", 200, "", []string{"A a.cdn.test.", "AAAA a.cdn.test."}},
			{"an alias of the metadata service", "alias.cdn.test", 403, "169.254.169.254 is the metadata service", []string{"A alias.cdn.test.", "AAAA alias.cdn.test."}},
			{"no such name", "none.cdn.test", 502, "no such host", []string{"A none.cdn.test.", "AAAA none.cdn.test."}},
			{"a name that is not allowed", "evil.test", 403, "", nil},
			{"a secret in a name", hexLabel(lab.Token()) + ".cdn.test", 403, "", nil},
			{"an odd address", "[::ffff:127.0.0.1]", 403, "", nil},
		} {
			before := len(dns.Asked())
			status, body := b.send(b.client(door), http.MethodGet, b.url(c.host, "/x"), nil)
			if status != c.want || !strings.Contains(body, c.why) {
				t.Errorf("%s: %d %s", c.what, status, body)
			}
			if asked := sorted(dns.Asked()[before:]); !slices.Equal(asked, c.asks) {
				t.Errorf("%s: the name server was asked %q, want %q", c.what, asked, c.asks)
			}
		}
		// A kept connection needs no name. It is kept when its answer has been read to the end, which may be after the client has it.
		eventually(t, "a connection to the origin is used again", func() bool {
			before := len(dns.Asked())
			status, body := b.send(b.client(door), http.MethodGet, b.url("a.cdn.test", "/x"), nil)
			if status != 200 {
				t.Fatalf("expected 200, got %d %s", status, body)
			}
			return len(dns.Asked()) == before
		})
		// A fresh process resolves again, and is told another address.
		dns.Set("a.cdn.test.", other)
		n := b.status(bundle.Pipelock).Generation
		b.renew(n)
		if status, body := b.send(b.client(door), http.MethodGet, b.url("a.cdn.test", "/x"), nil); status != 403 || !strings.Contains(body, "10.0.0.1 is in a special range") {
			t.Errorf("the second answer: %d %s", status, body)
		}
		dns.Set("a.cdn.test.", good)
		b.renew(n + 1)
	}
}

func sorted(all []string) []string { slices.Sort(all); return all }

// hexLabel is a text as labels of a name.
func hexLabel(s string) string { return fmt.Sprintf("%x.%x", s[:20], s[20:]) }

// renew replaces pipelock, which has that generation.
func (b *running) renew(generation int) {
	b.t.Helper()
	must(b.t, b.cmd.Process.Signal(syscall.SIGUSR1))
	eventually(b.t, "pipelock was replaced", func() bool { return b.status(bundle.Pipelock).Generation > generation })
}
