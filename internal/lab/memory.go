package lab

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// InMemory lists the mappings of a process, as lines of /proc/PID/maps, that
// can be read and hold the text. Those of more than 64 MiB are left out.
func InMemory(pid int, text string) (found []string, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("looking into a process: %w", err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("looking into a process: %w", err)
	}
	defer mem.Close()
	read := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || to-from > 64<<20 {
			continue
		}
		buf := make([]byte, to-from)
		n, _ := mem.ReadAt(buf, from) // some cannot be read
		read += n
		if bytes.Contains(buf[:n], []byte(text)) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	if read < 1<<20 {
		return nil, fmt.Errorf("only %d bytes of process %d could be read", read, pid)
	}
	return found, nil
}
