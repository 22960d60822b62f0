// Package pipelock is the one process of a pair that dials out. It lets pass
// what its allowlist names, reads what leaves for secrets, resolves a name
// once, and dials just the address that it has judged. Egress speaks to it
// over a socket of the bundle; an agent without egress speaks to its port. It
// knows no credential but that of an upstream proxy.
package pipelock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/logs"
	"airlock/internal/metrics"
	"airlock/internal/secretmem"
	"airlock/internal/tunnel"
)

const (
	// drain is how long requests in progress may take after the end was asked for.
	drain       = 8 * time.Second
	defaultIdle = 10 * time.Minute
)

// Config is what Run needs.
type Config struct {
	File   string              // path of pipelock.yaml
	Dirs   bundle.Dirs         // what the well-known folders in the file stand for
	Pair   string              // for the audit
	Getenv func(string) string // where the digests are; never nil
	Log    *slog.Logger        // never nil
	Ready  func()              // told once, when requests are served; may be nil
}

// Main runs pipelock as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	file, dirs, err := bundle.Args(bundle.Pipelock, args, stderr)
	if err != nil {
		return err
	}
	log, err := logs.New(stderr)
	if err != nil {
		return err
	}
	slots, err := secretmem.Slots()
	if err != nil {
		return err
	}
	return Run(ctx, Config{File: file, Dirs: dirs, Pair: os.Getenv("AIRLOCK_PAIR"), Getenv: slots, Log: log})
}

// Validate says everything that is wrong with the file.
func (c Config) Validate() error {
	_, _, err := bundle.LoadBy[bundle.PipelockFile](activation.Open, c.File)
	return err
}

// Run serves until ctx ends or something fails that cannot be mended.
func Run(ctx context.Context, c Config) error {
	file, digest, err := bundle.LoadBy[bundle.PipelockFile](activation.Open, c.File)
	if err != nil {
		return err
	}
	s, book, err := c.build(file)
	if err != nil {
		return err
	}
	defer book.Close()
	group, ctx := errgroup.WithContext(ctx)
	s.over = ctx.Done()
	if err := c.listen(ctx, group, file, s); err != nil {
		return err
	}
	metrics.Expose(requests, findings, orderings, traffic)
	activation.Ready(digest)
	c.Log.Info("pipelock is ready", "allow", len(file.Allow))
	if c.Ready != nil {
		c.Ready()
	}
	return group.Wait()
}

// build makes the server from its file.
func (c Config) build(file bundle.PipelockFile) (*server, *audit.Log, error) {
	var extra []string
	if file.UpstreamCA != "" {
		extra = append(extra, c.Dirs.Path(file.UpstreamCA))
	}
	roots, err := ca.Roots(extra...)
	if err != nil {
		return nil, nil, err
	}
	certs, err := loadClientCertificates(file.ClientCertificates, c.Dirs)
	if err != nil {
		return nil, nil, err
	}
	rules, err := readRules(c.Dirs.Path(file.Secrets.Rules))
	if err != nil {
		return nil, nil, err
	}
	scan, err := newScanner(file, rules, c.Getenv)
	if err != nil {
		return nil, nil, err
	}
	book, err := audit.Open(c.Dirs.Audit(bundle.Pipelock), bundle.Pipelock, c.Pair)
	if err != nil {
		return nil, nil, err
	}
	book.Trouble = activation.Unavailable
	r := newRules(file)
	r.file = c.File
	activation.HandleQuery(activation.TopicExplain, r.explain)
	g := newGuard(r)
	if g.proxy, err = newUpstreamProxy(file.UpstreamProxy, c.Dirs, c.Getenv); err != nil {
		return nil, nil, errors.Join(err, book.Close())
	}
	if g.proxy != nil {
		c.Log.Warn("origins are reached through a proxy, which resolves their names: their addresses are not checked", "proxy", g.proxy.at.String())
	}
	s := newServer(c.Log, book, r, scan, newOrigins(g, roots, certs))
	s.budget = newBudget(file.Limits)
	s.answers = newAnswers(file.Answers)
	s.idle = file.Limits.TunnelIdle.Or(defaultIdle)
	s.askWait = file.Secrets.Wait.Or(defaultAsk)
	return s, book, nil
}

// listen opens both listeners: the socket for egress, and the port for an agent
// where there is an authority to intercept with.
func (c Config) listen(ctx context.Context, group *errgroup.Group, file bundle.PipelockFile, s *server) error {
	socket, err := activation.Listen(bundle.FDPipelockSocket, c.Dirs.Address("unix:"+cmp.Or(file.Socket, "/run/airlock/pipelock.sock")))
	if err != nil {
		return err
	}
	group.Go(func() error { return s.serveSocket(ctx, socket, activation.Stopping) })
	if file.CA == (bundle.CA{}) {
		return nil
	}
	minter, err := ca.Load(c.Dirs.Path(file.CA.Cert), c.Dirs.Path(file.CA.Key))
	if err != nil {
		return err
	}
	port, err := activation.Listen(bundle.FDPipelock, cmp.Or(file.Listen, fmt.Sprintf("0.0.0.0:%d", bundle.PortPipelock)))
	if err != nil {
		return err
	}
	t := tunnel.New(bundle.Pipelock, minter.Leaf, http.HandlerFunc(s.inside), c.Log, s.idle)
	group.Go(func() error { return s.serveAgent(ctx, port, t) })
	return nil
}
