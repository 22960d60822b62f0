package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/secrets"
)

const (
	// indexApplet makes the test binary a process of its own that indexes one pack, so that its memory can be told.
	indexApplet = "AIRLOCK_BENCH_INDEX"
	// usageApplet makes it one that runs its arguments and prints what they took: what a process had before it executes another program counts as that
	// one's (getrusage(2), ru_maxrss), and the benchmark itself has much.
	usageApplet = "AIRLOCK_BENCH_USAGE"
)

func init() {
	if os.Getenv(usageApplet) != "" {
		os.Unsetenv(usageApplet)
		cmd := exec.Command(os.Args[1], os.Args[2:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stderr, os.Stderr
		began := time.Now()
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		ru := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		fmt.Println(time.Since(began).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds(), float64(ru.Maxrss)/1024)
		os.Exit(0)
	}
	pack := os.Getenv(indexApplet)
	if pack == "" {
		return
	}
	f, err := os.Open(pack)
	if err == nil {
		_, err = objects.Receive(noContext{}, f, os.Getenv("AIRLOCK_BENCH_DIR"), objects.Limits{PackBytes: 1 << 35, ObjectBytes: 1 << 29, TotalBytes: 1 << 39, Objects: 1 << 26})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// noContext never ends.
type noContext struct{}

func (noContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (noContext) Done() <-chan struct{}       { return nil }
func (noContext) Err() error                  { return nil }
func (noContext) Value(any) any               { return nil }

// usage is what a process took: on the clock, of processors, and at most of memory, in MB.
type usage struct{ wall, cpu, memory float64 }

func used(b *testing.B, cmd *exec.Cmd) (u usage) {
	b.Helper()
	runner := exec.Command(os.Args[0], append([]string{cmd.Path}, cmd.Args[1:]...)...)
	runner.Env = append(cmd.Environ(), usageApplet+"=1")
	runner.Stdin = cmd.Stdin
	var trouble bytes.Buffer
	runner.Stderr = &trouble
	out, err := runner.Output()
	if err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, &trouble)
	}
	_, err = fmt.Sscan(string(out), &u.wall, &u.cpu, &u.memory)
	check(b, err)
	return u
}

// BenchmarkGitIndex indexes a large pack as it comes, beside git index-pack, which checks it as a gate would (--strict) or only makes the index.
// Another pack can be named by AIRLOCK_BENCH_PACK.
func BenchmarkGitIndex(b *testing.B) {
	pack := os.Getenv("AIRLOCK_BENCH_PACK")
	if pack == "" {
		dir, err := bigRepo()
		check(b, err)
		packs, err := filepath.Glob(filepath.Join(dir, "big.git/objects/pack/*.pack"))
		check(b, err)
		pack = packs[0]
	}
	all := map[string][]usage{}
	for b.Loop() {
		for _, way := range []string{"ours", "git", "git-strict"} {
			dir := b.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), indexApplet+"="+pack, "AIRLOCK_BENCH_DIR="+dir)
			if way != "ours" {
				check(b, exec.Command("git", "init", "-q", "--bare", dir).Run())
				in, err := os.Open(pack)
				check(b, err)
				cmd = exec.Command("git", "-C", dir, "index-pack", "--stdin")
				if way == "git-strict" {
					cmd.Args = append(cmd.Args, "--strict")
				}
				cmd.Stdin = in
			}
			all[way] = append(all[way], used(b, cmd))
			check(b, os.RemoveAll(dir))
		}
	}
	report := func(what string, of func(usage) float64) {
		for way, list := range all {
			slices.SortFunc(list, func(x, y usage) int { return int(1e6 * (of(x) - of(y))) })
			b.ReportMetric(of(list[len(list)/2]), way+"-"+what)
		}
	}
	report("s", func(u usage) float64 { return u.wall })
	report("cpu-s", func(u usage) float64 { return u.cpu })
	report("MB", func(u usage) float64 { return u.memory })
	b.ReportMetric(0, "ns/op")
}

// BenchmarkGitPushOne pushes one commit: straight to upstream over ssh, through the gate, which scans it and forwards it over ssh, and to git daemon with
// a hook that has gitleaks scan it.
func BenchmarkGitPushOne(b *testing.B) {
	r := newGitRig(b)
	r.hooked()
	work := filepath.Join(b.TempDir(), "w.git")
	r.clone(bySSH, work)
	took := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		for _, way := range pushWays {
			n++
			r.commitTo(work, n)
			took[way] = append(took[way], r.git("-C", work, "push", "-q", r.url[way], fmt.Sprintf("main:refs/heads/b%d", n)))
		}
	}
	for way, all := range took {
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds()*1000, way+"-ms")
	}
	b.ReportMetric((took[byGate][len(took[byGate])/2]-took[bySSH][len(took[bySSH])/2]).Seconds()*1000, "ms-more")
	b.ReportMetric(r.peak(), "gate-peak-MB")
	b.ReportMetric(0, "ns/op")
}

