package secretmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"unsafe"
)

// TakeEnv removes the variables that it is asked about from the environment
// of this process and returns their values, copied: the caller puts them into
// a Store and wipes them. What the runtime keeps, and what the kernel shows in
// /proc/PID/environ, is overwritten; the error says why it is not. It is to be
// called once, at the start, before anything else looks at the environment.
func TakeEnv(mine func(name string) bool) (map[string]string, error) {
	taken := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if mine(name) {
			taken[name] = strings.Clone(value)
			os.Unsetenv(name)
			Wipe(value)
		}
	}
	if len(taken) == 0 {
		return taken, nil
	}
	if err := wipeBlock(mine); err != nil {
		return taken, fmt.Errorf("removing credentials from this process's environment block: %w", err)
	}
	return taken, nil
}

// Wipe overwrites a string where it lies. It must have been made while the
// program ran (a constant is a fault), and nobody may need it any more.
func Wipe(s string) {
	if len(s) < 2 {
		return // the runtime has a constant for each string of one byte
	}
	clear(unsafe.Slice(unsafe.StringData(s), len(s)))
}

// wipeBlock overwrites the values in the block that the kernel has put onto
// the stack of the first thread.
func wipeBlock(mine func(name string) bool) (err error) {
	block, err := environBlock()
	if err != nil {
		return err
	}
	// An address that is not what /proc says would be a fault: rather that than
	// to guess.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errors.New("its memory is not where /proc/self/stat says")
		}
	}()
	for entry := range bytes.SplitSeq(block, []byte{0}) {
		if name, value, ok := bytes.Cut(entry, []byte("=")); ok && mine(string(name)) {
			clear(value)
		}
	}
	return nil
}

// environBlock is the memory between env_start and env_end, fields 50 and 51
// of proc_pid_stat(5). /proc/self/environ and /proc/self/mem are closed to a
// process that is hidden, and to one in a Landlock domain.
func environBlock() ([]byte, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, err
	}
	// The name stands in parentheses and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 49 {
		return nil, errors.New("/proc/self/stat has an unknown form")
	}
	var start, end uintptr
	if _, err := fmt.Sscan(fields[47]+" "+fields[48], &start, &end); err != nil || start == 0 || end < start {
		return nil, errors.New("/proc/self/stat does not say where it is")
	}
	// The conversion that vet asks for is for memory of Go's.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&start)), end-start), nil
}
