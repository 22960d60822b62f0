package supervisor

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"airlock/internal/bundle"
	"airlock/internal/confine"
)

func init() {
	roles["tries"] = runAttempts
	roles["ends"] = func() {}
	roles["sits"] = func() { fmt.Println("sits"); _, _ = io.Copy(io.Discard, os.Stdin) }
}

// target is what the attempts are made against.
type target struct {
	Dirs    bundle.Dirs
	TCP     string // addresses of listening sockets
	UDP     string
	Unix    string
	Sibling int // pid of a process under the profile of another daemon
	Parent  int // pid of who started both
}

// attempts are what a compromised daemon could try.
func (g target) attempts() map[string]func() error {
	try := map[string]func() error{
		"create in /etc/airlock": func() error { return writeFile(filepath.Join(g.Dirs.Etc, "new.yaml")) },
		"remove configuration":   func() error { return unix.Unlink(filepath.Join(g.Dirs.Etc, "spare.yaml")) },
		"create in git":          func() error { return writeFile(filepath.Join(g.Dirs.State, "git", "new")) },
		"create in proposals":    func() error { return writeFile(filepath.Join(g.Dirs.State, "proposals", "new")) },
		"create in /tmp":         func() error { return writeFile(filepath.Join(filepath.Dir(g.Dirs.Etc), "new")) },
		"read the host's files":  func() error { return readFile("/etc/passwd") },
		"list /etc/airlock":      func() error { _, err := os.ReadDir(g.Dirs.Etc); return err },
		"link configuration": func() error {
			return unix.Link(filepath.Join(g.Dirs.Etc, "ca", "ca.key"), filepath.Join(g.Dirs.State, "git", "stolen"))
		},
		"dial tcp":          func() error { return dial("tcp", g.TCP) },
		"dial udp":          func() error { return dial("udp", g.UDP) },
		"dial unix":         func() error { return dial("unix", g.Unix) },
		"dial abstract":     func() error { return dial("unix", "@airlock-isolation-test") },
		"listen":            func() error { return closing(net.Listen("tcp", "127.0.0.1:0")) },
		"netlink route":     func() error { return makeSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) },
		"netlink audit":     func() error { return makeSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT) },
		"packet socket":     func() error { return makeSocket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
		"vsock":             func() error { return makeSocket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
		"trace a sibling":   func() error { return rawCall(unix.SYS_PTRACE, ptraceSeize, uintptr(g.Sibling)) },
		"sibling's mem":     func() error { return readFile(fmt.Sprintf("/proc/%d/mem", g.Sibling)) },
		"sibling's environ": func() error { return readFile(fmt.Sprintf("/proc/%d/environ", g.Sibling)) },
		"sibling's files":   func() error { return readFile(fmt.Sprintf("/proc/%d/fd/0", g.Sibling)) },
		"parent's environ":  func() error { return readFile(fmt.Sprintf("/proc/%d/environ", g.Parent)) },
		"read its memory":   func() error { return readMemory(g.Sibling) },
		"kill a sibling":    func() error { return unix.Kill(g.Sibling, 0) },
		"tgkill a sibling":  func() error { return unix.Tgkill(g.Sibling, g.Sibling, 0) },
		"tgkill the parent": func() error { return unix.Tgkill(g.Parent, g.Parent, 0) },
		"limit a sibling": func() error {
			return unix.Prlimit(g.Sibling, unix.RLIMIT_CPU, &unix.Rlimit{Cur: 9999999, Max: 9999999}, nil)
		},
		"take its file": func() error { return rawCall(unix.SYS_PIDFD_OPEN, uintptr(g.Sibling)) },
		"exec another":  func() error { return exec.Command("/bin/true").Run() },
		"exec ourselves": func() error {
			c := exec.Command("/proc/self/exe")
			c.Args = []string{"sits"}
			return c.Run()
		},
		"exec from memory": func() error { return rawCall(unix.SYS_MEMFD_CREATE, pointer("x\x00"), 0) },
		"user namespace":   func() error { return inThread(func() error { return unix.Unshare(unix.CLONE_NEWUSER) }) },
		"mount":            func() error { return rawCall(unix.SYS_FSOPEN, pointer("tmpfs\x00"), 0) },
		"bpf":              func() error { return rawCall(unix.SYS_BPF, 0, 0, 0) },
		"io_uring":         func() error { return rawCall(unix.SYS_IO_URING_SETUP, 1, 0) },
		"keys":             func() error { return rawCall(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0) },
		"code in memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
			return err
		},
	}
	for _, f := range []string{"egress.yaml", "pipelock.yaml", "git-gate.yaml", "supervise.yaml", "ca/ca.key", "ca/roots.crt", "git/id"} {
		path := filepath.Join(g.Dirs.Etc, f)
		try["read "+f] = func() error { return readFile(path) }
		try["write "+f] = func() error { return writeFile(path) }
	}
	for _, name := range bundle.Daemons() {
		try["write the audit of "+name] = func() error { return writeFile(g.Dirs.Audit(name)) }
	}
	return try
}

