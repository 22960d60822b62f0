package bench

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// manager runs the same four daemons under some supervisor.
type manager struct {
	name    string
	needs   string // a program
	prepare func(r *rig, dir string)
	start   func(r *rig, dir string) *exec.Cmd
	restart func(r *rig, dir string) *exec.Cmd // of pipelock
}

// script writes how a run-script manager starts one daemon.
func script(r *rig, path, daemon string) {
	self, err := filepath.Abs(sidecars)
	check(r.b, err)
	check(r.b, os.MkdirAll(filepath.Dir(path), 0o700))
	check(r.b, os.WriteFile(path, []byte("#!/bin/sh\nexec "+self+" "+daemon+" >/dev/null 2>&1\n"), 0o700))
}

func scripts(r *rig, dir string) {
	for _, daemon := range bundle.Daemons() {
		script(r, filepath.Join(dir, daemon, "run"), daemon)
	}
}

var managers = []manager{
	{
		name: "airlock", needs: sidecars,
		prepare: func(*rig, string) {},
		start:   func(*rig, string) *exec.Cmd { return exec.Command(sidecars, "supervisor") },
		restart: func(*rig, string) *exec.Cmd { return exec.Command(sidecars, "ctl", "restart", bundle.Pipelock) },
	},
	{
		name: "s6", needs: "s6-svscan",
		prepare: scripts,
		start:   func(_ *rig, dir string) *exec.Cmd { return exec.Command("s6-svscan", dir) },
		restart: func(_ *rig, dir string) *exec.Cmd {
			return exec.Command("s6-svc", "-r", filepath.Join(dir, bundle.Pipelock))
		},
	},
	{
		name: "runit", needs: "runsvdir",
		prepare: scripts,
		start:   func(_ *rig, dir string) *exec.Cmd { return exec.Command("runsvdir", dir) },
		restart: func(_ *rig, dir string) *exec.Cmd {
			return exec.Command("sv", "restart", filepath.Join(dir, bundle.Pipelock))
		},
	},
	{
		name: "supervisord", needs: "supervisord",
		prepare: func(r *rig, dir string) {
			var text strings.Builder
			fmt.Fprintf(&text, "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile=%[1]s/pid\n[unix_http_server]\nfile=%[1]s/sock\n[supervisorctl]\nserverurl=unix://%[1]s/sock\n[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n", dir)
			for _, daemon := range bundle.Daemons() {
				script(r, filepath.Join(dir, daemon), daemon)
				fmt.Fprintf(&text, "[program:%[1]s]\ncommand=%[2]s/%[1]s\nstartsecs=0\n", daemon, dir)
			}
			check(r.b, os.WriteFile(filepath.Join(dir, "conf"), []byte(text.String()), 0o600))
		},
		start: func(_ *rig, dir string) *exec.Cmd { return exec.Command("supervisord", "-c", dir+"/conf") },
		restart: func(_ *rig, dir string) *exec.Cmd {
			return exec.Command("supervisorctl", "-c", dir+"/conf", "restart", bundle.Pipelock)
		},
	},
}

// managed is a running one.
type managed struct {
	*rig
	m    manager
	dir  string
	main *exec.Cmd
	http []string // addresses that answer HTTP when their daemon serves
	env  []string
}

// addresses are free ports: daemons that start alone bind for themselves.
func addresses(b *testing.B) (all [4]string) {
	for i := range all {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(b, err)
		defer l.Close()
		all[i] = l.Addr().String()
	}
	return all
}

func manage(b *testing.B, m manager) *managed {
	b.Helper()
	if _, err := exec.LookPath(m.needs); err != nil {
		b.Skipf("%s is not installed", m.needs)
	}
	listen := addresses(b)
	r := prepare(b, listen)
	r.proxy = listen[0]
	g := &managed{rig: r, m: m, dir: b.TempDir(), http: []string{listen[0], listen[2], listen[3]}}
	check(b, os.MkdirAll(r.dirs.Run, 0o700))
	g.env = append(os.Environ(), r.dirs.Env()...)
	g.env = append(g.env, "EGRESS_TOKEN_0=bench-"+lab.Token()[4:])
	m.prepare(r, g.dir)
	return g
}

// up starts the manager and returns how long it took until every daemon has
// answered a request.
func (g *managed) up() time.Duration {
	g.b.Helper()
	g.main = g.m.start(g.rig, g.dir)
	g.main.Env = g.env
	g.main.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	check(g.b, g.main.Start())
	for !g.answers() {
		if time.Since(began) > 30*time.Second {
			g.down()
			g.b.Fatal("not everything answers")
		}
		time.Sleep(500 * time.Microsecond) // between two questions
	}
	return time.Since(began)
}

// answers asks every daemon for anything at all.
func (g *managed) answers() bool {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, address := range g.http {
		res, err := client.Get("http://" + address + "/")
		if err != nil {
			return false
		}
		res.Body.Close()
	}
	socket := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", g.dirs.Run+"/pipelock.sock")
	}}}
	res, err := socket.Get("http://pipelock/")
	if err != nil {
		return false
	}
	res.Body.Close()
	return true
}

