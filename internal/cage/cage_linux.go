package cage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"airlock/internal/config"
	"airlock/internal/confine"
)

// Ids of the agent inside the cage. Not root: Claude Code and others refuse
// to run as root.
const (
	agentUID = 1000
	agentGID = 1000
)

// Spec says what a cage holds. It carries no secret.
type Spec struct {
	Pair      string
	HostUID   int        // who the agent is outside
	HostGID   int        //
	Listeners []Listener // opened on the cage's loopback
	Workspace string     // the host's folder at /workspace; empty: in memory
	Hidden    []string   // paths in the workspace that the null device is put over
	MapOwner  bool       // root only: the workspace's owner and the agent are one
	Files     string     // the host's folder at /etc/airlock; empty: none
	Memory    int64      // bytes: the bound of each folder in memory; 0: 2 GiB
	Pids      int        // processes and threads
	Missing   []string   // layers that may be missing: landlock, seccomp
	Mapped    bool       // set by Start: fdMapped is there
}

// Listener is one listening socket of the sidecars.
type Listener struct {
	Name string
	Port int
}

// Descriptors that the applet inherits.
const (
	fdSetup   = 3 // socket pair with hostctl, until the init runs
	fdControl = 4 // listening unix socket
	fdLog     = 5 // the agent's log
	fdMapped  = 6 // the mount of the workspace, if Spec.Mapped
)

// Main is the applet: "cage" builds (only in fresh namespaces), "cage -init"
// serves, and "cage -confine ARGS…" runs another applet of the same binary
// with no capability, no_new_privs and seccomp; "cage -guard COMMAND…" does
// so with a command of a container (and -guard-init is the second half of it);
// "cage -hold" keeps a namespace open; "cage -network" holds the network of an
// agent's container and "cage -take" runs an applet with its sockets.
func Main(ctx context.Context, args []string, _, _ io.Writer) error {
	switch {
	case len(args) == 0:
		return build()
	case len(args) == 1 && args[0] == "-init":
		return initMain()
	case len(args) == 1 && args[0] == "-hold":
		return hold()
	case len(args) > 1 && args[0] == "-confine":
		return confined(args[1:])
	case len(args) > 1 && args[0] == "-network":
		return network(ctx, args[1:])
	case len(args) > 1 && args[0] == "-take":
		return take(ctx, args[1:])
	case len(args) > 1 && args[0] == "-guard":
		return guard(args[1:])
	case len(args) > 1 && args[0] == "-guard-init":
		return guardInit(args[1:])
	}
	return config.Usagef("cage is started by hostctl and takes no arguments of yours")
}

// build turns fresh namespaces into a cage and becomes its init. Errors go to
// hostctl over the socket pair as well, for there may be no other reader.
func build() error {
	// Credentials, restrictions and the final exec belong to one thread.
	runtime.LockOSThread()
	if os.Getpid() != 1 {
		return config.Usagef("cage must be the first process of its own namespaces: hostctl starts it")
	}
	unix.CloseOnExec(fdSetup)
	setup, err := fileConn(os.NewFile(fdSetup, "setup"))
	if err != nil {
		return fmt.Errorf("taking over the socket to hostctl: %w", err)
	}
	defer setup.Close()
	// hostctl writes down our pid before it sends the Spec; when it is killed
	// in between, this read ends and nothing is left over.
	var spec Spec
	if _, err := setup.receive(&spec); err != nil {
		return fmt.Errorf("reading the spec: %w", err)
	}
	if err = spec.build(setup); errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (some systems let anybody make a user namespace but do nothing in it: see kernel.apparmor_restrict_unprivileged_userns)", err)
	}
	_ = setup.send(reply{Err: err.Error()}) // the same error is returned
	return err
}

// build returns only when it fails.
func (s Spec) build(setup conn) error {
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	if err := s.enterView(); err != nil {
		return err
	}
	missing, err := s.restrict()
	if err != nil {
		return err
	}
	if err := setup.send(reply{Started: true, Missing: missing}, listeners...); err != nil {
		return fmt.Errorf("handing out the sockets: %w", err)
	}
	if err := closeOnExecFrom(fdLog + 1); err != nil {
		return err
	}
	err = unix.Exec(Binary, []string{"sidecars", "cage", "-init"}, nil)
	return fmt.Errorf("starting the init: %w", err)
}

// listen brings loopback up and opens the sidecars' sockets on it.
func (s Spec) listen() ([]*os.File, error) {
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("bringing loopback up: %w", err)
	}
	var files []*os.File
	for _, l := range s.Listeners {
		f, err := listenFile("127.0.0.1:" + strconv.Itoa(l.Port))
		if err != nil {
			return nil, fmt.Errorf("opening the socket for %s: %w", l.Name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func listenFile(address string) (*os.File, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", address)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

// loopbackUp gives lo a second address as well: with 127.0.0.1 alone, a
// program that asks getaddrinfo for what is "configured" finds no name.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if err := alias.SetInet4Addr([]byte{127, 0, 0, 2}); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias)
}

// confined executes the binary again as another applet, without privileges:
// the sidecars need none, even when root starts them. With -read and -write
// they see nothing of the host's files but those folders and the system's.
func confined(args []string) error {
	flags := flag.NewFlagSet("cage -confine", flag.ContinueOnError)
	var read, write paths
	flags.Var(&read, "read", "a `folder` that may be read")
	flags.Var(&write, "write", "a `folder` that may be written")
	if err := flags.Parse(args); err != nil || flags.NArg() == 0 {
		return config.Usagef("cage -confine [-read FOLDER] [-write FOLDER] APPLET [ARGUMENT...]")
	}
	runtime.LockOSThread()
	if err := errors.Join(confine.NoCore(), confine.DropCapabilities()); err != nil {
		return err
	}
	if err := restrictFiles(read, write); err != nil {
		return err
	}
	// A kernel without seccomp is for the cage to refuse, not for the sidecars.
	if err := filter.Apply(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	sockets, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")) // unset: none
	if err := closeOnExecFrom(3 + sockets); err != nil {
		return err
	}
	err := unix.Exec("/proc/self/exe", append([]string{"sidecars"}, flags.Args()...), os.Environ())
	return fmt.Errorf("starting %s: %w", flags.Arg(0), err)
}

type paths []string

func (p *paths) String() string     { return strings.Join(*p, ",") }
func (p *paths) Set(s string) error { *p = append(*p, s); return nil }

// systemRead is what a static network program reads of the system: how to
// look names up, root certificates, time zones, and its own processes.
var systemRead = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/services", "/etc/protocols",
	"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
	"/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf",
	"/etc/localtime", "/usr/share/zoneinfo", "/etc/mime.types", "/usr/lib", "/lib", "/lib64", "/proc", "/sys/kernel/mm", "/sys/fs/cgroup", "/dev/urandom"}

func restrictFiles(read, write []string) error {
	if len(read)+len(write) == 0 {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this binary: %w", err)
	}
	system := append([]string{self}, systemRead...)
	if os.Geteuid() != 0 {
		// resolv.conf may be replaced while we run, and then it is another
		// file than the one that was allowed. Root would own too much of /etc.
		system = append(system, "/etc")
	}
	err = files(append(system, read...), append(write, "/dev/null")).Apply()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil // for the cage to refuse, as above
	}
	return err
}

// closeOnExecFrom keeps what our starter's starters left open from going on.
func closeOnExecFrom(fd int) error {
	if err := unix.CloseRange(uint(fd), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	return nil
}
