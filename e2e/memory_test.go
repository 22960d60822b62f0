//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/control"
)

// TestOutOfMemory floods egress until it has used up what it may have: it
// alone ends, and comes back. Root bounds it by a cgroup where it may make
// one, an ordinary user by RLIMIT_DATA.
func TestOutOfMemory(t *testing.T) {
	uids := []int{os.Getuid()}
	if os.Getuid() == 0 {
		uids = append(uids, 65534)
	}
	for _, uid := range uids {
		t.Run(fmt.Sprint("as user ", uid), func(t *testing.T) { outOfMemory(t, uid) })
	}
}

func outOfMemory(t *testing.T, uid int) {
	t.Setenv("SIDECAR_MEMORY", "egress=24MiB")
	dir, client, target := chaosFiles(t, uid)
	b := startAs(t, dir, "", uid)
	proxy, err := url.Parse("http://" + b.address(t, bundle.Egress, bundle.FDEgress))
	if err != nil {
		t.Fatal(err)
	}
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(proxy)
	before := b.pids(t)
	var flood []net.Conn
	eventually(t, "egress has ended", func() bool {
		for range 50 {
			if c, err := net.Dial("tcp", proxy.Host); err == nil {
				flood = append(flood, c)
				fmt.Fprintf(c, "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test\r\nX: %s", strings.Repeat("x", 60<<10))
			}
		}
		return b.daemon(t, bundle.Egress).Restarts > 0
	})
	for _, c := range flood {
		c.Close()
	}
	eventually(t, "requests pass again", func() bool { return request(client, target) == nil })
	d := b.daemon(t, bundle.Egress)
	if !strings.Contains(d.LastExit, "out of memory: its limit is 24MiB") || d.Isolation.MemoryLimit != 24<<20 {
		t.Errorf("last exit %q, isolation %+v", d.LastExit, d.Isolation)
	}
	t.Logf("bounded by %s: %s, %d restarts", d.Isolation.Memory, d.LastExit, d.Restarts)
	after := b.pids(t)
	for _, name := range []string{bundle.Pipelock, bundle.GitGate, bundle.Supervise} {
		if after[name] != before[name] {
			t.Errorf("%s was touched", name)
		}
	}
}

func (b *running) daemon(t *testing.T, name string) control.Daemon {
	t.Helper()
	st, err := b.ctl.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d, _ := st.Find(name)
	return d
}

func (b *running) pids(t *testing.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, name := range bundle.Daemons() {
		all[name] = b.daemon(t, name).PID
	}
	return all
}
