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
	"sync"
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

// prepare writes the files of a bundle on an origin that answers with 1,000
// bytes. The addresses are egress's, git-gate's two, and supervise's.
func prepare(b *testing.B, listen [4]string) *rig {
	b.Helper()
	dir := b.TempDir()
	r := &rig{b: b, dirs: bundle.Dirs{Etc: dir + "/etc", Run: dir + "/run", State: dir + "/state"}}
	check(b, os.MkdirAll(r.dirs.Etc+"/ca", 0o700))
	var err error
	r.lab, err = lab.NewCA()
	check(b, err)
	reply := bytes.Repeat([]byte("x"), 1000)
	r.origin, err = lab.NewOrigin(r.lab, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(reply) }), "api.ok.test")
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

func (r *rig) start() {
	r.b.Helper()
	r.cmd = exec.Command(sidecars, "supervisor")
	r.cmd.Env = append(r.dirs.Env(), "EGRESS_TOKEN_0=bench-"+lab.Token()[4:])
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

func (r *rig) client(direct bool) *http.Client {
	r.b.Helper()
	u, err := url.Parse("http://" + r.proxy)
	check(r.b, err)
	tr := &http.Transport{Proxy: http.ProxyURL(u), TLSClientConfig: &tls.Config{RootCAs: r.roots}, MaxIdleConnsPerHost: 64}
	if direct {
		tr.Proxy = nil
		tr.TLSClientConfig = &tls.Config{RootCAs: r.lab.Pool(), ServerName: "api.ok.test"}
	}
	r.b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (r *rig) target(direct bool) string {
	if direct {
		return r.origin.URL + "/v1/x"
	}
	return fmt.Sprintf("https://api.ok.test:%d/v1/x", r.origin.Port())
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

// BenchmarkRequests sends requests at 1 and at 16 connections, directly and
// through the whole chain (egress, injection, pipelock, both audits).
func BenchmarkRequests(b *testing.B) {
	r := newRig(b)
	for _, way := range []string{"direct", "chain"} {
		for _, conns := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/connections=%d", way, conns), func(b *testing.B) {
				direct := way == "direct"
				client, target := r.client(direct), r.target(direct)
				check(b, get(client, target))
				jobs := make(chan struct{})
				var group sync.WaitGroup
				for range conns {
					group.Go(func() {
						for range jobs {
							if err := get(client, target); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for b.Loop() {
					jobs <- struct{}{}
				}
				close(jobs)
				group.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}
