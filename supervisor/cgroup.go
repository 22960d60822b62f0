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

// cgroups makes a memory cgroup for each process, where we may: in a folder of
// ours inside the cgroup that we are in. nil makes none.
type cgroups struct {
	dir         string // ours
	lock        *os.File
	v2          bool
	parent      string // v2: the cgroup that we were in, and are in a leaf of now
	leaf        string
	undoControl string // what takes the controller back
}

const groupPrefix = "airlock-"

// openGroups finds out whether we may make cgroups. Where not, it leaves
// everything as it was.
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

// memoryGroup is the folder of the cgroup that we are in, by what
// /proc/self/cgroup and /proc/self/mountinfo say; empty when no controller of
// memory is mounted.
func memoryGroup(table, mounts string) (dir string, v2 bool) {
	paths := map[string]string{} // "memory" and "", the second version
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

// delegate hands the controller on to our folder and to what will be in it.
// The second version lets only a group without processes of its own do that:
// when we are alone in ours, we go into a leaf of it, else there are no groups.
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

// sweep removes what supervisors that were killed have left: their folders are
// locked by nobody.
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

// removeTree removes a folder and those in it. One that still has processes
// stays, and so does what is above it.
func removeTree(dir string) {
	inside, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	for _, f := range inside {
		_ = unix.Rmdir(filepath.Dir(f)) // another supervisor's start tries again
	}
	_ = unix.Rmdir(dir)
}

// close gives everything back.
func (g *cgroups) close() {
	if g == nil {
		return
	}
	removeTree(g.dir)
	if g.leaf != "" {
		// In the order of delegate, backwards.
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

// make puts a process into a group of its own; nil when that fails.
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
	_ = writeControl(one.dir, noSwap, swap) // where swap is counted
	if err == nil {
		err = writeControl(one.dir, "cgroup.procs", strconv.Itoa(pid))
	}
	if err != nil {
		one.remove()
		return nil
	}
	return one
}

// oomKilled tells whether the kernel has killed something in the group.
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

// remove takes the group away. One in which something is still ending stays
// until close.
func (g *cgroup) remove() { _ = unix.Rmdir(g.dir) }

func writeControl(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0)
}
