package secretmem

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"airlock/internal/lab"
)

const secret = "a-credential-of-this-test"

// roles are what the test binary is when it is started under that name.
var roles = map[string]func(){
	"child": func() {
		slots, err := Slots()
		fmt.Println(slots("TOKEN_0"), slots("TOKEN_1"), slots("OWN"), err)
	},
	"taker": func() {
		taken, err := TakeEnv(func(name string) bool { return strings.HasPrefix(name, "TOKEN_") })
		same := taken["TOKEN_0"] == secret
		held, newErr := New(taken)
		for _, v := range taken {
			Wipe(v)
		}
		fmt.Println(same && len(taken) == 2, held.Get("TOKEN_1"), os.Getenv("OWN"), os.Getenv("TOKEN_0") == "", errors.Join(err, newErr, held.Weak()))
		_, _ = io.Copy(io.Discard, os.Stdin)
	},
}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Args[0]]; ok {
		role()
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	os.Exit(m.Run())
}

func TestStore(t *testing.T) {
	in := map[string]string{"A": secret, "B": "", "C": strings.Repeat("x", 100_000), "D": "nul\x00 and\nline"}
	s, err := New(in)
	if err != nil || s.Weak() != nil {
		t.Fatalf("%v, %v", err, s.Weak())
	}
	for name, value := range in {
		if s.Get(name) != value || string(s.Bytes(name)) != value {
			t.Errorf("%s came back as %q", name, s.Get(name))
		}
	}
	if got := len(s.All()); got != len(in) || s.Get("E") != "" {
		t.Errorf("%d values", got)
	}
	if none, err := (&Store{}).Share(func(string) bool { return true }); none != nil || err != nil {
		t.Errorf("an empty store shares %v, %v", none, err)
	}
	if _, err := New(map[string]string{"A": strings.Repeat("x", maxSize)}); err == nil {
		t.Error("too much was kept")
	}
}

func TestEachChildGetsItsOwn(t *testing.T) {
	s, err := New(map[string]string{"TOKEN_0": secret, "TOKEN_1": "another"})
	check(t, err)
	f, err := s.Share(func(name string) bool { return name == "TOKEN_0" })
	check(t, err)
	defer f.Close()
	_, out := startRole(t, "child", []string{Variable + "=3", "OWN=from the environment"}, f)
	line, err := bufio.NewReader(out).ReadString('\n')
	if want := secret + "  from the environment <nil>\n"; line != want {
		t.Errorf("the child says %q, %v; want %q", line, err, want)
	}
}

// TestOlderKernels is what happens without memfd_secret.
func TestOlderKernels(t *testing.T) {
	f, err := fillSealed(map[string]string{"A": secret}, 100)
	check(t, err)
	defer f.Close()
	s, err := open(f)
	if err != nil || s.Weak() != nil || s.Get("A") != secret {
		t.Errorf("%v, %v", err, s.Weak())
	}
	if _, err := f.WriteAt([]byte("x"), 8); !errors.Is(err, unix.EPERM) {
		t.Errorf("it can be changed: %v", err)
	}
	// Without the right to lock, it says so and goes on.
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old))
	if os.Geteuid() == 0 {
		return // the limit is not for root
	}
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: old.Max}))
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	if s, err = open(f); err != nil || s.Weak() == nil || s.Get("A") != secret {
		t.Errorf("%v, %v", err, s.Weak())
	}
}

func TestCutFiles(t *testing.T) {
	whole := []byte("\x01\x00\x00\x00A\x02\x00\x00\x00xy\x00\x00\x00\x00")
	s := &Store{values: map[string]string{}}
	if err := s.parse(bytes.Clone(whole)); err != nil || s.Get("A") != "xy" {
		t.Errorf("%v, %q", err, s.Get("A"))
	}
	for n := range len(whole) - 1 {
		s := &Store{values: map[string]string{}}
		if err := s.parse(bytes.Clone(whole[:n])); err == nil {
			t.Errorf("%d bytes were taken for %v", n, slices.Collect(maps.Keys(s.values)))
		}
	}
}

// TestNothingIsLeftInTheProcess looks for the value where the kernel shows the
// environment, and in all memory of the process.
func TestNothingIsLeftInTheProcess(t *testing.T) {
	pid, out := startRole(t, "taker", []string{"TOKEN_0=" + secret, "TOKEN_1=another", "OWN=kept"})
	line, err := bufio.NewReader(out).ReadString('\n')
	if want := "true another kept true <nil>\n"; line != want {
		t.Fatalf("the process says %q, %v; want %q", line, err, want)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	check(t, err)
	if !bytes.Contains(env, []byte("OWN=kept")) || !bytes.Contains(env, []byte("TOKEN_0=\x00")) || bytes.Contains(env, []byte(secret)) || bytes.Contains(env, []byte("another")) {
		t.Errorf("its environment is %q", env)
	}
	if race {
		return // its runtime keeps a copy of the environment
	}
	places, err := lab.InMemory(pid, secret[1:])
	check(t, err)
	for _, place := range places {
		if !strings.Contains(place, ".test") { // this binary's own constant
			t.Errorf("the value is in its memory: %s", place)
		}
	}
}

func startRole(t *testing.T, role string, env []string, files ...*os.File) (pid int, out *os.File) {
	t.Helper()
	in, stop, err := os.Pipe()
	check(t, err)
	out, theirs, err := os.Pipe()
	check(t, err)
	all := []*os.File{in, theirs, os.Stderr}
	p, err := os.StartProcess("/proc/self/exe", []string{role}, &os.ProcAttr{Env: append(env, "GORACE=atexit_sleep_ms=0"), Files: append(all, files...), Sys: &syscall.SysProcAttr{}})
	check(t, err)
	in.Close()
	theirs.Close()
	t.Cleanup(func() {
		stop.Close()
		_, _ = p.Wait()
		out.Close()
	})
	return p.Pid, out
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
