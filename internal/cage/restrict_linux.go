package cage

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"airlock/internal/confine"
)

// restrict takes every privilege from the calling thread, which is to execute
// the init: the init, the agent, and all that they start inherit it. It
// returns the layers that the kernel lacks, or an error when one of them may
// not be missing.
func (s Spec) restrict() (missing []string, err error) {
	if err := s.setLimits(); err != nil {
		return nil, err
	}
	if err := confine.DropCapabilities(); err != nil {
		return nil, err
	}
	for _, layer := range []struct {
		name  string
		apply func() error
	}{{"landlock", files([]string{"/"}, writable).Apply}, {"seccomp", filter.Apply}} {
		err := layer.apply()
		switch {
		case errors.Is(err, errors.ErrUnsupported) && slices.Contains(s.Missing, layer.name):
			missing = append(missing, layer.name)
		case errors.Is(err, errors.ErrUnsupported):
			return nil, fmt.Errorf("this kernel has no %s, and the plan does not allow it to be missing", layer.name)
		case err != nil:
			return nil, fmt.Errorf("applying %s: %w", layer.name, err)
		}
	}
	return missing, nil
}

// setLimits bounds processes and threads, together. Memory it does not bound:
// RLIMIT_DATA and RLIMIT_AS count what is reserved, and sanitizers and virtual
// machines reserve terabytes.
func (s Spec) setLimits() error {
	if err := confine.NoCore(); err != nil {
		return err
	}
	if s.Pids == 0 {
		return nil
	}
	n := uint64(s.Pids)
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		return fmt.Errorf("bounding processes to %d: %w", n, err)
	}
	return nil
}

// writable are the only places of the view that can be written: Landlock says
// it a second time, beside the read-only mounts.
var writable = []string{"/workspace", "/home/agent", "/tmp", "/dev", "/proc"}

// files is a domain in which the first may be read and executed, the others
// written, too. Ports are left alone: the only network is loopback, and it is
// the agent's own.
func files(read, write []string) confine.Domain {
	return confine.Domain{Rules: []confine.Rule{{Access: confine.Run, Paths: read}, {Access: confine.Everything, Paths: write}}}
}
