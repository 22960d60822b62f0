package supervisor

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"airlock/internal/control"
	"airlock/internal/handoff"
)

// connsWithin is how long a daemon may take to say how many connections it
// has. A status must not wait for one that hangs.
const connsWithin = 200 * time.Millisecond

// snapshot is the table as it is now, and the links to those who serve.
func (s *supervisor) snapshot() (st control.Status, links map[string]*handoff.Link, err error) {
	links = map[string]*handoff.Link{}
	err = s.do(func() {
		st = control.Status{Pair: s.pair, PID: os.Getpid(), RSS: rss(os.Getpid()), Ready: s.ready(), Dropped: s.out.losses()}
		for _, name := range s.order {
			row := s.daemons[name]
			d := row.status()
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

func (d *daemon) status() control.Daemon {
	st := control.Daemon{
		Name: d.name, State: string(d.state), Restarts: max(0, d.starts-1),
		LastExit: d.lastExit, LastCode: d.lastCode, Digest: d.digest, Error: d.problem, Draining: len(d.draining), Listen: map[string]string{},
	}
	if d.current != nil {
		st.PID, st.Since, st.RSS, st.Generation = d.current.pid, d.current.since, rss(d.current.pid), d.current.generation
		st.Isolation = d.current.isolation
	}
	return st
}

// status is the snapshot with what the daemons know about their connections.
func (s *supervisor) status(ctx context.Context) (control.Status, error) {
	st, links, err := s.snapshot()
	if err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, connsWithin)
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

func (s *supervisor) getStatus(w http.ResponseWriter, r *http.Request) {
	st, err := s.status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	reply(w, st)
}
