package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/control"
	"airlock/internal/lab"
)

// sidecars is the binary that "make build" has made.
const sidecars = "../bin/sidecars"

type rig struct {
	b      *testing.B
	dirs   bundle.Dirs
	origin *lab.Origin
	roots  *x509.CertPool // of the pair
	lab    *lab.CA
	cmd    *exec.Cmd
	ctl    *control.Client
	proxy  string
	ready  time.Duration
	env    []string        // more of the supervisor's
	peers  map[bool]string // addresses, with HTTP/2 and without
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// newRig starts a bundle with all four daemons.
func newRig(b *testing.B) *rig {
	b.Helper()
	r := prepare(b, [4]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"})
	r.start()
	return r
}

// prepare writes the files of a bundle. The addresses are egress's, git-gate's two, and supervise's.
func prepare(b *testing.B, listen [4]string) *rig {
	b.Helper()
	dir := b.TempDir()
	r := &rig{b: b, dirs: bundle.Dirs{Etc: dir + "/etc", Run: dir + "/run", State: dir + "/state"}, peers: map[bool]string{}}
	check(b, os.MkdirAll(r.dirs.Etc+"/ca", 0o700))
	var err error
	r.lab, err = lab.NewCA()
	check(b, err)
	r.origin, err = lab.NewOrigin(r.lab, http.HandlerFunc(origin), "api.ok.test")
	check(b, err)
	b.Cleanup(r.origin.Close)
	cert, key, err := ca.New("bench", time.Now())
	check(b, err)
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM(cert)
	port := r.origin.Port()
	for name, text := range map[string]string{
		"ca/ca.crt": string(cert), "ca/ca.key": string(key), "ca/upstream.crt": string(r.lab.PEM),
		"egress.yaml":    fmt.Sprintf("version: 1\nlisten: %s\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\nroutes: [{host: 'api.ok.test:%d', auth: {type: bearer, slot: EGRESS_TOKEN_0}}]\n", listen[0], port),
		"pipelock.yaml":  fmt.Sprintf("version: 1\nallow: ['api.ok.test:%d']\nhosts: {api.ok.test: 127.0.0.1}\naddresses: {allow: [127.0.0.1/32]}\nupstream_ca: /etc/airlock/ca/upstream.crt\nsecrets: {values: [EGRESS_DIGEST_0]}\n", port),
		"git-gate.yaml":  fmt.Sprintf("version: 1\nlisten: {git: '%s', http: '%s'}\nrepos: {}\n", listen[1], listen[2]),
		"supervise.yaml": "version: 1\nlisten: " + listen[3] + "\n",
	} {
		check(b, os.WriteFile(filepath.Join(r.dirs.Etc, name), []byte(text), 0o600))
	}
	return r
}

var reply, largeReply = bytes.Repeat([]byte("x"), 1000), bytes.Repeat([]byte("0123456789"), large/10)

// origin answers with 1,000 bytes, with 10 MB, or with events.
func origin(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/large":
		w.Header().Set("Content-Length", strconv.Itoa(large))
		_, _ = w.Write(largeReply)
	case "/v1/bytes":
		size, err := strconv.Atoi(r.URL.RawQuery)
		if err != nil || size > large {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", r.URL.RawQuery)
		_, _ = w.Write(largeReply[:size])
	case "/v1/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for range 25 {
			time.Sleep(20 * time.Millisecond) // the pace of the events
			fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano())
			_ = http.NewResponseController(w).Flush()
		}
	default:
		_, _ = w.Write(reply)
	}
}

func (r *rig) start() {
	r.b.Helper()
	r.cmd = exec.Command(sidecars, "supervisor")
	r.cmd.Env = append(append(r.dirs.Env(), "EGRESS_TOKEN_0=bench-"+lab.Token()[4:]), r.env...)
	out, err := os.Create(filepath.Join(r.dirs.Etc, "log"))
	check(r.b, err)
	r.cmd.Stdout, r.cmd.Stderr = out, out
	began := time.Now()
	check(r.b, r.cmd.Start())
	r.b.Cleanup(func() {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		_ = r.cmd.Wait() // its code is of no concern here
		out.Close()
	})
	r.ctl = control.NewClient(r.dirs.Control())
	for {
		st, err := r.ctl.Status(context.Background())
		if err == nil && st.Ready {
			d, _ := st.Find(bundle.Egress)
			r.proxy = d.Listen[bundle.FDEgress]
			break
		}
		if time.Since(began) > 20*time.Second {
			r.b.Fatalf("the bundle is not ready: %v", err)
		}
		time.Sleep(time.Millisecond) // between two questions
	}
	r.ready = time.Since(began)
}

