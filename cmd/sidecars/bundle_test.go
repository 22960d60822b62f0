package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/control"
	"airlock/internal/lab"
)

// TestMain makes the test binary every applet: the supervisor starts its
// daemons from its own executable.
func TestMain(m *testing.M) {
	if _, ok := find(filepath.Base(os.Args[0])); ok || filepath.Base(os.Args[0]) == "sidecars" {
		main()
		os.Exit(0)
	}
	// The race detector would let every process sleep for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

// running is a bundle under a supervisor, with an origin behind it.
type running struct {
	t      *testing.T
	dirs   bundle.Dirs
	origin *lab.Origin
	pairCA *x509.CertPool
	egress string // where the agent's proxy is
	door   string // whose port that is, in tests of both
	lock   string
	mcp    string
	attr   *syscall.SysProcAttr
	cmd    *exec.Cmd
	output *lines
	ctl    *control.Client
	token  string
	done   chan struct{} // closed when the supervisor has ended

	through func(io.Reader) io.Reader // what its output is read through; nil: nothing
}

// lines keeps what the supervisor prints.
type lines struct {
	all  []string
	wait chan string
}

// start writes a folder of files and starts the supervisor on it.
func start(t *testing.T, h http.Handler, env ...string) *running {
	t.Helper()
	b := prepare(t, h)
	b.run(env...)
	return b
}

// prepare writes the folder of files.
func prepare(t *testing.T, h http.Handler) *running {
	t.Helper()
	b := &running{t: t, token: "real-credential-" + lab.Token()[4:], done: make(chan struct{})}
	dir := t.TempDir()
	b.dirs = bundle.Dirs{Etc: filepath.Join(dir, "etc"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state")}
	for _, d := range []string{b.dirs.Etc + "/ca", b.dirs.Run, b.dirs.State} {
		must(t, os.MkdirAll(d, 0o700))
	}
	authority, err := lab.NewCA()
	must(t, err)
	b.origin, err = lab.NewOrigin(authority, h, "api.ok.test", "new.ok.test", "a.cdn.test")
	must(t, err)
	t.Cleanup(b.origin.Close)
	cert, key, err := ca.New("test", time.Now())
	must(t, err)
	b.pairCA = x509.NewCertPool()
	b.pairCA.AppendCertsFromPEM(cert)
	b.write("ca/ca.crt", string(cert))
	b.write("ca/ca.key", string(key))
	b.write("ca/upstream.crt", string(authority.PEM))
	b.write("egress.yaml", b.egressYAML(""))
	b.write("pipelock.yaml", b.pipelockYAML(""))
	b.write("supervise.yaml", "version: 1\nlisten: 127.0.0.1:0\nwait: 20s\n")
	b.write("git-gate.yaml", "version: 1\nlisten: {git: '127.0.0.1:0', http: '127.0.0.1:0'}\nrepos: {}\n")
	return b
}

func (b *running) egressYAML(more string) string {
	return fmt.Sprintf(`version: 1
listen: 127.0.0.1:0
ca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}
routes:
  - host: api.ok.test:%[1]d
    paths: ["/v1/*"]
    auth: {type: bearer, slot: EGRESS_TOKEN_0}
  - host: "*.cdn.test:%[1]d"
%[2]s`, b.origin.Port(), more)
}

func (b *running) pipelockYAML(more string) string {
	return fmt.Sprintf(`version: 1
listen: 127.0.0.1:0
ca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}
upstream_ca: /etc/airlock/ca/upstream.crt
hosts: {api.ok.test: 127.0.0.1, new.ok.test: 127.0.0.1, a.cdn.test: 127.0.0.1}
addresses: {allow: [127.0.0.1/32]}
secrets: {values: [EGRESS_DIGEST_0]}
allow:
  - api.ok.test:%[1]d
  - "*.cdn.test:%[1]d"
%[2]s`, b.origin.Port(), more)
}

func (b *running) write(name, text string) {
	b.t.Helper()
	must(b.t, os.WriteFile(filepath.Join(b.dirs.Etc, name), []byte(text), 0o600))
}

func (b *running) run(env ...string) {
	b.t.Helper()
	self, err := os.Executable()
	must(b.t, err)
	b.cmd = exec.Command(self)
	b.cmd.Args = []string{"supervisor"}
	b.cmd.SysProcAttr = b.attr
	b.cmd.Env = append(os.Environ(), b.dirs.Env()...)
	b.cmd.Env = append(b.cmd.Env, "EGRESS_TOKEN_0="+b.token, "AIRLOCK_PAIR=test")
	b.cmd.Env = append(b.cmd.Env, env...)
	out, err := b.cmd.StdoutPipe()
	must(b.t, err)
	b.cmd.Stderr = b.cmd.Stdout
	must(b.t, b.cmd.Start())
	b.output = &lines{wait: make(chan string, 10000)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		var from io.Reader = out
		if b.through != nil {
			from = b.through(out)
		}
		sc := bufio.NewScanner(from)
		for sc.Scan() {
			b.output.wait <- sc.Text()
		}
		close(b.output.wait)
	}()
	go func() {
		<-read
		_ = b.cmd.Wait() // the tests read ProcessState
		close(b.done)
	}()
	b.t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // it has ended in most tests
		for l := range b.output.wait {
			b.output.all = append(b.output.all, l)
		}
		lab.Receive(b.t, b.done, "what runs beside the test ends")
		if b.t.Failed() {
			b.t.Logf("the supervisor printed:\n%s", strings.Join(b.output.all, "\n"))
		}
	})
	b.until("ready: ")
	b.ctl = control.NewClient(b.dirs.Control())
	st, err := b.ctl.Status(context.Background())
	must(b.t, err)
	for _, d := range st.Daemons {
		switch d.Name {
		case bundle.Egress:
			b.egress = d.Listen[bundle.FDEgress]
		case bundle.Pipelock:
			b.lock = d.Listen[bundle.FDPipelock]
		case bundle.Supervise:
			b.mcp = d.Listen[bundle.FDSupervise]
		}
	}
}

// until waits for a line that holds the text.
func (b *running) until(text string) string {
	b.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case l, ok := <-b.output.wait:
			if !ok {
				b.t.Fatalf("the supervisor ended before it printed %q", text)
			}
			b.output.all = append(b.output.all, l)
			if strings.Contains(l, text) {
				return l
			}
		case <-timeout:
			b.t.Fatalf("no line with %q came", text)
		}
	}
}

