// Package egress is the agent's only way to the web. It terminates the
// agent's TLS, lets a request pass when a route names it, takes the agent's
// own credentials out and puts the real one in, and hands the request to
// pipelock over a socket of the bundle. What comes back it searches for the
// credential, so that no upstream can tell it to the agent. It resolves no
// name and dials nothing but pipelock.
package egress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/config"
	"airlock/internal/logs"
	"airlock/internal/policy"
	"airlock/internal/secretmem"
)

// drain is how long requests in progress may take after the end was asked for.
const drain = 8 * time.Second

// Config is what Run needs.
type Config struct {
	File   string               // path of egress.yaml; read again on SIGHUP
	Dirs   bundle.Dirs          // what the well-known folders in the file stand for
	Pair   string               // for the audit
	Getenv func(string) string  // where the slots are; never nil
	Reload <-chan os.Signal     // each value is one reload; nil: never
	Log    *slog.Logger         // never nil
	Ready  func(address string) // told once, when requests are served; may be nil
}

// Main runs egress as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	file, dirs, err := bundle.Args(bundle.Egress, args, stderr)
	if err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	log, err := logs.New(stderr)
	if err != nil {
		return err
	}
	slots, err := secretmem.Slots()
	if err != nil {
		return err
	}
	return Run(ctx, Config{File: file, Dirs: dirs, Pair: os.Getenv("AIRLOCK_PAIR"), Getenv: slots, Reload: reload, Log: log})
}

// Validate says everything that is wrong with the configuration, the file
// that it names among it.
func (c Config) Validate() error {
	_, _, err := c.load()
	return err
}

// load reads the file into the policy that is served.
func (c Config) load() (bundle.EgressFile, *activeConfig, error) {
	file, digest, err := bundle.LoadBy[bundle.EgressFile](activation.Open, c.File)
	if err != nil {
		return file, nil, err
	}
	creds := readCredentials(file.Routes, c.Getenv)
	return file, &activeConfig{
		digest:      digest,
		file:        c.File,
		lines:       file.Lines,
		rules:       file.Routes,
		mirrors:     newMirrors(file.Mirrors),
		learn:       file.Learn,
		credentials: creds,
		canaries:    newCanaries(file.Routes),
		patterns:    formsOf(creds.redactable(file.Routes), users(file.Routes)),
	}, nil
}

// Run serves until ctx ends or something fails that cannot be mended.
func Run(ctx context.Context, c Config) error {
	file, first, err := c.load()
	if err != nil {
		return err
	}
	minter, err := ca.Load(c.Dirs.Path(file.CA.Cert), c.Dirs.Path(file.CA.Key))
	if err != nil {
		return err
	}
	log, err := audit.Open(c.Dirs.Audit(bundle.Egress), bundle.Egress, c.Pair)
	if err != nil {
		return err
	}
	defer log.Close()
	log.Trouble = activation.Unavailable
	hop, err := newHop(file.Upstream, c.Dirs)
	if err != nil {
		return err
	}
	l, err := activation.Listen(bundle.FDEgress, cmp.Or(file.Listen, fmt.Sprintf("0.0.0.0:%d", bundle.PortEgress)))
	if err != nil {
		return err
	}
	s := newServer(c.Log, log, hop, minter)
	first.tokens = newTokenCache(hop, log)
	first.redactor() // now, not with the first answer
	s.active.Store(first)
	first.warn(c.Log)
	expose(s.tunnels)
	s.registerQueries()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.serve(ctx, l) })
	group.Go(func() error { c.reloads(ctx, s, file.CA); return nil })
	first.announce()
	c.Log.Info("egress is ready", "address", l.Addr().String(), "routes", len(first.rules))
	if c.Ready != nil {
		c.Ready(l.Addr().String())
	}
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// reloads swaps the policy whenever asked. A bad file leaves the old one.
func (c Config) reloads(ctx context.Context, s *server, authority bundle.CA) {
	for {
		select {
		case <-ctx.Done():
			activation.Stopping()
			return
		case <-c.Reload:
		}
		file, next, err := c.load()
		if err == nil && file.CA != authority {
			// This process can open only the files that were named when it started.
			err = &config.Error{Where: c.File, What: "ca has changed: that takes a new process (restart egress)"}
		}
		if err != nil {
			c.Log.Error("the configuration was refused; the old routes stay", "error", err)
			activation.Notify(activation.KeyError, err.Error())
			continue
		}
		next.tokens = s.active.Load().tokens
		s.active.Store(next)
		s.revoke(next)
		next.warn(c.Log)
		next.announce()
		c.Log.Info("reloaded", "routes", len(next.rules), "digest", next.digest[:12])
	}
}

// activeConfig is one configuration, as it is served.
type activeConfig struct {
	digest      string
	file        string // that it was read from
	lines       []int  // of each route in it
	rules       rules
	mirrors     mirrors          // git to git-gate
	learn       []policy.Pattern // learn mode passes what goes there; none: it is off
	credentials credentials
	canaries    canaries
	patterns    []form      // of the wallet
	tokens      *tokenCache // nil where nothing is served

	cachedRedactor atomic.Pointer[redactorCache]
}

// redactorCache is a redactor and the tokens that it was made for.
type redactorCache struct {
	redactor *redactor
	issued   *[]issuedToken
}

// redactor looks for everything that an answer must not tell, as of now.
func (l *activeConfig) redactor() *redactor {
	var issued *[]issuedToken
	if l.tokens != nil {
		issued = l.tokens.issued.Load()
	}
	if have := l.cachedRedactor.Load(); have != nil && have.issued == issued {
		return have.redactor
	}
	forms := slices.Clone(l.patterns)
	if issued != nil {
		for _, t := range *issued {
			forms = append(forms, formsOf(credentials{t.slot: t.value}, nil)...)
		}
	}
	next := &redactorCache{newRedactor(forms), issued}
	l.cachedRedactor.Store(next)
	return next.redactor
}

// announce tells the supervisor what is served.
func (l *activeConfig) announce() {
	activation.Notify(activation.KeyDegraded, l.learnNotice())
	activation.Ready(l.digest)
}

// warn says which routes will refuse for want of a credential, and that more
// passes than the routes.
func (l *activeConfig) warn(log *slog.Logger) {
	if m := l.learnNotice(); m != "" {
		log.Warn(m)
	}
	for i, r := range l.rules {
		if r.Auth == nil {
			continue
		}
		if v := l.credentials.missing(r.Auth); !v.Allow {
			log.Warn("a route will refuse", "route", fmt.Sprintf("routes[%d] %s", i, r.Host), "why", v.Why)
		}
	}
}
