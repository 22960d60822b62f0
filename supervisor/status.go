package supervisor

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"airlock/internal/activation"
	"airlock/internal/control"
)

// connsTimeout is how long a daemon may take to report its number of connections. A status must not
// wait for a daemon that hangs.
const connsTimeout = 200 * time.Millisecond

// longPollTimeout is how long a request for a newer status waits for a change.
const longPollTimeout = 30 * time.Second

// statusHub versions the status, so that a client can wait for a change. Its methods may be called
// concurrently.
type statusHub struct {
	runID string // distinguishes the versions of this supervisor from those of another

	mu        sync.Mutex
	lastTable string // the table as text
	revision  int
	changed   chan struct{} // closed at the next change
}

func newStatusHub() *statusHub {
	return &statusHub{runID: rand.Text()[:8], changed: make(chan struct{})}
}

// version returns the current version, and a channel that is closed when it changes.
func (b *statusHub) version() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.runID + "-" + strconv.Itoa(b.revision), b.changed
}

// publish starts a new version if the table differs from the last one.
func (b *statusHub) publish(table string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if table == b.lastTable {
		return
	}
	b.lastTable = table
	b.revision++
	close(b.changed)
	b.changed = make(chan struct{})
}

// tableChanged publishes what a status shows, apart from memory and connections, which change all the
// time.
func (s *supervisor) tableChanged() {
	var table strings.Builder
	for _, name := range s.order {
		d := s.daemons[name]
		pid, mode, trouble := 0, "", ""
		if d.current != nil {
			pid, mode, trouble = d.current.pid, d.current.degraded, d.current.unavailable
		}
		fmt.Fprintf(&table, "%s %d %d %d %d %q %q %q %q %q\n", d.state, pid, d.starts, d.generation, len(d.draining), d.lastExit, d.digest, d.problem, mode, trouble)
	}
	s.statusHub.publish(table.String())
	if s.tracer != nil {
		s.trace()
	}
}

// snapshot returns the status without connections, and the links of the daemons that serve.
func (s *supervisor) snapshot() (st control.Status, links map[string]*activation.Link, err error) {
	links = map[string]*activation.Link{}
	err = s.runInLoop(func() {
		version, _ := s.statusHub.version()
		st = control.Status{Version: version, Pair: s.pair, PID: os.Getpid(), RSS: rss(os.Getpid()), Ready: s.ready(), Dropped: s.out.droppedLines()}
		for _, name := range s.order {
			row := s.daemons[name]
			d := row.status()
			d.Error, d.Mode, d.Trouble = s.out.mask.maskString(d.Error), s.out.mask.maskString(d.Mode), s.out.mask.maskString(d.Trouble) // text of a daemon
			for _, sock := range s.sockets[name] {
				d.Listen[sock.name] = sock.address
			}
			if row.current != nil && row.current.ready {
				links[name] = row.current.link
			}
			st.Daemons = append(st.Daemons, d)
		}
	})
	return st, links, err
}

// status returns the row of the daemon for the control socket.
func (d *daemon) status() control.Daemon {
	st := control.Daemon{
		Name: d.name, State: string(d.state), Restarts: max(0, d.starts-1),
		LastExit: d.lastExit, LastCode: d.lastCode, Digest: d.digest, Error: d.problem,
		Draining: len(d.draining), Listen: map[string]string{},
	}
	if d.current != nil {
		st.PID, st.Since, st.RSS, st.Generation = d.current.pid, d.current.started, rss(d.current.pid), d.current.generation
		st.Isolation, st.Mode, st.Trouble = d.current.isolation, d.current.degraded, d.current.unavailable
	}
	return st
}

// status returns the snapshot with the numbers of connections that the daemons report.
func (s *supervisor) status(ctx context.Context) (control.Status, error) {
	st, links, err := s.snapshot()
	if err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, connsTimeout)
	defer cancel()
	var group sync.WaitGroup
	for i := range st.Daemons {
		d := &st.Daemons[i]
		if link := links[d.Name]; link != nil {
			group.Go(func() {
				if n, err := link.Conns(ctx); err == nil {
					d.Conns = &n
				}
			})
		}
	}
	group.Wait()
	return st, nil
}

// getStatus answers at once, or, if the parameter "after" is the current version, at the next change.
func (s *supervisor) getStatus(w http.ResponseWriter, r *http.Request) {
	if version, changed := s.statusHub.version(); r.FormValue("after") == version {
		held := time.NewTimer(longPollTimeout)
		defer held.Stop()
		select {
		case <-changed:
		case <-held.C:
		case <-s.done:
		case <-r.Context().Done():
		}
	}
	st, err := s.status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	reply(w, st)
}
