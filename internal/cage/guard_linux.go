package cage

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"airlock/hostctl/pair"
	"airlock/hostctl/workspace"
	"airlock/internal/confine"
	"airlock/internal/pid1"
)

// guard puts a container's process under this package's filter, beside what
// the engine does: engines before 23 let a container open AF_VSOCK, which no
// network closes. As PID 1 it stays as an init, so that no process of the
// container is without the filter; else it becomes the command.
//
// The file that it is executed from should not be readable for the agent:
// then the kernel lets nobody of the container trace it before the filter is
// on. With "-workspace IDENTITY" before the command, the workspace must be the
// one that is meant.
func guard(args []string) error {
	if args[0] == "-workspace" && len(args) > 2 {
		if err := checkWorkspace(args[1]); err != nil {
			return err
		}
		args = args[2:]
	}
	runtime.LockOSThread()
	if err := confine.NoCore(); err != nil {
		return err
	}
	if err := confine.DropCapabilities(); err != nil {
		return err
	}
	if err := filter.Apply(); err != nil {
		return fmt.Errorf("applying seccomp: %w", err)
	}
	if os.Getpid() == 1 {
		err := unix.Exec("/proc/self/exe", append([]string{"sidecars", "cage", "-guard-init"}, args...), os.Environ())
		return fmt.Errorf("starting the init: %w", err)
	}
	path, err := findCommand(args)
	if err == nil {
		err = unix.Exec(path, args, os.Environ())
	}
	return cannotStart(args, err)
}

// checkWorkspace compares what the engine has mounted with the folder that
// hostctl has looked at: on the way to it, somebody could have exchanged a
// folder for a link in between.
func checkWorkspace(want string) error {
	dir, err := os.Open(pair.WorkspaceDir)
	if err != nil {
		return fmt.Errorf("looking at the workspace: %w", err)
	}
	defer dir.Close()
	got, err := workspace.Identity(dir)
	if err != nil {
		return fmt.Errorf("looking at the workspace: %w", err)
	}
	if !workspace.SameFolder(got, want) {
		return fmt.Errorf("the engine has mounted another folder at %s than the one that was checked: the agent is not started", pair.WorkspaceDir)
	}
	return nil
}

func findCommand(args []string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	return lookPath(request{Argv: args, Env: os.Environ(), Dir: dir})
}

func cannotStart(args []string, err error) error {
	return &startError{fmt.Sprintf("starting %s: %v", args[0], err), startCode(err)}
}

// guardInit is PID 1 of a container.
func guardInit(args []string) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the init undumpable: %w", err)
	}
	return pid1.Run(args, false)
}
