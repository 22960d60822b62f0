package cage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setupTime bounds how long the cage may take to come up.
const setupTime = 20 * time.Second

// The capabilities that building takes, inside the new namespaces only.
var buildCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT}

// Started is a cage that stands, with nothing in it yet.
type Started struct {
	Process   *os.Process
	Listeners []*os.File // in the order of the Spec
	Missing   []string   // layers that this kernel lacks
}

// Start makes a cage with the applet of the binary. The init listens in the
// folder run (for Exec) and logs to log. As soon as there is a process, record
// gets its number: if it fails, or this program ends before it returns, the
// process ends by itself. Any error leaves nothing behind.
func Start(ctx context.Context, binary string, s Spec, run string, log *os.File, record func(pid int) error) (_ *Started, err error) {
	control, err := listenControl(run)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	mapped, err := s.mappedWorkspace(binary)
	if err != nil {
		theirs.Close()
		return nil, err
	}
	cmd := s.command(binary, log, theirs, control)
	if s.Mapped = mapped != nil; s.Mapped {
		defer mapped.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, mapped)
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, explain(err)
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // the error is known
		}
	}()
	if err := record(cmd.Process.Pid); err != nil {
		return nil, err
	}
	return s.setUp(ctx, ours, cmd.Process)
}

// setUp sends the Spec and waits until the init is executed.
func (s Spec) setUp(ctx context.Context, c conn, p *os.Process) (*Started, error) {
	deadline := time.Now().Add(setupTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	_ = c.SetDeadline(deadline) // a socket can
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.send(s); err != nil {
		return nil, fmt.Errorf("telling the cage what to build: %w", err)
	}
	var r reply
	files, err := c.receive(&r)
	if errors.Is(err, io.EOF) {
		err = errors.New("it ended; its log may say why")
	}
	if err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	if err != nil {
		return nil, fmt.Errorf("building the cage: %w", err)
	}
	// The socket closes with a good exec; an error comes over it.
	var failed reply
	if _, err := c.receive(&failed); !errors.Is(err, io.EOF) || len(files) != len(s.Listeners) {
		closeAll(files)
		return nil, fmt.Errorf("building the cage: %s (%v)", failed.Err, err)
	}
	return &Started{Process: p, Listeners: files, Missing: r.Missing}, nil
}

func (s Spec) command(binary string, log *os.File, setup, control *os.File) *exec.Cmd {
	cmd := exec.Command(binary, "cage")
	cmd.Args[0] = "sidecars"
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{setup, control, log}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP,
		// One id each. Root starts as itself, which has no name in there, so
		// that it can open its folders, and then becomes the agent's user.
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: agentUID, HostID: s.HostUID, Size: 1}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: agentGID, HostID: s.HostGID, Size: 1}},
		GidMappingsEnableSetgroups: os.Geteuid() == 0,
		AmbientCaps:                buildCaps,
	}
	return cmd
}

// explain says which layer is missing when the kernel refuses namespaces.
func explain(err error) error {
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EUSERS) {
		return fmt.Errorf("this system refuses user namespaces (see user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); the local backend cannot do without: %w", err)
	}
	return fmt.Errorf("starting the cage: %w", err)
}

func socketPair() (conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return conn{}, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "setup")
	ours, err := fileConn(os.NewFile(uintptr(fds[0]), "setup"))
	if err != nil {
		theirs.Close()
		return conn{}, nil, err
	}
	return ours, theirs, nil
}

const controlName = "cage.sock"

// listenControl binds the socket by way of a descriptor of its folder: the
// path of a unix socket may have no more than 107 bytes.
func listenControl(run string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("opening the control socket of the cage: %w", err)
	}
	dir, err := os.Open(run)
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := os.Remove(filepath.Join(run, controlName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	// Before there is a name: nobody else may connect, from the first moment.
	err = unix.Fchmod(fd, 0o600)
	if err == nil {
		err = unix.Bind(fd, controlAddress(dir))
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return os.NewFile(uintptr(fd), "control"), nil
}

func controlAddress(dir *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName)}
}

// dial reaches the init of the cage whose run folder it is.
func dial(run string) (conn, error) {
	dir, err := os.Open(run)
	if err != nil {
		return conn{}, fmt.Errorf("reaching the cage: %w", err)
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return conn{}, fmt.Errorf("reaching the cage: %w", err)
	}
	if err := unix.Connect(fd, controlAddress(dir)); err != nil {
		unix.Close(fd)
		return conn{}, fmt.Errorf("reaching the cage: %w", err)
	}
	return fileConn(os.NewFile(uintptr(fd), "control"))
}