// permitted lists the daemons whose attempt succeeds. All others must be refused.
var permitted = map[string]string{
	"read egress.yaml":             "egress",
	"read pipelock.yaml":           "pipelock",
	"read git-gate.yaml":           "git-gate",
	"read supervise.yaml":          "supervise",
	"read ca/ca.key":               "egress", // and pipelock, where an agent is its client
	"read ca/roots.crt":            "pipelock",
	"read git/id":                  "git-gate",
	"write the audit of egress":    "egress",
	"write the audit of pipelock":  "pipelock",
	"write the audit of git-gate":  "git-gate",
	"write the audit of supervise": "supervise",
	"create in git":                "git-gate",
	"create in proposals":          "supervise",
	"dial tcp":                     "pipelock git-gate",
	"dial udp":                     "pipelock git-gate",
	"dial unix":                    "egress",
	"exec ourselves":               "egress pipelock git-gate supervise", // under the same profile
}

func init() {
	if dynamic() {
		permitted["code in memory"] = "egress pipelock git-gate supervise" // the loader's
		permitted["netlink route"] = "pipelock git-gate"                   // the C library's resolver
	}
}

// refusals are the errors that count as a refusal; "no such file" does not.
var refusals = []error{unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOSYS, unix.EXDEV}

const ptraceSeize = 0x4206

func TestWhatEachDaemonMay(t *testing.T) {
	switch version := confine.LandlockVersion(); {
	case version == 0:
		t.Skip("without Landlock nothing keeps files apart")
	case version < 6: // it knows no signals and no abstract sockets
		permitted["dial abstract"] = "egress"
		permitted["tgkill a sibling"] = strings.Join(bundle.Daemons(), " ")
		permitted["tgkill the parent"] = strings.Join(bundle.Daemons(), " ")
	}
	g := newTarget(t)
	for _, name := range bundle.Daemons() {
		p := profile(name, g.Dirs)
		createPaths(name, p, g.Dirs)
	}
	sibling := startConfined(t, profile(bundle.Pipelock, g.Dirs), "sits", "")
	g.Sibling, g.Parent = sibling.pid, os.Getpid()
	other := startConfined(t, profile(bundle.Supervise, g.Dirs), "sits", "")
	for _, name := range bundle.Daemons() {
		if g.Sibling = sibling.pid; name == bundle.Pipelock {
			g.Sibling = other.pid
		}
		got := outcomes(t, g, startConfined(t, profile(name, g.Dirs), "tries", "TARGET="+jsonOf(t, g)))
		for attempt, answer := range got {
			want := strings.Contains(" "+permitted[attempt]+" ", " "+name+" ")
			if answer == "" != want || strings.HasPrefix(answer, "!") {
				t.Errorf("%s: %s: %q, want success: %v", name, attempt, answer, want)
			}
		}
	}
}

