package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"airlock/internal/lab"
)

// gitRig is a large repository behind three ways to it: git daemon, upstream itself over ssh, and the gate in front of that.
type gitRig struct {
	b    *testing.B
	dir  string
	url  map[string]string
	gate *exec.Cmd
	ssh  string // GIT_SSH_COMMAND
}

// The ways to a repository.
const (
	byDaemon = "git-daemon"
	bySSH    = "ssh"
	byGate   = "git-gate"
	byHook   = "git-daemon-gitleaks" // as pushes are often scanned: by gitleaks, in a hook of the server
)

var gitWays = []string{byDaemon, bySSH, byGate}

const (
	bigCommits = 1500
	bigTouched = 22 // files that each commit changes
)

// bigDir is where bigRepo is, if it was made.
var bigDir string

// bigRepo is made once for all benchmarks: the sources of Go, changed in many commits.
var bigRepo = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "airlock-bench-")
	if err != nil {
		return "", err
	}
	bigDir = dir
	repo := filepath.Join(dir, "big.git")
	if out, err := exec.Command("git", "init", "-q", "--bare", "-b", "main", repo).CombinedOutput(); err != nil {
		return "", fmt.Errorf("git init: %w\n%s", err, out)
	}
	cmd := exec.Command("git", "-C", repo, "fast-import", "--quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	w := bufio.NewWriterSize(in, 1<<20)
	err = bigStream(w)
	if err := firstError(err, w.Flush(), in.Close(), cmd.Wait()); err != nil {
		return "", fmt.Errorf("git fast-import: %w", err)
	}
	out, err := exec.Command("git", "-C", repo, "gc", "-q").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git gc: %w\n%s", err, out)
	}
	return dir, nil
})

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// bigStream writes the history. The same random numbers every time make the same repository of the same sources.
func bigStream(w *bufio.Writer) error {
	where, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("looking for the sources of Go: %w", err)
	}
	root := filepath.Join(strings.TrimSpace(string(where)), "src")
	var paths []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && (strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".s")) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	texts := map[string][]byte{}
	chance := rand.New(rand.NewPCG(1, 2))
	for i := range bigCommits {
		fmt.Fprintf(w, "commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 8\nchange %%\n", 1_600_000_000+i*600)
		touched := paths
		if i > 0 {
			touched = make([]string, bigTouched)
			for j := range touched {
				touched[j] = paths[chance.IntN(len(paths))]
			}
		}
		slices.Sort(touched)
		for _, path := range slices.Compact(touched) {
			text, known := texts[path]
			if !known {
				if text, err = os.ReadFile(path); err != nil {
					return err
				}
			}
			if i > 0 {
				text = changed(chance, text, i)
			}
			texts[path] = text
			name, _ := filepath.Rel(root, path)
			fmt.Fprintf(w, "M 100644 inline %s\ndata %d\n", filepath.ToSlash(name), len(text))
			w.Write(text)
			w.WriteByte('\n')
		}
	}
	return nil
}

// changed puts a line somewhere into a text.
func changed(chance *rand.Rand, text []byte, i int) []byte {
	at := 0
	if n := bytes.Count(text, []byte("\n")); n > 0 {
		for range chance.IntN(n) {
			at += bytes.IndexByte(text[at:], '\n') + 1
		}
	}
	return slices.Concat(text[:at], fmt.Appendf(nil, "// change %d %x\n", i, chance.Uint64()), text[at:])
}

func newGitRig(b *testing.B) *gitRig {
	b.Helper()
	dir, err := bigRepo()
	check(b, err)
	r := &gitRig{b: b, dir: b.TempDir(), url: map[string]string{}}
	upstream := filepath.Join(r.dir, "app.git")
	check(b, exec.Command("cp", "-a", filepath.Join(dir, "big.git"), upstream).Run())
	r.daemon()
	r.upstream()
	r.clone(byGate, b.TempDir()) // the mirror is there when the clock runs
	return r
}

