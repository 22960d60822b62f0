// Package handoff is how listening sockets and news pass between the
// supervisor and a daemon: sockets come in by LISTEN_FDS and LISTEN_FDNAMES
// (systemd's sd_listen_fds). The link NOTIFY_FD, one end of a pair of unix
// sockets, takes news to the supervisor in the words of sd_notify, and brings
// what the supervisor wants and files that it opens. A daemon that runs alone
// binds its own sockets and has no link.
package handoff

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

// Words of a notification.
const (
	KeyReady    = "READY"
	KeyStopping = "STOPPING"
	KeyStatus   = "STATUS"
	KeyDigest   = "X_DIGEST"  // SHA-256 of the configuration that runs
	KeyMode     = "X_MODE"    // that the daemon does less than it should, in plain words; empty: it does all
	KeyError    = "X_ERROR"   // why a reload was refused; empty once it is mended
	KeyTrouble  = "X_TROUBLE" // why the daemon refuses everything; empty: it does not
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
		return nil, config.Usagef("LISTEN_FDS %q: a number up to 100 was wanted", count)
	}
	all := map[string]net.Listener{}
	if n == 0 {
		return all, nil
	}
	list := strings.Split(names, ":")
	if len(list) != n {
		return nil, config.Usagef("LISTEN_FDNAMES %q: %d names with colons between them were wanted, as LISTEN_FDS says", names, n)
	}
	for i, name := range list {
		syscall.CloseOnExec(firstFD + i)
		f := os.NewFile(uintptr(firstFD+i), name)
		if listens, err := unix.GetsockoptInt(firstFD+i, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
			return nil, config.Usagef("LISTEN_FDS: descriptor %d (%q) is no listening stream socket", firstFD+i, name)
		}
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("taking over socket %q: %w", name, err)
		}
		f.Close()
		if _, twice := all[name]; twice {
			return nil, config.Usagef("LISTEN_FDNAMES: %q stands there twice", name)
		}
		all[name] = l
	}
	return all, nil
}

// Inherited are the sockets that the parent handed over, by name.
func Inherited() (map[string]net.Listener, error) { return inherited() }

// Listen is the inherited socket of that name or, where there is none, a new
// one bound to the address: "host:port" or "unix:/path" (mode 0600). Its
// connections are counted.
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
	count()
	return counted{l}, nil
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
		_ = os.Remove(path) // when it cannot go, binding says why
	}
	// The mask keeps everybody else out from the first moment on; a chmod
	// afterwards would leave a gap.
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("binding %s: %w", address, err)
	}
	// Whoever holds the socket last must not remove the name under the others.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// Notify sends pairs of key and value to the supervisor, in one write.
func Notify(pairs ...string) {
	if l := ownLink(); l != nil {
		_ = l.say(pairs...) // a supervisor that is gone needs no news
	}
}

// Ready says that the daemon serves, with the digest of its configuration.
// The digest comes first: whoever hears that it is ready knows with what.
func Ready(digest string) { Notify(KeyDigest, digest, KeyError, "", KeyReady, "1") }

// Trouble says why the daemon refuses everything, or, with nil, that it does
// so no longer.
func Trouble(err error) {
	why := ""
	if err != nil {
		why = "refuses everything: " + err.Error()
	}
	Notify(KeyTrouble, why)
}

// Stopping says that the daemon drains.
func Stopping() { Notify(KeyStopping, "1") }
