package supervisor

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"airlock/internal/bundle"
)

func TestMemoryLimits(t *testing.T) {
	want := maps.Clone(memoryDefaults)
	if got, err := parseMemoryLimits(""); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	want[bundle.Egress], want[bundle.GitGate] = 256<<20, 2<<30
	if got, err := parseMemoryLimits("egress=256MiB, git-gate=2GiB"); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"egress", "egress=", "egress=many", "egress=-1", "egress=1MiB", "egres=1GiB", "egress=1GiB,", "egress=1GiB,egress=1GiB", "512MiB"} {
		if _, err := parseMemoryLimits(bad); err == nil || !strings.HasPrefix(err.Error(), "SIDECAR_MEMORY: ") || (!strings.Contains(err.Error(), "expected") && !strings.Contains(err.Error(), "was wanted")) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRuntimeMessagesOfOOM(t *testing.T) {
	for text, want := range map[string]bool{
		"fatal error: runtime: out of memory\n": true, "fatal error: runtime: cannot allocate memory\n\nruntime stack:\n": true,
		"level=ERROR msg=\"out of memory\"\n": false, "": false,
	} {
		l := &oomDetector{}
		for _, b := range []byte(text) { // as small as writes can be
			_, _ = l.Write([]byte{b})
		}
		if l.found != want {
			t.Errorf("%q: %v", text, l.found)
		}
	}
}

func TestMemoryGroup(t *testing.T) {
	second := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(second, "user", "app"), 0o700))
	must(os.WriteFile(filepath.Join(second, "user", "app", "cgroup.controllers"), []byte("cpu memory pids\n"), 0o600))
	for _, c := range []struct {
		what, table, mounts, dir string
		v2                       bool
	}{
		{"the first version", "5:pids:/\n4:cpu,memory:/a/b\n0::/\n", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory\n", "/sys/fs/cgroup/memory/a/b", false},
		{"a container without a namespace", "4:memory:/docker/x\n", "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro shared:1 - cgroup cgroup rw,memory\n", "/sys/fs/cgroup/memory", false},
		{"a mount of another group", "4:memory:/docker/x\n", "35 31 0:32 /docker/y /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n", "", false},
		{"the second version", "0::/user/app\n", "35 31 0:32 / " + second + " rw - cgroup2 cgroup rw\n", second + "/user/app", true},
		{"without the controller", "0::/user\n", "35 31 0:32 / " + second + " rw - cgroup2 cgroup rw\n", "", false},
		{"none", "", "22 1 0:1 / / rw - ext4 /dev/vda rw\n", "", false},
	} {
		if dir, v2 := memoryGroup(c.table, c.mounts); dir != c.dir || v2 != c.v2 {
			t.Errorf("%s: %q, %v", c.what, dir, v2)
		}
	}
}

// TestAbandonedCgroupsAreRemoved leaves a folder, as a killed supervisor does.
func TestAbandonedCgroupsAreRemoved(t *testing.T) {
	left := openGroups()
	if left == nil {
		t.Skip("no cgroups can be made here")
	}
	dir, one := left.dir, left.make("egress-1", 64<<20, os.Getpid())
	if one == nil {
		t.Fatal("no group was made")
	}
	defer left.close()
	sweep(filepath.Dir(dir))
	if _, err := os.Stat(one.dir); err != nil {
		t.Errorf("a folder that is in use was swept: %v", err)
	}
	if err := writeControl(filepath.Dir(dir), "cgroup.procs", "0"); err != nil {
		t.Fatal(err)
	}
	left.lock.Close()
	sweep(filepath.Dir(dir))
	if _, err := os.Stat(dir); err == nil {
		t.Error("a folder that nobody uses was not swept")
	}
}

func init() {
	roles["delegates"] = func() {
		own := os.Getenv("OWN")
		g := openGroupsIn(own, true, "hugetlb")
		in := func(dir string) string {
			procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			return fmt.Sprint(strings.TrimSpace(string(procs)) == strconv.Itoa(os.Getpid()), err)
		}
		if g == nil {
			fmt.Println("no groups")
			return
		}
		controllers, err := os.ReadFile(filepath.Join(g.dir, "cgroup.subtree_control"))
		fmt.Println(in(g.leaf), strings.TrimSpace(string(controllers)), err)
		g.close()
		left, err := filepath.Glob(own + "/airlock-*")
		fmt.Println(in(own), left, err)
	}
}

// TestDelegationInCgroupV2 is what happens in the second version, where only groups
// without processes hand controllers on. Memory may belong to the first
// version here, so it is done with another controller.
func TestDelegationInCgroupV2(t *testing.T) {
	own := ""
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		list, err := os.ReadFile(mount + "/cgroup.controllers")
		if err == nil && strings.Contains(string(list), "hugetlb") {
			own = fmt.Sprintf("%s/airlock-test-%d", mount, os.Getpid())
		}
	}
	if own == "" || os.Mkdir(own, 0o755) != nil {
		t.Skip("no group of the second version can be made here")
	}
	defer os.Remove(own)
	if before, err := os.ReadFile(filepath.Join(filepath.Dir(own), "cgroup.subtree_control")); err == nil && !strings.Contains(string(before), "hugetlb") {
		defer writeControl(filepath.Dir(own), "cgroup.subtree_control", "-hugetlb")
	}
	if writeControl(filepath.Dir(own), "cgroup.subtree_control", "+hugetlb") != nil {
		t.Skip("the group above hands nothing on")
	}
	dir, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"delegates"}
	cmd.Env = append(os.Environ(), "OWN="+own)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	if want := "true <nil> hugetlb <nil>\ntrue <nil> [] <nil>\n"; err != nil || string(out) != want {
		t.Errorf("%s%v, want %s", out, err, want)
	}
}
