package gitgate

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"airlock/internal/memtrim"
	"airlock/internal/policy"
)

const (
	// maxConns bounds the clients of each protocol at a time.
	maxConns = 64
	// freshEnough is how old a refresh may be when a stateless client comes with its second request.
	freshEnough = 30 * time.Second
)

// serveGit accepts git:// clients until the listener closes, and returns when all are gone.
func (g *gate) serveGit(ctx context.Context, l net.Listener) error {
	table := newClientTable(maxConns)
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting git clients: %w", err)
		}
		client := &gitClient{Conn: conn}
		if table.enter(ctx, client) != nil {
			conn.Close()
			return nil // the drain is over
		}
		clients.Go(func() {
			defer memtrim.ScheduleIdle()
			defer client.leave()
			g.client(ctx, client)
		})
	}
}

// client serves one connection of git://. The end of the context cuts it.
func (g *gate) client(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer g.survive("git")
	patience := newPace(min(greetWithin, g.idle))
	in, out := bufio.NewReaderSize(paced{conn, patience}, 64<<10), bufio.NewWriterSize(paced{conn, patience}, 64<<10)
	q, err := readRequest(in)
	if patience.restart(g.idle); err == nil {
		err = g.daemon(ctx, q, in, out)
	}
	var refused errRefused
	if errors.As(err, &refused) {
		_ = writePkt(out, "ERR "+refused.Error())
	}
	_ = out.Flush()
	if err != nil && refused == "" && ctx.Err() == nil {
		g.log.Info("git client left", "error", clean(err.Error()))
	}
	linger(conn)
}

// linger lets the client read our last words before a reset could overtake them.
func linger(conn net.Conn) {
	tcp, ok := conn.(interface{ CloseWrite() error })
	if !ok || tcp.CloseWrite() != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, _ = io.Copy(io.Discard, conn)
}

// survive keeps one client's panic from the others. The value is not logged: it may quote what the client sent.
func (g *gate) survive(protocol string) {
	if r := recover(); r == http.ErrAbortHandler {
		panic(r) // is how an answer is cut
	} else if r != nil {
		g.log.Error("client handler panicked", "protocol", protocol, "type", fmt.Sprintf("%T", r))
	}
}

// readRequest reads the first line of git://.
func readRequest(in *bufio.Reader) (request, error) {
	line, err := readPktOf(in, maxRequest)
	if err != nil {
		return request{}, errRefused("no request")
	}
	q, err := parseRequest(string(line))
	if err != nil {
		return q, errRefused(err.Error())
	}
	return q, nil
}

// daemon gives a client of git:// the service that it asks for.
func (g *gate) daemon(ctx context.Context, q request, in *bufio.Reader, out *bufio.Writer) error {
	m, err := g.admit(q)
	if err != nil {
		return err
	}
	defer m.reading()()
	if q.service == uploadPack && q.version == 2 {
		if err := errors.Join(advertiseV2(out, mirrorAllows), out.Flush()); err != nil {
			return err
		}
		return g.speaker(m, in, out, true).serve(ctx, false)
	}
	snap, err := g.update(ctx, m, q)
	if err != nil {
		return err
	}
	if err := errors.Join(advertise(out, q, m.source(snap), false), out.Flush()); err != nil {
		return err
	}
	if q.service == uploadPack {
		f := &fetching{source: m.source(snap), in: in, out: out, tab: g.kept.open(), walks: g.walks}
		defer f.tab.settle()
		return f.run(ctx)
	}
	return (&pushing{gate: g, mirror: m, in: in, out: out}).run(ctx)
}

// advertise is the first word of protocols v0 and v1.
func advertise(w io.Writer, q request, src source, stateless bool) error {
	if q.version == 1 { // who pushes in v2 is answered in v0, as by git
		if err := writePkt(w, "version 1\n"); err != nil {
			return err
		}
	}
	if q.service == receivePack {
		return advertisePush(w, src.snap)
	}
	return advertiseFetch(w, src, stateless)
}

