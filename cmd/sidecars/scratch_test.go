package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// TestReplacedWithoutAScratch is invariant 8 with everything that an agent
// does at once: ten replacements of pipelock in a row fail nothing that ends
// within the time to drain, and leave nothing behind.
func TestReplacedWithoutAScratch(t *testing.T) {
	lab.Long(t)
	for _, door := range []string{bundle.Egress, bundle.Pipelock} {
		t.Run("by "+door, func(t *testing.T) { replacedWithoutAScratch(t, door) })
	}
}

func replacedWithoutAScratch(t *testing.T, door string) {
	b := prepare(t, http.HandlerFunc(everything))
	b.write("supervise.yaml", "version: 1\nlisten: 127.0.0.1:0\nwait: 90s\n")
	b.withRepository()
	b.run()
	if door == bundle.Pipelock {
		b.egress = b.lock
	}
	others := map[string]int{}
	for _, name := range []string{bundle.Egress, bundle.GitGate, bundle.Supervise} {
		others[name] = b.status(name).PID
	}
	asked := b.askedInVain()
	cloned := b.cloneHalfway()

	replaced := func(times int) func() {
		return func() {
			for range times {
				now := b.status(bundle.Pipelock).Generation
				must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
				eventually(t, "a new generation", func() bool { return b.status(bundle.Pipelock).Generation > now })
				time.Sleep(500 * time.Millisecond) // the load that each generation gets
			}
		}
	}
	warm := b.traffic(replaced(3)) // what is made once is not what is measured
	warm.judge(t)
	before := b.holds(nil)
	load := b.traffic(replaced(10))
	load.judge(t)

	for name, pid := range others {
		if b.status(name).PID != pid {
			t.Errorf("%s was touched", name)
		}
	}
	cloned()
	asked()
	after := b.holds(&before)
	t.Logf("%s; memory %d → %d kB, open files %d → %d, processes %d → %d", load, before.memory>>10, after.memory>>10, before.files, after.files, before.processes, after.processes)
}

// everything is an origin with streams of events that end, and an echo of
// WebSocket messages.
func everything(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/sse":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 20 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond) // the pace of the events
		}
	case "/v1/ws":
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, rw)
	default:
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}
}

// counted is what a load has done.
type counted struct {
	took  time.Duration
	mu    sync.Mutex
	done  map[string]int
	wrong []error
}

func (c *counted) add(what string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.wrong = append(c.wrong, fmt.Errorf("%s: %w", what, err))
		return
	}
	c.done[what]++
}

func (c *counted) String() string {
	all := 0
	for _, n := range c.done {
		all += n
	}
	return fmt.Sprintf("%d a second for %.1f s: %v", int(float64(all)/c.took.Seconds()), c.took.Seconds(), c.done)
}

func (c *counted) judge(t *testing.T) {
	t.Helper()
	for i, err := range c.wrong {
		if i == 5 {
			t.Errorf("… and %d more", len(c.wrong)-i)
			break
		}
		t.Error(err)
	}
	for _, what := range []string{"kept alive", "in HTTP/2", "posted", "on a new connection", "event", "frame"} {
		if c.done[what] == 0 {
			t.Errorf("nothing was %s", what)
		}
	}
}

// traffic is about 500 requests and messages a second while the function runs.
func (b *running) traffic(while func()) *counted {
	b.t.Helper()
	c := &counted{done: map[string]int{}}
	var over atomic.Bool
	var group sync.WaitGroup
	worker := func(what string, pace time.Duration, do func() error) {
		group.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for ; !over.Load(); <-tick.C {
				c.add(what, do())
			}
		})
	}
	began := time.Now()
	for range 2 {
		kept, h2, fresh := b.client(b.egress), b.client(b.egress), b.client(b.egress)
		h2.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		fresh.Transport.(*http.Transport).DisableKeepAlives = true
		defer kept.CloseIdleConnections()
		defer h2.CloseIdleConnections()
		target := b.url("api.ok.test", "/v1/x")
		worker("kept alive", 12*time.Millisecond, func() error { return once(kept, http.MethodGet, target, nil) })
		worker("in HTTP/2", 25*time.Millisecond, func() error { return once(h2, http.MethodPost, target, strings.NewReader("once")) })
		worker("posted", 12*time.Millisecond, func() error {
			return once(kept, http.MethodPost, target, io.NopCloser(strings.NewReader("a body that cannot be sent twice")))
		})
		worker("on a new connection", 50*time.Millisecond, func() error { return once(fresh, http.MethodGet, target, nil) })
		worker("stream", 10*time.Millisecond, func() error { return b.wholeStream(kept, c) })
		worker("socket", 10*time.Millisecond, func() error { return b.echoes(c) })
	}
	while()
	over.Store(true)
	group.Wait()
	c.took = time.Since(began)
	return c
}