func (b *running) client(proxy string) *http.Client {
	u, err := url.Parse("http://" + proxy)
	must(b.t, err)
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: b.pairCA}}
	b.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

// atBothDoors runs a test on egress's port and on pipelock's own: they have the
// same rules for what is no request, and for what does not fit its tunnel.
func (b *running) atBothDoors(f func(t *testing.T, b *running)) {
	for _, door := range []string{bundle.Egress, bundle.Pipelock} {
		b.t.Run("at "+door, func(t *testing.T) {
			at := *b
			at.t, at.door = t, door
			if door == bundle.Pipelock {
				at.egress = b.lock
			}
			f(t, &at)
		})
	}
}

// deniedPath is one that the door refuses.
func (b *running) deniedPath() string {
	if b.door == bundle.Pipelock {
		return "/v1/" + lab.Token()
	}
	return "/admin"
}

func (b *running) url(host, path string) string {
	return fmt.Sprintf("https://%s:%d%s", host, b.origin.Port(), path)
}

// get is one request through a fresh connection.
func (b *running) get(target string, change ...func(*http.Request)) (int, string) {
	b.t.Helper()
	return b.send(b.client(b.egress), http.MethodGet, target, nil, change...)
}

func (b *running) send(c *http.Client, method, target string, body io.Reader, change ...func(*http.Request)) (int, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, target, body)
	must(b.t, err)
	for _, f := range change {
		f(req)
	}
	res, err := c.Do(req)
	must(b.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(b.t, err)
	return res.StatusCode, string(text)
}

// refusal decodes the reason out of a refusal's body.
func refusal(t *testing.T, body string) (by, rule, why string) {
	t.Helper()
	var r struct {
		Error struct{ By, Rule, Why, Ask string }
	}
	if err := json.Unmarshal([]byte(body), &r); err != nil || r.Error.Ask == "" {
		t.Fatalf("not a refusal: %q", body)
	}
	return r.Error.By, r.Error.Rule, r.Error.Why
}

func (b *running) stop(sig syscall.Signal) {
	b.t.Helper()
	must(b.t, b.cmd.Process.Signal(sig))
	select {
	case <-b.done:
	case <-time.After(20 * time.Second):
		b.t.Fatal("the supervisor does not end")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
