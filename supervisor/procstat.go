package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// usage is the resource usage of a process.
type usage struct {
	cpu      float64 // seconds, user and system
	threads  float64
	started  float64 // seconds since 1970
	virtual  float64 // bytes
	resident float64 // bytes
}

// userHZ is USER_HZ, which is 100 on every Linux.
const userHZ = 100

// usageOf reads /proc/PID/stat (proc_pid_stat(5)).
func usageOf(pid int) (usage, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return usage{}, err
	}
	// The command name is in parentheses and may contain any byte, ")" too.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat has an unknown form", pid)
	}
	n := func(field int) float64 { // numbered as in the manual
		v, _ := strconv.ParseFloat(fields[field-3], 64) // the kernel writes numbers
		return v
	}
	return usage{
		cpu: (n(14) + n(15)) / userHZ, threads: n(20), started: bootTime() + n(22)/userHZ,
		virtual: n(23), resident: n(24) * float64(os.Getpagesize()),
	}, nil
}

// bootTime returns when the machine started, in seconds since 1970; 0: unknown.
var bootTime = sync.OnceValue(func() float64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "\nbtime ")
	line, _, _ := strings.Cut(rest, "\n")
	seconds, _ := strconv.ParseFloat(line, 64) // 0 on an error
	return seconds
})

// rss returns the resident memory of a process in bytes; 0: unknown.
func rss(pid int) int64 {
	u, err := usageOf(pid)
	if err != nil {
		return 0
	}
	return int64(u.resident)
}