func freePort(b *testing.B) int {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// run starts a server and waits until its port answers.
func (r *gitRig) run(cmd *exec.Cmd, port int) {
	r.b.Helper()
	log, err := os.Create(filepath.Join(r.dir, fmt.Sprintf("log-%d", port)))
	check(r.b, err)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(r.b, cmd.Start())
	r.b.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
	})
	for began := time.Now(); ; {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
			return
		}
		if time.Since(began) > 20*time.Second {
			text, _ := os.ReadFile(log.Name())
			r.b.Fatalf("%s does not answer: %v\n%s", cmd.Path, err, text)
		}
		time.Sleep(5 * time.Millisecond) // between two attempts
	}
}

func (r *gitRig) daemon() {
	port := freePort(r.b)
	r.run(exec.Command("git", "daemon", "--listen=127.0.0.1", fmt.Sprintf("--port=%d", port), "--base-path="+r.dir, "--export-all", "--reuseaddr"), port)
	r.url[byDaemon] = fmt.Sprintf("git://127.0.0.1:%d/app.git", port)
	r.url[byHook] = fmt.Sprintf("git://127.0.0.1:%d/hooked.git", port)
}

// hooked makes a repository of which git daemon takes what gitleaks finds nothing in.
func (r *gitRig) hooked() {
	r.b.Helper()
	repo, gitleaks := filepath.Join(r.dir, "hooked.git"), filepath.Join(r.dir, "gitleaks")
	build := exec.Command("go", "build", "-o", gitleaks, "github.com/zricethezav/gitleaks/v8")
	if out, err := build.CombinedOutput(); err != nil {
		r.b.Fatalf("building gitleaks: %v\n%s", err, out)
	}
	check(r.b, exec.Command("cp", "-a", filepath.Join(r.dir, "app.git"), repo).Run())
	check(r.b, exec.Command("git", "-C", repo, "config", "daemon.receivepack", "true").Run())
	check(r.b, os.WriteFile(filepath.Join(repo, "hooks", "pre-receive"), fmt.Appendf(nil, `#!/bin/sh
while read -r old new ref; do
  [ -z "${new##*[!0]*}" ] || continue # a reference is deleted
  %s git --no-banner --log-opts="$new --not --all" . || exit 1
done
`, gitleaks), 0o755))
}

// upstream starts the ssh server and the gate before it.
func (r *gitRig) upstream() {
	server, err := lab.NewGitSSH(r.dir)
	check(r.b, err)
	r.b.Cleanup(func() { server.Close() })
	key := filepath.Join(r.dir, "key")
	check(r.b, os.WriteFile(key, server.Identity(), 0o600))
	known := filepath.Join(r.dir, "known_hosts")
	check(r.b, os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%d %s\n", server.Port(), server.HostKey()), 0o600))
	r.url[bySSH] = server.URL("127.0.0.1", "app")
	r.ssh = "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -i " + key + " -o UserKnownHostsFile=" + known
	port, etc := freePort(r.b), filepath.Join(r.dir, "etc")
	check(r.b, os.MkdirAll(etc, 0o700))
	check(r.b, os.WriteFile(filepath.Join(etc, "git-gate.yaml"), fmt.Appendf(nil,
		"version: 1\nlisten: {git: '127.0.0.1:%d', http: '127.0.0.1:0'}\nrepos:\n  app: {url: '%s', identity: %s, host_key: '%s'}\n", port, r.url[bySSH], key, server.HostKey()), 0o600))
	r.gate = exec.Command(sidecars, "git-gate")
	r.gate.Env = append(os.Environ(), "AIRLOCK_ETC="+etc, "AIRLOCK_RUN="+etc, "AIRLOCK_STATE="+etc)
	r.run(r.gate, port)
	r.url[byGate] = fmt.Sprintf("git://127.0.0.1:%d/app.git", port)
}

// git runs the client and returns how long it took.
func (r *gitRig) git(args ...string) time.Duration {
	r.b.Helper()
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_SSH_COMMAND="+r.ssh,
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@example.com")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		r.b.Fatalf("git %v: %v\n%s", args, err, &out)
	}
	return time.Since(began)
}

