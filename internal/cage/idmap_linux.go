package cage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"airlock/hostctl/workspace"
)

// mappedWorkspace is the workspace's mount with its owner shown as the agent,
// as a descriptor: what root bound would else be another's for the agent, and
// what the agent wrote another's for the owner. It is nil where there is
// nothing to map, or the file system or our privileges do not allow it: then
// the folder is bound as it is.
func (s Spec) mappedWorkspace(binary string) (*os.File, error) {
	if !s.MapOwner || s.Workspace == "" {
		return nil, nil
	}
	dir, err := workspace.Open(s.Workspace)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var owner unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &owner); err != nil {
		return nil, fmt.Errorf("looking at the workspace %s: %w", s.Workspace, err)
	}
	ns, err := userNamespace(binary, int(owner.Uid), int(owner.Gid), s.HostUID, s.HostGID)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	fd, err := unix.OpenTree(int(dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, ifNotAllowed(err)
	}
	attr := unix.MountAttr{Attr_set: private | unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd)
		return nil, ifNotAllowed(err)
	}
	return os.NewFile(uintptr(fd), "workspace"), nil
}

// ifNotAllowed turns "this kernel or file system cannot" into no error.
func ifNotAllowed(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return fmt.Errorf("showing the workspace as the agent's: %w", err)
}

// userNamespace returns a namespace that maps one user and one group. A
// process must be in it while it is opened: the applet, waiting for its input
// to end.
func userNamespace(binary string, uid, gid, hostUID, hostGID int) (*os.File, error) {
	cmd := exec.Command(binary, "cage", "-hold")
	cmd.Args[0] = "sidecars"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: hostUID, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: hostGID, Size: 1}},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making a user namespace: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, explain(err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	stdin.Close()
	_ = cmd.Wait() // it has done what it was for
	if err != nil {
		return nil, fmt.Errorf("opening a user namespace: %w", err)
	}
	return ns, nil
}

// hold waits for the end of the input.
func hold() error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