// TestAttemptsWorkUnconfined checks that the attempts succeed without a profile, so that a refusal in
// the table above is due to the profile.
func TestAttemptsWorkUnconfined(t *testing.T) {
	g := newTarget(t)
	for _, name := range bundle.Daemons() {
		createPaths(name, profile(name, g.Dirs), g.Dirs)
	}
	sibling := startUnconfined(t, "sits", "")
	g.Sibling, g.Parent = sibling.pid, os.Getpid()
	got := outcomes(t, g, startUnconfined(t, "tries", "TARGET="+jsonOf(t, g)))
	// These depend on the system and on who we are.
	excused := []string{"packet socket", "vsock", "mount", "bpf", "io_uring", "user namespace", "keys", "netlink audit", "trace a sibling", "sibling's mem",
		"read its memory", "sibling's environ", "sibling's files", "parent's environ"}
	for attempt, answer := range got {
		if answer != "" && !strings.Contains(" "+strings.Join(excused, ",")+",", attempt) {
			t.Errorf("%s: %s", attempt, answer)
		}
	}
	if os.Getuid() == 0 {
		for _, attempt := range []string{"trace a sibling", "sibling's mem", "sibling's environ", "read its memory"} {
			if got[attempt] != "" {
				t.Errorf("%s: %s", attempt, got[attempt])
			}
		}
	}
}

func newTarget(t *testing.T) target {
	t.Helper()
	dir, err := os.MkdirTemp("", "isolation") // short, for a socket's name
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := target{Dirs: bundle.Dirs{Etc: dir + "/etc", Run: dir + "/run", State: dir + "/state"}}
	for _, d := range []string{g.Dirs.Etc + "/ca", g.Dirs.Etc + "/git", g.Dirs.Run, g.Dirs.State} {
		must(t, os.MkdirAll(d, 0o700))
	}
	for name, content := range map[string]string{
		"egress.yaml": "version: 1\nca: {cert: /etc/airlock/ca/ca.crt, key: /etc/airlock/ca/ca.key}\nroutes: []\n", "pipelock.yaml": "version: 1\nupstream_ca: /etc/airlock/ca/roots.crt\nallow: []\n",
		"git-gate.yaml":  "version: 1\nrepos: {a: {url: 'ssh://git@git.test/a', identity: /etc/airlock/git/id}}\n",
		"supervise.yaml": "version: 1\n", "spare.yaml": "x", "ca/ca.crt": "x", "ca/ca.key": "x", "ca/roots.crt": "x", "git/id": "x",
	} {
		must(t, os.WriteFile(filepath.Join(g.Dirs.Etc, name), []byte(content), 0o600))
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { tcp.Close() })
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { udp.Close() })
	g.TCP, g.UDP, g.Unix = tcp.Addr().String(), udp.LocalAddr().String(), g.Dirs.Run+"/s"
	for _, name := range []string{g.Unix, "@airlock-isolation-test"} {
		l, err := net.Listen("unix", name)
		must(t, err)
		t.Cleanup(func() { l.Close() })
	}
	return g
}

// helper is a process in one of the roles of this test binary.
type helper struct {
	pid int
	out *os.File
}

// startConfined starts a role as the supervisor starts a daemon: from a thread that is restricted to
// the profile.
func startConfined(t *testing.T, p confine.Profile, role, env string) helper {
	t.Helper()
	return startRole(t, role, env, func() error {
		_, err := p.Apply()
		return err
	})
}

func startUnconfined(t *testing.T, role, env string) helper {
	return startRole(t, role, env, func() error { return nil })
}

func startRole(t *testing.T, role, env string, prepare func() error) helper {
	t.Helper()
	in, stop, err := os.Pipe()
	must(t, err)
	out, theirs, err := os.Pipe()
	must(t, err)
	var pid int
	err = inThread(func() error {
		if err := prepare(); err != nil {
			return err
		}
		pid, err = syscall.ForkExec("/proc/self/exe", []string{role}, &syscall.ProcAttr{
			Env: append(os.Environ(), env), Files: []uintptr{in.Fd(), theirs.Fd(), 2},
		})
		return err
	})
	must(t, err)
	in.Close()
	theirs.Close()
	t.Cleanup(func() {
		stop.Close()
		_, _ = io.Copy(io.Discard, out) // until it has ended
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	})
	return helper{pid, out}
}