// The ways from a client to the origin.
const (
	direct = "direct"
	peer   = "peer"  // the program in bench/peer
	chain  = "chain" // egress, injection, pipelock, both audits
)

var ways = []string{direct, peer, chain}

// client is one for a way, with HTTP/2 where that is wanted.
func (r *rig) client(way string, h2 bool) *http.Client {
	r.b.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.roots}, MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: h2}
	if way == direct {
		tr.TLSClientConfig = &tls.Config{RootCAs: r.lab.Pool(), ServerName: "api.ok.test"}
	} else {
		proxy := r.proxy
		if way == peer {
			proxy = r.peer(h2)
		}
		u, err := url.Parse("http://" + proxy)
		check(r.b, err)
		if way == alone {
			u = r.pipelockPort()
		}
		tr.Proxy = http.ProxyURL(u)
	}
	r.b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// peer starts the program that stands for what one would use instead.
func (r *rig) peer(h2 bool) (address string) {
	r.b.Helper()
	if address = r.peers[h2]; address != "" {
		return address
	}
	program := filepath.Join(r.dirs.Etc, "peer")
	if out, err := exec.Command("go", "build", "-trimpath", "-o", program, "./peer").CombinedOutput(); err != nil {
		r.b.Fatalf("building the peer: %v\n%s", err, out)
	}
	cmd := exec.Command(program, "-cert", r.dirs.Etc+"/ca/ca.crt", "-key", r.dirs.Etc+"/ca/ca.key", "-roots", r.dirs.Etc+"/ca/upstream.crt", "-token", lab.Token(), fmt.Sprintf("-h2=%v", h2))
	out, err := cmd.StdoutPipe()
	check(r.b, err)
	check(r.b, cmd.Start())
	r.b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	_, err = fmt.Fscan(out, &address)
	check(r.b, err)
	r.peers[h2] = address
	return address
}

func (r *rig) target(way, path string) string {
	if way == direct {
		return r.origin.URL + path
	}
	return fmt.Sprintf("https://api.ok.test:%d%s", r.origin.Port(), path)
}

func get(c *http.Client, target string) error {
	res, err := c.Get(target)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func pss(b *testing.B, pid int) int {
	b.Helper()
	n, err := lab.PSS(pid)
	check(b, err)
	return n
}

// BenchmarkFootprint reports sizes and the memory of an idle bundle, in MB
// (10^6 bytes), and how long a bundle takes from exec until every daemon
// serves, in ms.
func BenchmarkFootprint(b *testing.B) {
	r := newRig(b)
	st, err := r.ctl.Status(context.Background())
	check(b, err)
	total := pss(b, st.PID)
	b.ReportMetric(float64(total)/1e6, "supervisor-MB")
	for _, d := range st.Daemons {
		n := pss(b, d.PID)
		total += n
		b.ReportMetric(float64(n)/1e6, d.Name+"-MB")
	}
	b.ReportMetric(float64(total)/1e6, "bundle-MB")
	for _, name := range []string{"sidecars", "hostctl"} {
		info, err := os.Stat("../bin/" + name)
		check(b, err)
		b.ReportMetric(float64(info.Size())/1e6, name+"-file-MB")
	}
	b.ReportMetric(float64(r.ready.Microseconds())/1e3, "ready-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReplace replaces pipelock, from the request until the new process
// serves.
func BenchmarkReplace(b *testing.B) {
	r := newRig(b)
	for b.Loop() {
		check(b, r.ctl.Do(context.Background(), http.MethodPost, "/restart", url.Values{"daemon": {bundle.Pipelock}}, nil, nil))
	}
}
