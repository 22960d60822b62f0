package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity names a process for good: its number alone may be another's by
// now. The zero identity is nobody.
type identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks between boot and its start
	Boot  string `json:"boot"`  // of the machine
}

func identify(pid int) (identity, error) {
	start, _, err := readStat(pid)
	if err != nil {
		return identity{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	boot, err := bootID()
	return identity{pid, start, boot}, err
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("identifying this boot: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// readStat returns the start time and the state of a process. The name in the
// middle may hold blanks and parentheses: what follows the last one counts.
func readStat(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, errors.New("its stat line is too short")
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

// open returns a descriptor of the process, or ok = false when it is gone.
func (i identity) open() (fd int, ok bool) {
	boot, err := bootID()
	if i.PID <= 0 || err != nil || boot != i.Boot {
		return -1, false
	}
	fd, err = unix.PidfdOpen(i.PID, 0)
	if err != nil {
		return -1, false
	}
	// The descriptor holds on to whatever has that number now: only then it
	// makes sense to look whether it is the one that we mean.
	start, state, err := readStat(i.PID)
	if err != nil || start != i.Start || state == 'Z' || state == 'X' {
		unix.Close(fd)
		return -1, false
	}
	return fd, true
}

func (i identity) alive() bool {
	fd, ok := i.open()
	if ok {
		unix.Close(fd)
	}
	return ok
}

// end sends the signal, waits for the process to go, and kills it when it
// does not within the time. A process that is gone already is fine.
func (i identity) end(ctx context.Context, sig unix.Signal, within time.Duration) error {
	fd, ok := i.open()
	if !ok {
		return nil
	}
	defer unix.Close(fd)
	for _, s := range []unix.Signal{sig, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("ending process %d: %w", i.PID, err)
		}
		if gone(ctx, fd, within) {
			return nil
		}
	}
	return fmt.Errorf("process %d does not end", i.PID)
}

// gone waits until the process has ended, in short turns so that ctx counts.
func gone(ctx context.Context, fd int, within time.Duration) bool {
	deadline := time.Now().Add(within)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if n > 0 {
			return true
		}
		if (err != nil && !errors.Is(err, unix.EINTR)) || time.Now().After(deadline) || ctx.Err() != nil {
			return false
		}
	}
}
