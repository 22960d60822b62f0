package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroups makes a memory cgroup for each process, in a folder inside the supervisor's own cgroup. A
// nil *cgroups makes none: the supervisor may not.
type cgroups struct {
	dir         string // holds the cgroups of the processes
	lock        *os.File
	v2          bool
	parent      string // v2: the original cgroup of the supervisor, which is now in leaf
	leaf        string
	undoControl string // removes the controller from parent
}

const groupPrefix = "airlock-"

// openGroups returns nil, and changes nothing, if the supervisor may not make memory cgroups.
func openGroups() *cgroups {
	table, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	own, v2 := memoryGroup(string(table), string(mounts))
	if own == "" {
		return nil
	}
	return openGroupsIn(own, v2, "memory")
}

func openGroupsIn(own string, v2 bool, controller string) *cgroups {
	sweep(own)
	g := &cgroups{dir: filepath.Join(own, groupPrefix+strconv.Itoa(os.Getpid())), v2: v2}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil
	}
	var err error
	if g.lock, err = os.Open(g.dir); err == nil {
		err = unix.Flock(int(g.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil && v2 {
		err = g.delegate(own, controller)
	}
	if err != nil {
		g.close()
		return nil
	}
	return g
}

// memoryGroup returns the folder of this process's cgroup, from the contents of /proc/self/cgroup and
// /proc/self/mountinfo; empty if no memory controller is mounted.
func memoryGroup(table, mounts string) (dir string, v2 bool) {
	paths := map[string]string{} // by controller: "memory", and "" for version 2
	for line := range strings.Lines(table) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			for controller := range strings.SplitSeq(f[1], ",") {
				paths[controller] = f[2]
			}
		}
	}
	for line := range strings.Lines(mounts) {
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, kind := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 5 || len(kind) < 3 {
			continue
		}
		first := kind[0] == "cgroup" && slices.Contains(strings.Split(kind[2], ","), "memory")
		if !first && kind[0] != "cgroup2" {
			continue
		}
		controller := ""
		if first {
			controller = "memory"
		}
		path, has := paths[controller]
		inside, err := filepath.Rel(f[3], path)
		if !has || err != nil || strings.HasPrefix(inside, "..") {
			continue
		}
		found := filepath.Join(f[4], inside)
		if first {
			return found, false
		}
		if list, err := os.ReadFile(filepath.Join(found, "cgroup.controllers")); err == nil && slices.Contains(strings.Fields(string(list)), "memory") {
			dir, v2 = found, true
		}
	}
	return dir, v2
}

// delegate enables the controller for g.dir and the groups in it. In version 2, only a cgroup without
// processes of its own can do that: if the supervisor is alone in its cgroup, it moves into a leaf,
// and else delegate fails.
func (g *cgroups) delegate(own, controller string) error {
	enabled, err := os.ReadFile(filepath.Join(own, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(string(enabled)), controller) {
		members, err := os.ReadFile(filepath.Join(own, "cgroup.procs"))
		if err != nil || strings.TrimSpace(string(members)) != strconv.Itoa(os.Getpid()) {
			return errors.Join(err, errors.New("others are in this cgroup"))
		}
		g.parent, g.leaf, g.undoControl = own, g.dir+"-self", "-"+controller
		if err := os.Mkdir(g.leaf, 0o755); err != nil {
			return err
		}
		if err := writeControl(g.leaf, "cgroup.procs", "0"); err != nil {
			return err
		}
		if err := writeControl(own, "cgroup.subtree_control", "+"+controller); err != nil {
			return err
		}
	}
	return writeControl(g.dir, "cgroup.subtree_control", "+"+controller)
}

// sweep removes the folders of supervisors that were killed: no process holds their locks.
func sweep(own string) {
	left, _ := filepath.Glob(filepath.Join(own, groupPrefix+"*")) // the pattern is well formed
	for _, dir := range left {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeTree(dir)
		}
		f.Close()
	}
}

// removeTree removes a folder and those in it. A cgroup that still has processes stays, and so do
// those above it.
func removeTree(dir string) {
	inside, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, f := range inside {
		_ = unix.Rmdir(filepath.Dir(f)) // the sweep of a later supervisor tries again
	}
	_ = unix.Rmdir(dir)
}

// close removes the cgroups and undoes delegate.
func (g *cgroups) close() {
	if g == nil {
		return
	}
	removeTree(g.dir)
	if g.leaf != "" {
		// In the reverse order of delegate.
		_ = writeControl(g.parent, "cgroup.subtree_control", g.undoControl)
		_ = writeControl(g.parent, "cgroup.procs", "0")
		_ = unix.Rmdir(g.leaf)
	}
	if g.lock != nil {
		g.lock.Close()
	}
}

// cgroup is the cgroup of one process.
type cgroup struct {
	dir string
	v2  bool
}

// make puts a process into a cgroup of its own with that limit. It returns nil if that fails.
func (g *cgroups) make(name string, limit int64, pid int) *cgroup {
	if g == nil {
		return nil
	}
	one := &cgroup{filepath.Join(g.dir, name), g.v2}
	if err := os.Mkdir(one.dir, 0o755); err != nil {
		return nil
	}
	file, noSwap := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	swap := strconv.FormatInt(limit, 10)
	if g.v2 {
		file, noSwap, swap = "memory.max", "memory.swap.max", "0"
	}
	err := writeControl(one.dir, file, strconv.FormatInt(limit, 10))
	_ = writeControl(one.dir, noSwap, swap) // fails where swap is not counted
	if err == nil {
		err = writeControl(one.dir, "cgroup.procs", strconv.Itoa(pid))
	}
	if err != nil {
		one.remove()
		return nil
	}
	return one
}

// oomKilled reports whether the kernel has killed a process of the cgroup for lack of memory.
func (g *cgroup) oomKilled() bool {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(data) {
		var n int
		if _, err := fmt.Sscanf(string(line), "oom_kill %d", &n); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// remove removes the cgroup. It stays until close if a process in it is still exiting.
func (g *cgroup) remove() { _ = unix.Rmdir(g.dir) }

func writeControl(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
}
