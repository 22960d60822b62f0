//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/control"
	"airlock/internal/lab"
)

// TestChaos kills, stops, continues and replaces daemons at random, under
// load. A request may fail only when a daemon on its way was killed while it
// was under way. At the end everything is as it was.
func TestChaos(t *testing.T) {
	if os.Getuid() != 0 {
		chaos(t, 0, time.Minute)
		return
	}
	t.Run("as root", func(t *testing.T) { chaos(t, 0, time.Minute) })
	t.Run("as an ordinary user", func(t *testing.T) { chaos(t, 65534, 20*time.Second) })
}

// storm is the state of one run.
type storm struct {
	t    *testing.T
	b    *running
	mu   sync.Mutex
	kill map[string][]span // when a daemon was killed, until it served again
	all  int
	bad  []failure
}

type span struct{ from, to time.Time }

type failure struct {
	span
	way []string // daemons
	err error
}

func chaos(t *testing.T, uid int, length time.Duration) {
	dir, client, target := chaosFiles(t, uid)
	s := &storm{t: t, b: startAs(t, dir, "", uid), kill: map[string][]span{}}
	proxy, err := url.Parse("http://" + s.b.address(t, bundle.Egress, bundle.FDEgress))
	if err != nil {
		t.Fatal(err)
	}
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(proxy)
	mcp := "http://" + s.b.address(t, bundle.Supervise, bundle.FDSupervise) + "/mcp"
	if err := request(client, target); err != nil {
		t.Fatal(err)
	}
	before := s.look()
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() { s.load(ctx, func() error { return request(client, target) }, bundle.Egress, bundle.Pipelock) })
	}
	plain := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	group.Go(func() { s.load(ctx, func() error { return ask(plain, mcp) }, bundle.Supervise) })
	faults := s.rage(ctx)
	group.Wait()
	s.judge()
	client.CloseIdleConnections()
	plain.CloseIdleConnections()
	eventually(t, "nothing drains", func() bool {
		st := s.status()
		for _, d := range st.Daemons {
			if d.Draining > 0 {
				return false
			}
		}
		return st.Ready
	})
	after := s.look()
	if after.children != 4 || after.files > before.files {
		t.Errorf("%d children; %d open files, %d before", after.children, after.files, before.files)
	}
	if after.memory > before.memory+16<<20 {
		t.Errorf("the supervisor has %d bytes, %d before", after.memory, before.memory)
	}
	t.Logf("%d requests, %d faults, %d requests failed in the window of one; the supervisor has %d kB, %d before", s.all, faults, len(s.bad), after.memory>>10, before.memory>>10)
}

// chaosFiles are a bundle's files, and a client that trusts its authority.
func chaosFiles(t *testing.T, uid int) (dir string, client *http.Client, target string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "chaos-*") // t.TempDir lies below a folder that others cannot enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	authority, err := lab.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	origin, err := lab.NewOrigin(authority, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "fine") }), "api.ok.test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(origin.Close)
	cert, key, err := ca.New("chaos", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"ca/ca.crt": string(cert), "ca/ca.key": string(key), "ca/upstream.crt": string(authority.PEM),
		"egress.yaml":    fmt.Sprintf("version: 1\nlisten: 127.0.0.1:0\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\nroutes: [{host: 'api.ok.test:%d'}]\n", origin.Port()),
		"pipelock.yaml":  fmt.Sprintf("version: 1\nallow: ['api.ok.test:%d']\nhosts: {api.ok.test: 127.0.0.1}\naddresses: {allow: [127.0.0.1/32]}\nupstream_ca: /etc/airlock/ca/upstream.crt\n", origin.Port()),
		"git-gate.yaml":  "version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nrepos: {}\n",
		"supervise.yaml": "version: 1\nlisten: 127.0.0.1:0\n",
	} {
		path := filepath.Join(dir, "etc", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if uid != 0 {
		chown(t, dir)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return dir, client, fmt.Sprintf("https://api.ok.test:%d/", origin.Port())
}

func request(c *http.Client, target string) error {
	// A body that is sent once: the client repeats nothing by itself.
	req, err := http.NewRequest(http.MethodPost, target, io.NopCloser(strings.NewReader("x")))
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "fine" {
		return fmt.Errorf("status %d: %s, %v", res.StatusCode, text, err)
	}
	return nil
}

// ask lists the tools, as an MCP client does.
func ask(c *http.Client, target string) error {
	req, err := http.NewRequest(http.MethodPost, target, io.NopCloser(strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || !strings.Contains(string(text), "request_access") {
		return fmt.Errorf("status %d: %.200s, %v", res.StatusCode, text, err)
	}
	return nil
}

func (s *storm) load(ctx context.Context, do func() error, way ...string) {
	for ctx.Err() == nil {
		began := time.Now()
		err := do()
		s.mu.Lock()
		s.all++
		if err != nil {
			s.bad = append(s.bad, failure{span{began, time.Now()}, way, err})
		}
		s.mu.Unlock()
	}
}

// rage does one thing after another, and returns how many.
func (s *storm) rage(ctx context.Context) (faults int) {
	dice := rand.New(rand.NewPCG(3, 3))
	for ; ctx.Err() == nil; faults++ {
		name := bundle.Daemons()[dice.IntN(4)]
		d, _ := s.status().Find(name)
		switch what := dice.IntN(4); {
		case what == 0 && d.PID != 0:
			began := time.Now()
			_ = syscall.Kill(d.PID, syscall.SIGKILL) // it may be in the middle of its own end
			eventually(s.t, name+" serves again", func() bool {
				now, _ := s.status().Find(name)
				return now.State == "ready" && now.PID != d.PID
			})
			s.mu.Lock()
			s.kill[name] = append(s.kill[name], span{began, time.Now()})
			s.mu.Unlock()
		case what == 1 && d.PID != 0:
			_ = syscall.Kill(d.PID, syscall.SIGSTOP)
			time.Sleep(time.Duration(dice.IntN(400)) * time.Millisecond) // it hangs for so long
			_ = syscall.Kill(d.PID, syscall.SIGCONT)
		case what == 2:
			_ = s.b.process.Signal(syscall.SIGUSR1)
		default:
			if err := s.b.ctl.Do(context.Background(), http.MethodPost, "/restart", url.Values{"daemon": {name}}, nil, nil); err != nil {
				s.t.Errorf("restarting %s: %v", name, err)
			}
		}
		time.Sleep(time.Duration(dice.IntN(500)) * time.Millisecond) // what happens is in step with nothing
	}
	return faults
}

// judge looks for requests that failed without a reason.
func (s *storm) judge() {
	for _, f := range s.bad {
		excused := false
		for _, name := range f.way {
			for _, k := range s.kill[name] {
				excused = excused || f.from.Before(k.to) && k.from.Before(f.to)
			}
		}
		if !excused {
			s.t.Errorf("failed, and nothing on its way was killed: %v", f.err)
		}
	}
	if s.all < 1000 {
		s.t.Errorf("only %d requests", s.all)
	}
}

// idle is what must not grow.
type idle struct {
	children, files int
	memory          int64
}

func (s *storm) status() control.Status {
	st, err := s.b.ctl.Status(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *storm) look() (i idle) {
	pid := s.b.process.Pid
	i.children = len(lab.Children(pid))
	eventually(s.t, "the control connections are closed", func() bool { // ours, a moment ago
		files, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		if err != nil {
			s.t.Fatal(err)
		}
		now := len(files)
		same := now == i.files
		i.files = now
		return same
	})
	i.memory = s.status().RSS
	return i
}