// tree are the pids of a process and all below it, the daemons apart.
func tree(pid int) (own, daemons []int) {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, nil
	}
	argv := strings.Split(string(comm), "\x00")
	if slices.Contains(bundle.Daemons(), argv[0]) || filepath.Base(argv[0]) == "sidecars" && len(argv) > 1 && slices.Contains(bundle.Daemons(), argv[1]) {
		return nil, []int{pid}
	}
	own = []int{pid}
	for _, child := range lab.Children(pid) {
		o, d := tree(child)
		own, daemons = append(own, o...), append(daemons, d...)
	}
	return own, daemons
}

// down ends everything of this run.
func (g *managed) down() {
	own, daemons := tree(g.main.Process.Pid)
	_ = g.main.Process.Signal(syscall.SIGTERM)
	for _, pid := range daemons {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	done := make(chan struct{})
	go func() { _ = g.main.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(12 * time.Second):
	}
	for _, pid := range append(own, daemons...) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // most have ended; the numbers are seconds old
	}
	<-done
}

// BenchmarkSupervisors runs the four daemons under Airlock's supervisor and
// under others: time from exec until every daemon has answered a request (ms),
// the supervisor's own memory (MB, shared pages counted in parts), wake-ups of
// the supervisor and of the daemons in a quiet second, and what clients notice of ten
// restarts of pipelock under load: failed requests, and the longest one (ms).
func BenchmarkSupervisors(b *testing.B) {
	for _, m := range managers {
		b.Run(m.name, func(b *testing.B) {
			g := manage(b, m)
			var starts []time.Duration
			for range 5 {
				starts = append(starts, g.up())
				g.down()
			}
			slices.Sort(starts)
			b.ReportMetric(float64(starts[2].Microseconds())/1e3, "ready-ms")
			g.up()
			defer g.down()
			failed, longest, requests := g.restartsUnderLoad()
			b.ReportMetric(float64(failed), "failed")
			b.ReportMetric(float64(longest.Microseconds())/1e3, "longest-ms")
			b.ReportMetric(float64(requests), "requests")
			time.Sleep(12 * time.Second) // what drains has ended
			own, daemons := tree(g.main.Process.Pid)
			total := 0
			for _, pid := range own {
				total += pss(b, pid)
			}
			b.ReportMetric(float64(total)/1e6, "supervisor-MB")
			const quiet = 10
			before, beforeDaemons := lab.Wakeups(own...), lab.Wakeups(daemons...)
			time.Sleep(quiet * time.Second) // nothing is to happen
			b.ReportMetric(float64(lab.Wakeups(own...)-before)/quiet, "wakeups/s")
			b.ReportMetric(float64(lab.Wakeups(daemons...)-beforeDaemons)/quiet, "daemons-wakeups/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// restartsUnderLoad restarts pipelock ten times, a quarter of a second apart,
// while four clients send requests.
func (g *managed) restartsUnderLoad() (failed int64, longest time.Duration, requests int64) {
	g.b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var bad, all, worst atomic.Int64
	for range 4 {
		u, err := url.Parse("http://" + g.proxy)
		check(g.b, err)
		client := g.client(chain, false)
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(u)
		group.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				if err := get(client, g.target(chain, "/v1/x")); err != nil {
					bad.Add(1)
				}
				all.Add(1)
				for took := int64(time.Since(began)); ; {
					was := worst.Load()
					if took <= was || worst.CompareAndSwap(was, took) {
						break
					}
				}
			}
		})
	}
	for range 10 {
		time.Sleep(250 * time.Millisecond) // the pace of the restarts
		c := g.m.restart(g.rig, g.dir)
		c.Env = g.env
		if out, err := c.CombinedOutput(); err != nil {
			g.b.Errorf("restarting: %v: %s", err, out)
		}
	}
	time.Sleep(250 * time.Millisecond) // what the last restart costs shows after it
	cancel()
	group.Wait()
	return bad.Load(), time.Duration(worst.Load()), all.Load()
}

// BenchmarkInit starts and ends one command under an init. The resident
// memory (MB) is that of the init while its command runs.
func BenchmarkInit(b *testing.B) {
	for _, argv := range [][]string{{sidecars, "init", "--"}, {"tini", "-s", "--"}, {"dumb-init", "--"}} {
		b.Run(filepath.Base(argv[0]), func(b *testing.B) {
			if _, err := exec.LookPath(argv[0]); err != nil {
				b.Skipf("%s is not installed", argv[0])
			}
			c := exec.Command(argv[0], append(argv[1:], "cat")...)
			in, err := c.StdinPipe()
			check(b, err)
			out, err := c.StdoutPipe()
			check(b, err)
			check(b, c.Start())
			_, err = in.Write([]byte("x"))
			check(b, err)
			_, err = out.Read(make([]byte, 1))
			check(b, err)
			b.ReportMetric(float64(pss(b, c.Process.Pid))/1e6, "MB")
			in.Close()
			check(b, c.Wait())
			for b.Loop() {
				check(b, exec.Command(argv[0], append(argv[1:], "true")...).Run())
			}
		})
	}
}