func (r *gitRig) clone(way, dir string) time.Duration {
	r.b.Helper()
	return r.git("clone", "-q", "--bare", r.url[way], dir)
}

// compare measures the three ways in turn and reports medians, and the gate's beside the others'.
func (r *gitRig) compare(measure func(way string) time.Duration) {
	took := map[string][]time.Duration{}
	before := r.busy()
	for r.b.Loop() {
		for _, way := range gitWays {
			took[way] = append(took[way], measure(way))
		}
	}
	middle := map[string]float64{}
	for way, all := range took {
		slices.Sort(all)
		middle[way] = all[len(all)/2].Seconds() * 1000
		r.b.ReportMetric(middle[way], way+"-ms")
	}
	r.b.ReportMetric(middle[byGate]/middle[byDaemon], "x-of-git-daemon")
	r.b.ReportMetric(middle[byGate]/middle[bySSH], "x-of-ssh")
	r.b.ReportMetric(r.resident(), "gate-MB")
	r.b.ReportMetric((r.busy()-before).Seconds()*1000/float64(len(took[byGate])), "gate-cpu-ms")
	r.b.ReportMetric(0, "ns/op")
}

// resident is what the gate has in memory now.
func (r *gitRig) resident() float64 {
	r.b.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", r.gate.Process.Pid))
	check(r.b, err)
	defer f.Close()
	text, err := io.ReadAll(f)
	check(r.b, err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	check(r.b, err)
	return kb / 1024
}

// busy is how long the gate has computed so far.
func (r *gitRig) busy() time.Duration {
	r.b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.gate.Process.Pid))
	check(r.b, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := 0.0
	for _, f := range fields[11:13] { // user and system, in hundredths of a second
		n, err := strconv.ParseFloat(f, 64)
		check(r.b, err)
		ticks += n
	}
	return time.Duration(ticks * float64(10*time.Millisecond))
}

// BenchmarkGitClone is a full clone of a large repository.
func BenchmarkGitClone(b *testing.B) {
	r := newGitRig(b)
	r.compare(func(way string) time.Duration {
		dir := filepath.Join(b.TempDir(), "c.git")
		defer os.RemoveAll(dir)
		return r.clone(way, dir)
	})
}

// BenchmarkGitFetchNothing asks for what is new when nothing is. Over git daemon nobody asks upstream; ssh is what the gate stands for.
func BenchmarkGitFetchNothing(b *testing.B) {
	r := newGitRig(b)
	copies := r.copies()
	r.compare(func(way string) time.Duration {
		return r.git("-C", copies[way], "fetch", "-q", r.url[way], "+refs/heads/*:refs/heads/*")
	})
}

// BenchmarkGitFetchOne fetches one new commit.
func BenchmarkGitFetchOne(b *testing.B) {
	r := newGitRig(b)
	copies := r.copies()
	n := 0
	r.compare(func(way string) time.Duration {
		if way == gitWays[0] {
			n++
			r.push(n)
		}
		return r.git("-C", copies[way], "fetch", "-q", r.url[way], "+refs/heads/*:refs/heads/*")
	})
}

func (r *gitRig) copies() map[string]string {
	copies := map[string]string{}
	for _, way := range gitWays {
		copies[way] = filepath.Join(r.b.TempDir(), "c.git")
		r.clone(way, copies[way])
	}
	return copies
}

// push gives upstream one commit more, in a pack as a server keeps it.
func (r *gitRig) push(n int) {
	r.b.Helper()
	stream := fmt.Sprintf("commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 3\none\nfrom refs/heads/main^0\nM 100644 inline fmt/new%d.go\ndata 12\npackage fmt\n\n", 1_700_000_000+n, n)
	cmd := exec.Command("git", "-C", filepath.Join(r.dir, "app.git"), "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.b.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

// TestMain removes what is shared.
func TestMain(m *testing.M) {
	code := m.Run()
	if bigDir != "" {
		os.RemoveAll(bigDir)
	}
	os.Exit(code)
}