// inThread runs f on a thread that ends with it, never the main one.
func inThread(f func() error) error {
	done := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			go run()
			done <- <-done
			return
		}
		done <- f()
	}
	go run()
	return <-done
}

func outcomes(t *testing.T, g target, h helper) map[string]string {
	t.Helper()
	var got map[string]string
	if err := json.NewDecoder(h.out).Decode(&got); err != nil {
		t.Fatalf("the helper said nothing: %v", err)
	}
	if len(got) != len(g.attempts()) || len(got) < 40 {
		t.Fatalf("%d attempts were made", len(got))
	}
	return got
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return string(data)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runAttempts is the daemon that was taken over. It prints the result of each
// attempt: nothing for success, and a "!" before an error that is no refusal.
func runAttempts() {
	var g target
	if err := json.Unmarshal([]byte(os.Getenv("TARGET")), &g); err != nil {
		panic(err)
	}
	got := map[string]string{}
	for name, attempt := range g.attempts() {
		got[name] = classifyRefusal(attempt())
	}
	_ = json.NewEncoder(os.Stdout).Encode(got)
}

func classifyRefusal(err error) string {
	if err == nil {
		return ""
	}
	for _, refusal := range refusals {
		if strings.Contains(err.Error(), refusal.Error()) {
			return err.Error()
		}
	}
	return "!" + err.Error()
}

func readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func writeFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func dial(network, address string) error { return closing(net.Dial(network, address)) }

func closing[C io.Closer](c C, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

func makeSocket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func rawCall(nr uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0, 0)
	return inThread(func() error {
		if _, _, e := unix.Syscall6(nr, args[0], args[1], args[2], args[3], 0, 0); e != 0 {
			return e
		}
		return nil
	})
}

func pointer(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

// readMemory reads a byte of the other process that is mapped in ours, too:
// of the binary.
func readMemory(pid int) error {
	var b [1]byte
	local := []unix.Iovec{{Base: &b[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: pointer("x"), Len: 1}}
	_, err := unix.ProcessVMReadv(pid, local, remote, 0)
	return err
}

// TestControlIsNotForDaemons tries from egress, which can make local sockets and has the uid that the
// control socket requires.
func TestControlIsNotForDaemons(t *testing.T) {
	h := startUnconfined(t, "sits", "")
	for pid, want := range map[int]bool{os.Getpid(): true, h.pid: true, os.Getppid(): false, 0: false, 1 << 22: true} {
		if got := isDescendant(int32(pid)); got != want {
			t.Errorf("process %d is ours: %v, want %v", pid, got, want)
		}
	}
}

func TestRestrictionsAreInherited(t *testing.T) {
	g := newTarget(t)
	h := startConfined(t, profile(bundle.Egress, g.Dirs), "sits", "")
	status := statusOf(t, h.pid)
	for field, want := range map[string]string{"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0000000000000000", "CapPrm": "0000000000000000"} {
		if status[field] != want {
			t.Errorf("%s: %s, want %s", field, status[field], want)
		}
	}
	if own := statusOf(t, os.Getpid()); own["Seccomp"] != "0" && own["NoNewPrivs"] != "0" {
		t.Errorf("the starter is restricted itself: %v", own)
	}
}

// BenchmarkStart starts a process and waits for it, with and without a profile.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	dirs := bundle.Dirs{Etc: dir, Run: dir, State: dir}
	start := func(b *testing.B, prepare func() error) {
		for b.Loop() {
			err := inThread(func() error {
				if err := prepare(); err != nil {
					return err
				}
				pid, err := syscall.ForkExec("/proc/self/exe", []string{"ends"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
				if err != nil {
					return err
				}
				_, err = syscall.Wait4(pid, nil, 0, nil)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("plain", func(b *testing.B) { start(b, func() error { return nil }) })
	for _, name := range bundle.Daemons() {
		b.Run(name, func(b *testing.B) {
			start(b, func() error { _, err := profile(name, dirs).Apply(); return err })
		})
	}
}

func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	must(t, err)
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}