// admit decides, and writes the verdict down.
func (g *gate) admit(q request) (*mirror, error) {
	v := g.rules.open(q)
	if !v.Allow || q.method() == "fetch" {
		name := q.repo
		if _, known := g.mirrors[name]; !known {
			name = "" // it may hold anything
		}
		if err := g.record(v, q.method(), name, ""); err != nil {
			return nil, errNoAudit
		}
	}
	if !v.Allow {
		return nil, errRefused(v.Why)
	}
	return g.mirrors[q.repo], nil
}

// errNoAudit is told to whoever comes while nothing can be written down.
const errNoAudit = errRefused("the audit cannot be written: nothing is served")

// update brings a mirror up to date: what upstream has now, or no answer.
func (g *gate) update(ctx context.Context, m *mirror, q request) (*snapshot, error) {
	snap, err := m.refresh(ctx)
	if err == nil {
		return snap, nil
	}
	rule, why := "upstream", "upstream failed, and nothing stale is served: "+clean(err.Error())
	var own ownError
	if errors.As(err, &own) {
		rule, why = "store", own.words
	}
	g.log.Warn("a refresh failed", "repo", m.name, "rule", rule, "error", forLog(err))
	if err := g.record(policy.Denied(rule, clean(err.Error())), q.method(), m.name, ""); err != nil {
		return nil, errNoAudit
	}
	return nil, errRefused(why)
}

// speaker serves a mirror in protocol v2, to a client that was admitted or is so with its first look at the references.
func (g *gate) speaker(m *mirror, in *bufio.Reader, out *bufio.Writer, admitted bool) *speaker {
	q := request{service: uploadPack, repo: m.name, version: 2}
	list := func(ctx context.Context) (source, error) {
		if !admitted {
			if _, err := g.admit(q); err != nil {
				return source{}, err
			}
		}
		snap, err := g.update(ctx, m, q)
		return m.source(snap), err
	}
	recent := func(ctx context.Context) (source, error) {
		if m.fresh(freshEnough) {
			return m.source(m.current()), nil
		}
		return list(ctx)
	}
	return &speaker{in: in, out: out, list: list, recent: recent, budget: g.kept, walks: g.walks}
}

// source is the mirror as a client sees it who was shown a snapshot. Whatever becomes of the mirror meanwhile, it can be read to the end.
func (m *mirror) source(snap *snapshot) source {
	return source{snap: snap, set: m.store.Packs(), reach: m.reach, offers: m.offers, allows: mirrorAllows}
}

// mirrorAllows is what a partial clone needs: the objects that were left out, by their names.
var mirrorAllows = features{tip: true, reachable: true, filter: true}

// web speaks smart HTTP. Errors are plain text, which git shows to the person. A push that has been read goes on until ctx
// ends, whether its client waits for the outcome or not.
func (g *gate) web(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	defer memtrim.ScheduleIdle()
	defer g.survive("http")
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	if repo, rest, ok := lfsRoute(r.URL.Path); ok {
		g.lfs(ctx, w, r, repo, rest)
		return
	}
	q, greeting, ok := route(r)
	if !ok {
		http.Error(w, "git-gate serves /<repository>.git over smart HTTP, with Git LFS, and nothing else", http.StatusNotFound)
		return
	}
	var err error
	if greeting {
		err = g.greet(w, r, q)
	} else {
		err = g.answer(ctx, w, r, q)
	}
	var refused errRefused
	switch {
	case errors.As(err, &refused):
		http.Error(w, "airlock: "+refused.Error(), g.status(q))
	case err != nil && r.Context().Err() == nil:
		g.log.Info("http client left", "error", clean(err.Error()))
	}
}

// status is 404 for what is not there, 403 for what may not be done, and 502 for an upstream that failed.
func (g *gate) status(q request) int {
	if _, known := g.rules.repos[q.repo]; !known {
		return http.StatusNotFound
	}
	if !g.rules.open(q).Allow {
		return http.StatusForbidden
	}
	return http.StatusBadGateway
}