// once is a request that is answered with the length of its body.
func once(c *http.Client, method, target string, body io.Reader) error {
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s, %v", res.StatusCode, text, err)
	}
	return nil
}

// wholeStream reads 20 events, and then a proper end.
func (b *running) wholeStream(client *http.Client, c *counted) error {
	res, err := client.Get(b.url("api.ok.test", "/v1/sse"))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n := 0
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "data: ") {
			n++
			c.add("event", nil)
		}
	}
	if sc.Err() != nil || n != 20 {
		return fmt.Errorf("%d events, %v", n, sc.Err())
	}
	return nil
}

// echoes sends 40 messages over one WebSocket, and waits for each.
func (b *running) echoes(c *counted) error {
	conn, err := b.webSocket(b.egress)
	if err != nil {
		return err
	}
	defer conn.Close()
	for range 40 {
		out := []byte("\x81\x85\x00\x00\x00\x00hello")
		if _, err := conn.Write(out); err != nil {
			return err
		}
		back := make([]byte, len(out))
		if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(out, back) {
			return fmt.Errorf("%q came back: %v", back, err)
		}
		c.add("frame", nil)
		time.Sleep(30 * time.Millisecond) // the pace of the messages
	}
	return nil
}

// webSocket opens one to /v1/ws of the origin.
func (b *running) webSocket(proxy string) (net.Conn, error) {
	raw, err := net.Dial("tcp", proxy)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := b.upgraded(raw)
	if err != nil {
		raw.Close()
	}
	return conn, err
}

// withRepository puts a repository of 8 MB behind git-gate.
func (b *running) withRepository() {
	b.t.Helper()
	root := b.t.TempDir()
	server, err := lab.NewGitSSH(root)
	must(b.t, err)
	b.t.Cleanup(func() { server.Close() })
	work := filepath.Join(b.t.TempDir(), "work")
	noise := make([]byte, 8<<20)
	_, _ = rand.Read(noise) // never fails
	git := func(args ...string) {
		b.t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	git("init", "-q", "-b", "main", work)
	must(b.t, os.WriteFile(work+"/noise", noise, 0o600))
	git("-C", work, "add", ".")
	git("-C", work, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "noise")
	git("clone", "-q", "--bare", work, server.Dir("app"))
	must(b.t, os.MkdirAll(b.dirs.Etc+"/git", 0o700))
	b.write("git/app.key", string(server.Identity()))
	b.write("git-gate.yaml", fmt.Sprintf("version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nhosts: {upstream.test: 127.0.0.1}\nrepos:\n  app: {url: '%s', identity: /etc/airlock/git/app.key, host_key: '%s'}\n", server.URL("upstream.test", "app"), server.HostKey()))
}

// cloneHalfway begins a clone through git-gate and stops in the middle of its
// pack. What it returns lets it go on, and wants it whole.
func (b *running) cloneHalfway() (goOn func()) {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b.t, err)
	b.t.Cleanup(func() { l.Close() })
	halfway, resume := make(chan struct{}), make(chan struct{})
	gate := b.status(bundle.GitGate).Listen[bundle.FDGit]
	go func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		up, err := net.Dial("tcp", gate)
		if err != nil {
			return
		}
		defer up.Close()
		go io.Copy(up, client)
		_, _ = io.CopyN(client, up, 1<<20)
		close(halfway)
		lab.Receive(b.t, resume, "the test goes on")
		_, _ = io.Copy(client, up)
	}()
	into := filepath.Join(b.t.TempDir(), "clone")
	done := make(chan error, 1)
	go func() {
		out, err := exec.Command("git", "clone", "-q", "git://"+l.Addr().String()+"/app", into).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		done <- err
	}()
	select {
	case <-halfway:
	case err := <-done:
		b.t.Fatalf("git clone: %v", err)
	}
	return func() {
		b.t.Helper()
		close(resume)
		if err := lab.Receive(b.t, done, "what runs beside the test ends"); err != nil {
			b.t.Errorf("the clone that was in progress: %v", err)
		}
		if info, err := os.Stat(into + "/noise"); err != nil || info.Size() != 8<<20 {
			b.t.Errorf("the clone is not whole: %v", err)
		}
	}
}

