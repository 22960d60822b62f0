package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PSS is the memory of a process in bytes, with pages that several share
// counted in parts (proc_pid_smaps_rollup(5)): all daemons are one binary.
func PSS(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "Pss:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in the memory map of %d", pid)
}

// Wakeups is how often the threads of processes have given up the processor by
// themselves: what a timer or a poll costs an idle machine.
func Wakeups(pids ...int) (n int) {
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)) // the pattern is good
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				continue // the thread is gone
			}
			for line := range strings.Lines(string(data)) {
				if text, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
					k, _ := strconv.Atoi(strings.TrimSpace(text)) // 0 for what is no number
					n += k
				}
			}
		}
	}
	return n
}

// Children are the pids of a process's children, dead or alive.
func Children(pid int) (all []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is good
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread is gone
		}
		for _, text := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(text); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}
