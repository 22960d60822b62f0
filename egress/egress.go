// Package egress is the agent's only access to the web. It terminates the agent's TLS, forwards a
// request if a route allows it, removes the agent's own credentials, injects the real one, and sends
// the request to pipelock over a socket of the bundle. It redacts the credential from responses, so
// that no upstream can return it to the agent. It resolves no names and dials only pipelock.
//
// Each request is handled by the goroutine of its connection with one activeConfig, which a reload
// replaces as a whole.
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

// drain is how long requests in progress may take after a stop was requested.
const drain = 8 * time.Second

// Config is what Run needs.
type Config struct {
	File   string               // path of egress.yaml; read again on SIGHUP
	Dirs   bundle.Dirs          // the folders that paths in the file refer to
	Pair   string               // for the audit
	Getenv func(string) string  // returns the values of the slots; never nil
	Reload <-chan os.Signal     // each value is one reload; nil: never
	Log    *slog.Logger         // never nil
	Ready  func(address string) // called once, when requests are served; may be nil
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

// Validate returns all errors of the configuration, including those of the file that it names.
func (c Config) Validate() error {
	_, _, err := c.load()
	return err
}

// load reads the file into a configuration that can be served.
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

// Run serves until ctx ends or an unrecoverable error occurs.
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
	hop := newHop(file.Upstream, c.Dirs)
	l, err := activation.Listen(bundle.FDEgress, cmp.Or(file.Listen, fmt.Sprintf("0.0.0.0:%d", bundle.PortEgress)))
	if err != nil {
		return err
	}
	s := newServer(c.Log, log, hop, minter)
	first.tokens = newTokenCache(hop, log)
	first.redactor() // built now rather than for the first response
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

// reloads replaces the configuration on each value of c.Reload. An invalid file changes nothing.
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

// activeConfig is one loaded configuration with everything derived from it. Apart from the cached
// redactor it is read-only, and may be used concurrently.
type activeConfig struct {
	digest      string
	file        string // path of the configuration
	lines       []int  // line of each route in the file
	rules       rules
	mirrors     mirrors          // repositories that are redirected to git-gate
	learn       []policy.Pattern // hosts of learn mode; none: it is off
	credentials credentials
	canaries    canaries
	patterns    []form      // forms of the credentials, for redaction
	tokens      *tokenCache // nil where nothing is served

	cachedRedactor atomic.Pointer[redactorCache]
}

// redactorCache is a redactor and the list of issued tokens that it was built for.
type redactorCache struct {
	redactor *redactor
	issued   *[]issuedToken
}

// redactor returns the redactor for all credentials and the tokens issued so far.
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

// announce notifies the supervisor of the configuration in force.
func (l *activeConfig) announce() {
	activation.Notify(activation.KeyDegraded, l.learnNotice())
	activation.Ready(l.digest)
}

// warn logs which routes will refuse because a credential is missing, and whether learn mode is on.
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
