package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"airlock/hostctl/pair"
	"airlock/internal/confine"
)

// Doctor says what of this kernel the backend can use.
func (b *Backend) Doctor(ctx context.Context) []pair.Check {
	return []pair.Check{namespaces(ctx), landlock(), seccomp()}
}

// namespaces starts a program in new ones, as a cage would.
func namespaces(ctx context.Context) pair.Check {
	c := pair.Check{Name: "local: namespaces", State: pair.Good, Says: "user, mount, pid, ipc, uts and network namespaces can be made"}
	self, err := os.Executable()
	if err != nil {
		c.State, c.Says = pair.Bad, err.Error()
		return c
	}
	cmd := exec.CommandContext(ctx, self, "--help")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		c.State, c.Says = pair.Bad, fmt.Sprintf("a program in new namespaces does not start: %v; see the sysctls user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns", err)
	}
	return c
}

func landlock() pair.Check {
	version := confine.LandlockVersion()
	if version == 0 {
		return pair.Check{Name: "local: landlock", State: pair.Warn, Says: "the kernel has none: start wants --allow-missing landlock, and files are guarded by the namespaces alone"}
	}
	return pair.Check{Name: "local: landlock", State: pair.Good, Says: fmt.Sprintf("version %d", version)}
}

func seccomp() pair.Check {
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !strings.Contains(string(actions), "errno") {
		return pair.Check{Name: "local: seccomp", State: pair.Warn, Says: "the kernel has no filters: start wants --allow-missing seccomp, and system calls are not restricted"}
	}
	return pair.Check{Name: "local: seccomp", State: pair.Good, Says: "filters can be put on"}
}
