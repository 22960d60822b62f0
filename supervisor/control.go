package supervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/logs"
	"airlock/internal/proposal"
)

// serveControl serves the control socket. stop closes it and waits until its requests have ended.
func (s *supervisor) serveControl() (stop func(), err error) {
	l, err := activation.Bind("unix:" + s.dirs.Control())
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.getStatus)
	mux.HandleFunc("GET /metrics", s.getMetrics)
	mux.HandleFunc("POST /restart", s.changeHandler(s.restart))
	mux.HandleFunc("POST /reload", s.changeHandler(s.reloadConfig))
	mux.HandleFunc("POST /log", s.postLevel)
	mux.HandleFunc("GET /explain", s.getExplain)
	mux.HandleFunc("GET /routes", s.getRoutes)
	mux.HandleFunc("GET /proposals", s.getProposals)
	mux.HandleFunc("POST /proposals/{id}", s.postProposal)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		log := slog.New(slog.NewTextHandler(io.Discard, nil))
		_ = httpd.Serve(ctx, httpd.NewServer(mux, log), ownUserOnly{l}, httpd.DrainOptions{Timeout: time.Second})
	}()
	return func() { cancel(); <-ended }, nil
}

// ownUserOnly closes connections of peers that are neither the supervisor's user nor root, and of the
// daemons, which have the same user.
type ownUserOnly struct{ net.Listener }

func (o ownUserOnly) Accept() (net.Conn, error) {
	for {
		c, err := o.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if p, err := peer(c.(*net.UnixConn)); err == nil && (p.Uid == 0 || int(p.Uid) == os.Getuid()) && !isDescendant(p.Pid) {
			return c, nil
		}
		c.Close()
	}
}

// peer returns the credentials of the client.
func peer(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// changeHandler returns a handler that runs act on the daemon that the request names and waits for its
// outcome.
func (s *supervisor) changeHandler(act func(*daemon, chan<- error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("daemon")
		outcome := make(chan error, 1)
		var known bool
		err := s.runInLoop(func() {
			d := s.daemons[name]
			if known = d != nil; known {
				act(d, outcome)
			}
		})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case !known:
			http.Error(w, s.unknownDaemon(name), http.StatusNotFound)
		default:
			s.awaitOutcome(w, r, outcome)
		}
	}
}

func (s *supervisor) awaitOutcome(w http.ResponseWriter, r *http.Request, outcome <-chan error) {
	timeout := time.NewTimer(readyTimeout + time.Second)
	defer timeout.Stop()
	select {
	case err := <-outcome:
		if err != nil {
			http.Error(w, s.out.mask.maskString(err.Error()), http.StatusConflict)
			return
		}
		s.getStatus(w, r)
	case <-timeout.C:
		http.Error(w, "the daemon did not answer in time", http.StatusGatewayTimeout)
	case <-r.Context().Done():
	}
}

// postLevel sets the log level of one daemon, or of all, in running and in later processes.
func (s *supervisor) postLevel(w http.ResponseWriter, r *http.Request) {
	level, name := r.URL.Query().Get("level"), r.URL.Query().Get("daemon")
	if err := logs.Check(level); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var known bool
	var errs []error
	err := s.runInLoop(func() {
		for _, d := range s.daemons {
			if name == "" || name == d.name {
				known = true
				errs = append(errs, s.setLevel(d, level))
			}
		}
	})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case !known:
		http.Error(w, s.unknownDaemon(name), http.StatusNotFound)
	case errors.Join(errs...) != nil:
		http.Error(w, errors.Join(errs...).Error(), http.StatusConflict)
	}
}

func (s *supervisor) setLevel(d *daemon, level string) error {
	s.levels[d.name] = level
	var errs []error
	for _, p := range append(slices.Collect(maps.Values(d.draining)), d.current, d.successor) {
		if p == nil {
			continue
		}
		// A process that has just exited has a closed link.
		if err := p.link.Send(activation.KeyLevel, level); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("%s (process %d) does not listen: %w", d.name, p.pid, err))
		}
	}
	return errors.Join(errs...)
}

func (s *supervisor) unknownDaemon(name string) string {
	return fmt.Sprintf("daemon %q does not run here; there are %s", name, strings.Join(s.order, ", "))
}

// proposals opens the store of proposals, which supervise writes to.
func (s *supervisor) proposals() (*proposal.Store, error) {
	f, _, err := bundle.Load[bundle.SuperviseFile](s.dirs.File(bundle.Supervise))
	if err != nil {
		return nil, err
	}
	return proposal.Open(s.dirs.Path(cmp.Or(f.Store, "/var/lib/airlock/proposals")))
}

func (s *supervisor) getProposals(w http.ResponseWriter, _ *http.Request) {
	store, err := s.proposals()
	if err == nil {
		var all []proposal.Proposal
		if all, err = store.List(); err == nil {
			reply(w, all)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (s *supervisor) postProposal(w http.ResponseWriter, r *http.Request) {
	var body struct{ State, Answer string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&body); err != nil {
		http.Error(w, "expected a JSON object with State and Answer", http.StatusBadRequest)
		return
	}
	store, err := s.proposals()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	id := r.PathValue("id")
	if p, err := store.Get(id); err == nil && p.Kind == proposal.Leak && p.State == proposal.Pending && !s.heldRequests.isHeld(id) {
		body.State, body.Answer = proposal.Denied, "withdrawn: the request waits no more" // its process ended without withdrawing it
	}
	p, err := store.Answer(id, body.State, body.Answer)
	if err == nil {
		s.heldRequests.decide(p)
	}
	switch {
	case errors.Is(err, proposal.ErrAbsent):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, proposal.ErrAnswered):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		reply(w, p)
	}
}
