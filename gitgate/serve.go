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

	"airlock/internal/policy"
)

const (
	// maxConns bounds the clients of git:// at a time.
	maxConns = 64
	// freshEnough is how old a refresh may be when a stateless client comes with its second request.
	freshEnough = 30 * time.Second
)

// serveGit accepts git:// clients until the listener closes, and returns when all are gone.
func (g *gate) serveGit(ctx context.Context, l net.Listener) error {
	slots := make(chan struct{}, maxConns)
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
		slots <- struct{}{}
		clients.Go(func() {
			defer func() { <-slots }()
			g.client(ctx, conn)
		})
	}
}

// idle gives a connection a new deadline with every use.
type idle struct {
	net.Conn
	limit time.Duration
}

func (c idle) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c idle) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// client serves one connection of git://. The end of the context cuts it.
func (g *gate) client(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer g.survive("git")
	patient := idle{conn, g.idle}
	in, out := bufio.NewReaderSize(patient, 64<<10), bufio.NewWriterSize(patient, 64<<10)
	err := g.daemon(ctx, in, out)
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
	if r := recover(); r != nil {
		g.log.Error("client handler panicked", "protocol", protocol, "type", fmt.Sprintf("%T", r))
	}
}

// daemon speaks git://: a request line, then the service. A client that asks for a newer protocol is answered in v0.
func (g *gate) daemon(ctx context.Context, in *bufio.Reader, out *bufio.Writer) error {
	line, err := readPkt(in)
	if err != nil {
		return errRefused("no request")
	}
	q, err := parseRequest(string(line))
	if err != nil {
		return errRefused(err.Error())
	}
	m, snap, err := g.begin(ctx, q)
	if err != nil {
		return err
	}
	if q.service == uploadPack {
		if err := errors.Join(advertiseFetch(out, snap), out.Flush()); err != nil {
			return err
		}
		return g.fetch(ctx, m, snap, in, out, false)
	}
	if err := errors.Join(advertisePush(out, snap), out.Flush()); err != nil {
		return err
	}
	return (&pushing{gate: g, mirror: m, in: in, out: out}).run(ctx)
}

// begin decides, writes the verdict down, and brings the mirror up to date: what upstream has now, or no answer.
func (g *gate) begin(ctx context.Context, q request) (*mirror, *snapshot, error) {
	v := g.rules.open(q)
	method := "fetch"
	if q.service == receivePack {
		method = "push"
	}
	if !v.Allow || method == "fetch" {
		if err := g.record(v, method, clean(q.repo), ""); err != nil {
			return nil, nil, errRefused("the audit cannot be written: nothing is served")
		}
	}
	if !v.Allow {
		return nil, nil, errRefused(v.Why)
	}
	m := g.mirrors[q.repo]
	snap, err := m.refresh(ctx)
	if err != nil {
		g.log.Warn("upstream failed", "repo", q.repo, "error", clean(err.Error()))
		if err := g.record(policy.Denied("upstream", clean(err.Error())), method, q.repo, ""); err != nil {
			return nil, nil, errRefused("the audit cannot be written: nothing is served")
		}
		return nil, nil, errRefused("upstream failed, and nothing stale is served: " + clean(err.Error()))
	}
	return m, snap, nil
}

func (g *gate) fetch(ctx context.Context, m *mirror, snap *snapshot, in *bufio.Reader, out *bufio.Writer, stateless bool) error {
	f := &fetching{set: m.store.Packs(), offered: m.offered, snap: snap, in: in, out: out, stateless: stateless}
	return f.run(ctx)
}

// web speaks smart HTTP. Errors are plain text, which git shows to the person. A push that has been read goes on until ctx
// ends, whether its client waits for the outcome or not.
func (g *gate) web(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	defer g.survive("http")
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	q, greeting, ok := route(r)
	if !ok {
		http.Error(w, "git-gate serves /<repository>.git over smart HTTP, and nothing else", http.StatusNotFound)
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
	path := r.URL.Path
	if repo, found := strings.CutSuffix(path, "/info/refs"); found && r.Method == http.MethodGet {
		service := r.URL.Query().Get("service")
		return request{service, repoName(repo)}, true, service == uploadPack || service == receivePack
	}
	for _, service := range []string{uploadPack, receivePack} {
		if repo, found := strings.CutSuffix(path, "/"+service); found && r.Method == http.MethodPost {
			return request{service, repoName(repo)}, false, r.Header.Get("Content-Type") == "application/x-"+service+"-request"
		}
	}
	return q, false, false
}

// greet answers info/refs.
func (g *gate) greet(w http.ResponseWriter, r *http.Request, q request) error {
	_, snap, err := g.begin(r.Context(), q)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-"+q.service+"-advertisement")
	out := bufio.NewWriter(w)
	advertise := advertiseFetch
	if q.service == receivePack {
		advertise = advertisePush
	}
	return errors.Join(writePkt(out, "# service="+q.service+"\n"), writeFlush(out), advertise(out, snap), out.Flush())
}

// answer runs a service on a request's body.
func (g *gate) answer(ctx context.Context, w http.ResponseWriter, r *http.Request, q request) error {
	if v := g.rules.open(q); !v.Allow {
		return errRefused(v.Why)
	}
	m := g.mirrors[q.repo]
	if !m.fresh(freshEnough) {
		if _, _, err := g.begin(r.Context(), q); err != nil {
			return err
		}
	}
	control := http.NewResponseController(w)
	in, err := requestBody(r, slow{r.Body, control, g.idle})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-"+q.service+"-result")
	out := bufio.NewWriterSize(flushing{w, control, g.idle}, 64<<10)
	if q.service == receivePack {
		err = (&pushing{gate: g, mirror: m, in: in, out: out}).run(ctx)
	} else {
		err = g.fetch(r.Context(), m, m.current(), in, out, true)
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

// slow gives a body a new deadline with every read.
type slow struct {
	io.Reader
	control *http.ResponseController
	limit   time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	if err := s.control.SetReadDeadline(time.Now().Add(s.limit)); err != nil {
		return 0, err
	}
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		// From now on the server itself watches the connection; a deadline would end the request while we work on it.
		if err := s.control.SetReadDeadline(time.Time{}); err != nil {
			return n, err
		}
	}
	return n, err
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
