// Package activation passes listening sockets, notifications and requests between the supervisor and
// a daemon. Sockets are inherited by LISTEN_FDS and LISTEN_FDNAMES (systemd's sd_listen_fds). The
// link, one end of a pair of unix sockets whose number is in NOTIFY_FD, carries notifications in the
// form of sd_notify to the supervisor, and commands, queries and opened files to the daemon. A daemon
// without a supervisor binds its own sockets and has no link.
//
// A process has one link as a daemon; the supervisor has a Link for each daemon. All functions and
// methods may be called concurrently, except where their comments say otherwise.
package activation

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"airlock/internal/config"
)

// firstFD is SD_LISTEN_FDS_START.
const firstFD = 3

// Keys of notifications.
const (
	KeyReady       = "READY"
	KeyStopping    = "STOPPING"
	KeyStatus      = "STATUS"
	KeyDigest      = "X_DIGEST"  // SHA-256 of the configuration in force
	KeyDegraded    = "X_MODE"    // what the daemon cannot do; empty: nothing
	KeyError       = "X_ERROR"   // why the last reload was refused; empty: it was not
	KeyUnavailable = "X_TROUBLE" // why the daemon refuses all requests; empty: it does not
)

var inherited = sync.OnceValues(func() (map[string]net.Listener, error) {
	return fromEnv(os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"))
})

func fromEnv(pid, count, names string) (map[string]net.Listener, error) {
	if count == "" || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 100 {
		return nil, config.Usagef("LISTEN_FDS %q: expected a number up to 100", count)
	}
	all := map[string]net.Listener{}
	if n == 0 {
		return all, nil
	}
	list := strings.Split(names, ":")
	if len(list) != n {
		return nil, config.Usagef("LISTEN_FDNAMES %q: expected %d names separated by colons, as LISTEN_FDS says", names, n)
	}
	for i, name := range list {
		syscall.CloseOnExec(firstFD + i)
		f := os.NewFile(uintptr(firstFD+i), name)
		if listens, err := unix.GetsockoptInt(firstFD+i, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			return nil, config.Usagef("LISTEN_FDS: descriptor %d (%q) is not a listening stream socket", firstFD+i, name)
		}
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("taking over socket %q: %w", name, err)
		}
		f.Close()
		if _, twice := all[name]; twice {
			return nil, config.Usagef("LISTEN_FDNAMES: %q is listed twice", name)
		}
		all[name] = l
	}
	return all, nil
}

// Inherited returns the listeners inherited from the parent, by name.
func Inherited() (map[string]net.Listener, error) { return inherited() }

// Listen returns the inherited listener of that name or, if there is none, a new one bound to the
// address: "host:port" or "unix:/path" (mode 0600). Its connections count in OpenConns.
func Listen(name, address string) (net.Listener, error) {
	all, err := inherited()
	if err != nil {
		return nil, err
	}
	l, ok := all[name]
	if !ok {
		if l, err = Bind(address); err != nil {
			return nil, err
		}
	}
	exposeMetrics()
	return countedListener{l}, nil
}

// Bind opens a listening socket. A stale unix socket file is replaced.
func Bind(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("binding %s: %w", address, err)
		}
		return l, nil
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path) // if this fails, so does binding
	}
	// With the mask the socket is private from the start; a chmod would come too late.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("binding %s: %w", address, err)
	}
	// Other processes may still serve the socket when this one closes it.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// Notify sends pairs of key and value to the supervisor, in one write.
func Notify(pairs ...string) {
	if l := ownLink(); l != nil {
		_ = l.send(pairs...) // fails when the supervisor is gone
	}
}

// Ready notifies the supervisor that the daemon serves, with the digest of its configuration. The
// digest is sent first, so that it is known when the daemon counts as ready.
func Ready(digest string) { Notify(KeyDigest, digest, KeyError, "", KeyReady, "1") }

// Unavailable notifies the supervisor why the daemon refuses all requests or, with nil, that it no
// longer does.
func Unavailable(err error) {
	why := ""
	if err != nil {
		why = "refuses everything: " + err.Error()
	}
	Notify(KeyUnavailable, why)
}

// Stopping notifies the supervisor that the daemon drains.
func Stopping() { Notify(KeyStopping, "1") }
