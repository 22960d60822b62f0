package supervisor

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"airlock/internal/activation"
	"airlock/internal/bundle"
)

// socket is a listening socket that the supervisor keeps open for a daemon.
type socket struct {
	name    string
	address string
	file    *os.File
}

// socketSpec is a socket that the configuration of a daemon requires.
type socketSpec struct{ name, address string }

// socketSpecs returns the sockets of a daemon, from its configuration.
func socketSpecs(daemon string, dirs bundle.Dirs) ([]socketSpec, error) {
	path := dirs.File(daemon)
	switch daemon {
	case bundle.Egress:
		f, _, err := bundle.Load[bundle.EgressFile](path)
		return []socketSpec{{bundle.FDEgress, cmp.Or(f.Listen, port(bundle.PortEgress))}}, err
	case bundle.Pipelock:
		f, _, err := bundle.Load[bundle.PipelockFile](path)
		all := []socketSpec{{bundle.FDPipelockSocket, dirs.Address("unix:" + cmp.Or(f.Socket, "/run/airlock/pipelock.sock"))}}
		if f.CA != (bundle.CA{}) {
			all = append(all, socketSpec{bundle.FDPipelock, cmp.Or(f.Listen, port(bundle.PortPipelock))})
		}
		return all, err
	case bundle.GitGate:
		f, _, err := bundle.Load[bundle.GitGateFile](path)
		return []socketSpec{{bundle.FDGit, cmp.Or(f.Listen.Git, port(bundle.PortGit))}, {bundle.FDGitHTTP, cmp.Or(f.Listen.HTTP, port(bundle.PortGitHTTP))}}, err
	case bundle.Supervise:
		f, _, err := bundle.Load[bundle.SuperviseFile](path)
		return []socketSpec{{bundle.FDSupervise, cmp.Or(f.Listen, port(bundle.PortSupervise))}}, err
	}
	return nil, fmt.Errorf("no daemon is named %q", daemon)
}

func port(n int) string { return fmt.Sprintf("0.0.0.0:%d", n) }

// openSockets binds the sockets of the daemons, except for those inherited from the supervisor's own
// parent. It reports all errors, not just the first.
func openSockets(daemons []string, dirs bundle.Dirs) (map[string][]socket, error) {
	inherited, err := activation.Inherited()
	if err != nil {
		return nil, err
	}
	all := map[string][]socket{}
	var errs []error
	for _, daemon := range daemons {
		list, err := socketSpecs(daemon, dirs)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, w := range list {
			s, err := openSocket(w, inherited)
			errs = append(errs, err)
			all[daemon] = append(all[daemon], s)
			delete(inherited, w.name)
		}
	}
	// An inherited socket that no daemon serves is closed, so that clients do not wait.
	for _, l := range inherited {
		errs = append(errs, l.Close())
	}
	return all, errors.Join(slices.DeleteFunc(errs, func(e error) bool { return e == nil })...)
}

func openSocket(w socketSpec, inherited map[string]net.Listener) (socket, error) {
	l, ok := inherited[w.name]
	if !ok {
		var err error
		if l, err = activation.Bind(w.address); err != nil {
			return socket{}, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	defer l.Close() // File returns a duplicate
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return socket{}, fmt.Errorf("keeping socket %s: %w", w.name, err)
	}
	return socket{w.name, l.Addr().String(), f}, nil
}