// askedInVain makes an MCP client ask for access. What it returns answers, and
// wants the answer to arrive.
func (b *running) askedInVain() (answer func()) {
	b.t.Helper()
	session, ctx := b.connectMCP(), context.Background()
	told := make(chan string, 1)
	go func() {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "request_access", Arguments: map[string]any{"url": "https://late.ok.test/", "why": "to see"}})
		if err != nil {
			told <- err.Error()
			return
		}
		told <- res.Content[0].(*mcp.TextContent).Text
	}()
	var all []struct{ ID string }
	eventually(b.t, "the proposal is there", func() bool {
		must(b.t, b.ctl.Do(ctx, http.MethodGet, "/proposals", nil, nil, &all))
		return len(all) == 1
	})
	return func() {
		b.t.Helper()
		select {
		case early := <-told:
			b.t.Errorf("the call that waits came back early: %s", early)
			return
		default:
		}
		must(b.t, b.ctl.Do(ctx, http.MethodPost, "/proposals/"+all[0].ID, nil, strings.NewReader(`{"State":"approved","Answer":"at last"}`), nil))
		if text := lab.Receive(b.t, told, "an answer comes"); !strings.Contains(text, "at last") {
			b.t.Errorf("the call that waited was told %q", text)
		}
	}
}

// holdings are what a bundle has, its supervisor among it.
type holdings struct{ processes, files, memory int }

// holds waits until nothing drains and nothing is closed any more, and, where
// it is given, until there is no more than that.
func (b *running) holds(most *holdings) (h holdings) {
	b.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for since, last := time.Now(), -1; ; {
		time.Sleep(200 * time.Millisecond) // between two looks at processes that do not tell
		h = holdings{}
		st := b.supervisor()
		draining := 0
		for _, d := range st.Daemons {
			draining += d.Draining
		}
		for _, pid := range append(lab.Children(b.cmd.Process.Pid), b.cmd.Process.Pid) {
			h.processes++
			files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // a process that has just ended has none
			h.files += len(files)
			h.memory += memoryOf(pid)
		}
		few := most == nil || (h.processes <= most.processes && h.files <= most.files && h.memory <= most.memory+most.memory/8)
		if h.files != last {
			since, last = time.Now(), h.files
		}
		if draining == 0 && few && time.Since(since) > 2*time.Second {
			return h
		}
		if time.Now().After(deadline) {
			b.t.Errorf("%d drain; %+v, before %+v", draining, h, most)
			return h
		}
	}
}

// memoryOf is the part of the memory that is the process's own, or, where that
// cannot be read, all that it has in memory. A process that has just ended has
// none.
func memoryOf(pid int) int {
	if n, err := lab.PSS(pid); err == nil {
		return n
	}
	n, _ := residentOf(pid)
	return n
}

// upgraded opens a tunnel on a connection, and a WebSocket in it.
func (b *running) upgraded(raw net.Conn) (net.Conn, error) {
	host := fmt.Sprintf("api.ok.test:%d", b.origin.Port())
	if _, err := fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", host); err != nil {
		return nil, err
	}
	if head, err := readHead(raw); err != nil || !strings.Contains(head, " 200 ") {
		return nil, fmt.Errorf("CONNECT: %q, %v", head, err)
	}
	conn := b.overTLS(raw, "api.ok.test", "http/1.1")
	if _, err := fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", host, base64.StdEncoding.EncodeToString([]byte(lab.Token()[4:20]))); err != nil {
		return nil, err
	}
	if head, err := readHead(conn); err != nil || !strings.Contains(head, " 101 ") {
		return nil, fmt.Errorf("upgrading: %q, %v", head, err)
	}
	return conn, nil
}

// TestBadFileBySignal: pipelock is not replaced by one that cannot read its
// file, the old one serves on, and ctl says where the mistake is.
func TestBadFileBySignal(t *testing.T) {
	b := start(t, nil)
	before := b.status(bundle.Pipelock)
	b.write("pipelock.yaml", "version: 1\nallow:\n  - api.ok.test\n  - '*.com'\n")
	must(t, b.cmd.Process.Signal(syscall.SIGUSR1))
	b.until("pipelock was not replaced, the old one serves on")
	out, err := b.command("status").CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "config rejected") || !strings.Contains(text, "pipelock.yaml:4: pattern") || !strings.Contains(text, "too wide") {
		t.Errorf("%v: %s", err, text)
	}
	if now := b.status(bundle.Pipelock); now.PID != before.PID || now.Digest != before.Digest || now.State != "ready" {
		t.Errorf("%+v, before %+v", now, before)
	}
	for _, door := range []string{b.egress, b.lock} {
		if status, body := b.send(b.client(door), http.MethodGet, b.url("api.ok.test", "/v1/x"), nil); status != 200 {
			t.Errorf("the old rules do not serve: %d %s", status, body)
		}
	}
}