// commitTo makes a commit on main.
func (r *gitRig) commitTo(repo string, n int) {
	r.b.Helper()
	text := fmt.Sprintf("package fmt\n\n// number %d\nvar X%d = %q\n", n, n, strings.Repeat("text ", n%50))
	stream := fmt.Sprintf("commit refs/heads/main\ncommitter A <a@example.com> %d +0000\ndata 3\none\nfrom refs/heads/main^0\nM 100644 inline fmt/new%d.go\ndata %d\n%s\n", 1_700_000_000+n, n, len(text), text)
	cmd := exec.Command("git", "-C", repo, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.b.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

// peak is the most that the gate has had in memory, in MB.
func (r *gitRig) peak() float64 {
	r.b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.gate.Process.Pid))
	check(r.b, err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	check(r.b, err)
	return kb / 1024
}

// pushWays are the ways of a push.
var pushWays = []string{bySSH, byGate, byHook}

// BenchmarkGitPushFirst pushes 100 MB of source that upstream has nothing of, in one commit, and then the same once more through the gate, to another
// branch.
func BenchmarkGitPushFirst(b *testing.B) {
	r := newGitRig(b)
	r.hooked()
	for b.Loop() {
		work := b.TempDir()
		r.git("init", "-q", "-b", "main", work)
		size, err := copySources(work, 100<<20)
		check(b, err)
		r.git("-C", work, "add", "-A")
		r.git("-C", work, "commit", "-q", "-m", "all")
		for _, way := range pushWays {
			b.ReportMetric(r.git("-C", work, "push", "-q", r.url[way], "main:refs/heads/first").Seconds(), way+"-s")
			r.git("-C", work, "push", "-q", r.url[way], ":refs/heads/first")
		}
		b.ReportMetric(r.git("-C", work, "push", "-q", r.url[byGate], "main:refs/heads/again").Seconds(), "git-gate-again-s")
		r.git("-C", work, "push", "-q", r.url[byGate], ":refs/heads/again")
		b.ReportMetric(float64(size)/1e6, "MB")
	}
	b.ReportMetric(r.peak(), "gate-peak-MB")
	b.ReportMetric(0, "ns/op")
}

// copySources copies Go's own sources, without those in which the scan sees a secret, again under other names until there is enough; each copy
// differs in its first line.
func copySources(into string, enough int64) (size int64, err error) {
	where, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return 0, err
	}
	root := strings.TrimSpace(string(where))
	scanner, err := secrets.New(secrets.Options{})
	if err != nil {
		return 0, err
	}
	alarms := map[string]bool{}
	for n := 0; size < enough; n++ {
		err := filepath.WalkDir(filepath.Join(root, "src"), func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !strings.HasSuffix(path, ".go") || size >= enough {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil || len(text) > 500_000 {
				return err
			}
			name, _ := filepath.Rel(root, path)
			if n == 0 {
				found, err := scanner.ScanFile(noContext{}, name, text)
				alarms[name] = err != nil || len(found) > 0
			}
			if alarms[name] {
				return nil
			}
			to := filepath.Join(into, strconv.Itoa(n), name)
			text = append(fmt.Appendf(nil, "// copy %d of %s\n", n, name), text...)
			size += int64(len(text))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, text, 0o644)
		})
		if err != nil {
			return size, err
		}
	}
	return size, nil
}