// route takes the three URLs apart; the repository's name is looked up, never used as a path.
func route(r *http.Request) (q request, greeting, ok bool) {
	path, version := r.URL.Path, versionOf(r.Header.Get("Git-Protocol"))
	if repo, found := strings.CutSuffix(path, "/info/refs"); found && r.Method == http.MethodGet {
		service := r.URL.Query().Get("service")
		return request{service, repoName(repo), version}, true, service == uploadPack || service == receivePack
	}
	for _, service := range []string{uploadPack, receivePack} {
		if repo, found := strings.CutSuffix(path, "/"+service); found && r.Method == http.MethodPost {
			return request{service, repoName(repo), version}, false, r.Header.Get("Content-Type") == "application/x-"+service+"-request"
		}
	}
	return q, false, false
}

// greet answers info/refs.
func (g *gate) greet(w http.ResponseWriter, r *http.Request, q request) error {
	out := bufio.NewWriter(w)
	kind := "application/x-" + q.service + "-advertisement"
	if q.service == uploadPack && q.version == 2 && g.rules.open(q).Allow { // nothing of the repository is told yet: ls-refs is the fetch
		w.Header().Set("Content-Type", kind)
		return errors.Join(advertiseV2(out, mirrorAllows), out.Flush())
	}
	m, err := g.admit(q)
	if err != nil {
		return err
	}
	snap, err := g.update(r.Context(), m, q)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", kind)
	return errors.Join(writePkt(out, "# service="+q.service+"\n"), writeFlush(out), advertise(out, q, m.source(snap), true), out.Flush())
}

// answer runs a service on a request's body.
func (g *gate) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, q request) error {
	if v := g.rules.open(q); !v.Allow {
		_, err := g.admit(q)
		return err
	}
	m := g.mirrors[q.repo]
	defer m.reading()()
	inV2 := q.service == uploadPack && q.version == 2
	if !inV2 && !m.fresh(freshEnough) {
		if _, err := g.admit(q); err != nil {
			return err
		}
		if _, err := g.update(r.Context(), m, q); err != nil {
			return err
		}
	}
	control := http.NewResponseController(w)
	in, err := requestBody(r, slow{r.Body, control, newPace(g.idle)})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-"+q.service+"-result")
	out := bufio.NewWriterSize(flushing{w, control, g.idle}, 64<<10)
	switch {
	case q.service == receivePack:
		err = (&pushing{gate: g, mirror: m, in: in, out: out, ends: true}).run(ctx)
	case inV2:
		err = g.speaker(m, in, out, false).serve(r.Context(), true)
	default:
		f := &fetching{source: m.source(m.current()), in: in, out: out, stateless: true, tab: g.kept.open(), walks: g.walks}
		defer f.tab.settle()
		err = f.run(r.Context())
	}
	var refused errRefused
	if errors.As(err, &refused) { // some of the answer may be on its way, so the protocol carries the reason
		err = writePkt(out, "ERR "+refused.Error())
	}
	return errors.Join(err, out.Flush())
}

// requestBody undoes gzip; what it inflates to is bounded by whoever reads it.
func requestBody(r *http.Request, body io.Reader) (*bufio.Reader, error) {
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, errRefused("the body is no gzip")
		}
		body = z
	default:
		return nil, errRefused("unknown Content-Encoding")
	}
	return bufio.NewReaderSize(body, 64<<10), nil
}

// flushing sends what it is given at once: messages must arrive while the work goes on.
type flushing struct {
	w       io.Writer
	control *http.ResponseController
	limit   time.Duration
}

func (f flushing) Write(p []byte) (int, error) {
	if err := f.control.SetWriteDeadline(time.Now().Add(f.limit)); err != nil {
		return 0, err
	}
	n, err := f.w.Write(p)
	return n, errors.Join(err, f.control.Flush())
}
