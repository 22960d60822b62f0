package cage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/config"
	"airlock/internal/confine"
)

// takeWithin bounds how long take waits for the other side to be there.
const takeWithin = 10 * time.Second

// network holds the network of an agent in a container of its own, which has
// loopback and nothing else: it opens the sidecars' listening sockets in it
// and hands them to the process that connects to the unix socket, which only the
// sidecars can reach. The agent's container shares this network, and is in
// nothing else of this process's.
func network(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("cage -network", flag.ContinueOnError)
	listen := flags.String("listen", "", "`name=port,...` of the sockets")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return config.Usagef("cage -network -listen NAME=PORT,... SOCKET")
	}
	runtime.LockOSThread()
	var spec Spec
	for item := range strings.SplitSeq(*listen, ",") {
		name, text, _ := strings.Cut(item, "=")
		port, err := strconv.Atoi(text)
		if err != nil || name == "" {
			return config.Usagef("cage -network: %q: want a name and a port, like egress=9099", item)
		}
		spec.Listeners = append(spec.Listeners, Listener{name, port})
	}
	files, err := spec.listen()
	if err != nil {
		return err
	}
	if err := errors.Join(confine.NoCore(), confine.DropCapabilities()); err != nil {
		return err
	}
	if err := filter.Apply(); err != nil {
		return fmt.Errorf("applying seccomp: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return handOut(ctx, flags.Arg(0), spec.Listeners, files)
}

// handedOut names the sockets that come with the message.
type handedOut struct{ Names []string }

// handOut gives the files to everybody who connects, until ctx ends.
func handOut(ctx context.Context, path string, listeners []Listener, files []*os.File) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("opening the socket for the sidecars: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("opening the socket for the sidecars: %w", err)
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	// The sidecars are another user; nobody else has this folder.
	if err := os.Chmod(path, 0o666); err != nil {
		return fmt.Errorf("opening the socket for the sidecars: %w", err)
	}
	var m handedOut
	for _, l := range listeners {
		m.Names = append(m.Names, l.Name)
	}
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for the sidecars: %w", err)
		}
		_ = conn{c}.send(m, files...) // who is gone already needs none
		c.Close()
	}
}

// take executes another applet of the binary with the sockets that network
// hands out at the path.
func take(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return config.Usagef("cage -take SOCKET APPLET [ARGUMENT...]")
	}
	ctx, cancel := context.WithTimeout(ctx, takeWithin)
	defer cancel()
	c, err := dialUntil(ctx, args[0])
	if err != nil {
		return fmt.Errorf("taking over the listening sockets: %w", err)
	}
	var m handedOut
	files, err := c.receive(&m)
	c.Close()
	if err == nil && (len(files) != len(m.Names) || len(files) == 0) {
		err = fmt.Errorf("%d sockets came for %d names", len(files), len(m.Names))
	}
	if err == nil {
		err = place(files)
	}
	if err != nil {
		return fmt.Errorf("taking over the listening sockets: %w", err)
	}
	env := append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(m.Names, ":"))
	err = unix.Exec("/proc/self/exe", append([]string{"sidecars"}, args[1:]...), env)
	return fmt.Errorf("starting %s: %w", args[1], err)
}

// dialUntil tries until the socket is there or ctx ends.
func dialUntil(ctx context.Context, path string) (conn, error) {
	for {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err == nil {
			return conn{c}, nil
		}
		select {
		case <-ctx.Done():
			return conn{}, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// place puts the files at the descriptors from 3 on, and has the next program
// inherit them and no others.
func place(files []*os.File) error {
	var high []int
	for _, f := range files { // out of the way first: the runtime has some of those numbers
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
		if err != nil {
			return err
		}
		high = append(high, fd)
	}
	for i, fd := range high {
		if err := unix.Dup3(fd, 3+i, 0); err != nil {
			return err
		}
	}
	return closeOnExecFrom(3 + len(files))
}
