package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"airlock/internal/audit"
	"airlock/internal/bundle"
)

// TestFullAudit: a daemon that cannot write its verdicts down refuses
// everything, says so, and goes on by itself when it can again. No half line
// is left in its chain.
func TestFullAudit(t *testing.T) {
	t.Run("a full disk", func(t *testing.T) {
		b := prepare(t, http.HandlerFunc(everything))
		dir := filepath.Join(b.dirs.State, "audit")
		must(t, os.MkdirAll(dir, 0o700))
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
			t.Skip("no file system can be mounted here:", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		b.run()
		filler := filepath.Join(dir, "filler")
		b.whileFull(bundle.Egress, func() { fill(t, filler) }, func() { must(t, os.Remove(filler)) })
		b.whileFull(bundle.Pipelock, func() { fill(t, filler) }, func() { must(t, os.Remove(filler)) })
	})
	t.Run("a limit in the middle of a line", func(t *testing.T) {
		for _, name := range []string{bundle.Egress, bundle.Pipelock} {
			b := start(t, http.HandlerFunc(everything))
			pid := b.status(name).PID
			limit := func(n uint64) {
				must(t, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: unix.RLIM_INFINITY}, nil))
			}
			b.whileFull(name, func() {
				info, err := os.Stat(b.dirs.Audit(name))
				must(t, err)
				limit(uint64(info.Size()) + 100) // a half line
			}, func() { limit(unix.RLIM_INFINITY) })
		}
	})
}

// fill uses up a file system to its last byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else {
			must(t, err)
		}
	}
}

// whileFull makes every kind of request while a daemon has no room for its
// verdicts.
func (b *running) whileFull(name string, full, room func()) {
	b.t.Helper()
	t := b.t
	door := *b
	if name == bundle.Pipelock {
		door.egress = b.lock
	}
	client := door.client(door.egress)
	if status, body := b.send(client, http.MethodGet, b.url("api.ok.test", "/v1/x"), nil); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	full()
	eventually(t, name+" has no room", func() bool { // the last page of the chain has some
		status, _ := b.send(client, http.MethodGet, b.url("api.ok.test", "/v1/x"), nil)
		return status == http.StatusServiceUnavailable
	})
	seen, dials := len(b.origin.Seen()), b.origin.Dials()
	h2 := door.client(door.egress)
	h2.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	for what, c := range map[string]struct {
		client         *http.Client
		method, target string
		body           io.Reader
	}{
		"a request":           {client, http.MethodGet, b.url("api.ok.test", "/v1/x"), nil},
		"a request in HTTP/2": {h2, http.MethodGet, b.url("api.ok.test", "/v1/x"), nil},
		"a request with body": {client, http.MethodPost, b.url("api.ok.test", "/v1/x"), strings.NewReader("body")},
		"plain HTTP":          {client, http.MethodGet, strings.Replace(b.url("api.ok.test", "/v1/x"), "https:", "http:", 1), nil},
		"what is refused":     {client, http.MethodGet, b.url("evil.test", "/"), nil},
		"another host       ": {client, http.MethodGet, b.url("a.cdn.test", "/x"), nil},
	} {
		status, body := b.send(c.client, c.method, c.target, c.body)
		if by, rule, why := refusal(t, body); status != http.StatusServiceUnavailable || by != name || rule != "audit" || why == "" {
			t.Errorf("%s: %d by %s, rule %s, %s", what, status, by, rule, why)
		}
	}
	raw, err := net.Dial("tcp", door.egress)
	must(t, err)
	defer raw.Close()
	if _, err := door.upgraded(raw); err == nil || !strings.Contains(err.Error(), " 503 ") || !strings.Contains(err.Error(), "Airlock-Rule: audit") {
		t.Errorf("a WebSocket: %v", err)
	}
	if len(b.origin.Seen()) != seen || b.origin.Dials() != dials {
		t.Error("the origin was reached")
	}
	if trouble := b.status(name).Trouble; !strings.HasPrefix(trouble, "refuses everything: writing the audit: ") {
		t.Errorf("the status says %q", trouble)
	}
	if out, err := b.command("health").CombinedOutput(); err == nil || !strings.Contains(string(out), "refuses everything") {
		t.Errorf("the health check: %v, %s", err, out)
	}
	b.verified(name)
	room()
	if status, body := b.send(door.client(door.egress), http.MethodGet, b.url("api.ok.test", "/v1/x"), nil); status != 200 {
		t.Errorf("with room again: %d %s", status, body)
	}
	eventually(t, "the status forgets it", func() bool { return b.status(name).Trouble == "" })
	if out, err := b.command("health").CombinedOutput(); err != nil {
		t.Errorf("the health check: %v, %s", err, out)
	}
	b.verified(name)
}

// verified wants a daemon's chain to be whole.
func (b *running) verified(name string) {
	b.t.Helper()
	data, err := os.ReadFile(b.dirs.Audit(name))
	must(b.t, err)
	n, _, err := audit.Verify(bytes.NewReader(data))
	if err != nil || n == 0 {
		b.t.Errorf("the chain of %s: %d entries, %v", name, n, err)
	}
}
