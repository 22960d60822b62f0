// Package gitgate is the daemon through which the agent reaches git repositories: a mirror that is as current as its upstream,
// and a gate that scans every push before it goes there with a credential that the agent never sees.
//
// The agent speaks git:// or smart HTTP to it; it speaks ssh, to a pinned host key, or https to upstream. It refuses:
// repositories that are not configured, anything stale when upstream fails, every push with a secret anywhere in it
// (contents, commits, tags, names), and forced or deleting updates of protected references. No git, ssh or shell runs.
package gitgate

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/ca"
	"airlock/internal/hostkey"
	"airlock/internal/httpd"
	"airlock/internal/logs"
	"airlock/internal/metrics"
	"airlock/internal/policy"
	"airlock/internal/secretmem"
	"airlock/internal/secrets"
	"golang.org/x/sync/errgroup"
)

// Config is what Run needs.
type Config struct {
	File   bundle.GitGateFile
	Digest string      // of the file, told when ready
	Dirs   bundle.Dirs // where the well-known folders are
	Pair   string      // name for the audit

	Git  net.Listener // nil: inherited, or bound by File.Listen.Git
	HTTP net.Listener // nil: inherited, or bound by File.Listen.HTTP

	Slot  func(name string) string // credential slots; nil: none is filled
	Slots []string                 // their names, those of digests too; what else stands there does not matter
	Roots *x509.CertPool           // for https upstreams; nil: the system's

	Answer   time.Duration // until upstream advertises, and its longest silence; 0: 20 s
	Report   time.Duration // upstream's longest silence after a push; 0: 2 min
	Transfer time.Duration // one exchange with upstream, all in all; 0: 30 min
	ScanTime time.Duration // scan of one push; 0: 5 min
	Idle     time.Duration // a client's longest silence; 0: 1 min
	Drain    time.Duration // transfers in progress when the end comes; 0: 5 s
	// KeepAlive is how often a client that pushes hears that we are still at it; 0: 5 s.
	KeepAlive time.Duration

	Log *slog.Logger // nil: nothing is logged
}

// Validate says everything that is wrong.
func (c Config) Validate() error {
	errs := []error{c.File.Validate()}
	if c.Dirs == (bundle.Dirs{}) {
		errs = append(errs, errors.New("the folders of the bundle are needed"))
	}
	for _, d := range []time.Duration{c.Answer, c.Report, c.Transfer, c.ScanTime, c.Idle, c.Drain, c.KeepAlive} {
		if d < 0 {
			errs = append(errs, errors.New("a duration is negative"))
		}
	}
	return errors.Join(errs...)
}

// Main reads flags and configuration, and runs until ctx ends. With a service as the first argument it is that service instead: see UploadPack.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if served, err := service(ctx, args, stdout, stderr); served {
		return err
	}
	path, dirs, err := bundle.Args(bundle.GitGate, args, stderr)
	if err != nil {
		return err
	}
	file, digest, err := bundle.LoadBy[bundle.GitGateFile](activation.Open, path)
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
	names, err := secretmem.Names()
	if err != nil {
		return err
	}
	return Run(ctx, Config{File: file, Digest: digest, Dirs: dirs, Pair: os.Getenv("AIRLOCK_PAIR"), Slot: slots, Slots: names, Log: log})
}

// gate is the running daemon.
type gate struct {
	rules      rules
	mirrors    map[string]*mirror
	scanner    *secrets.Scanner
	cleared    *cleared
	own        map[string]bool // rules that are slots: the bundle's own credentials
	seal       seal
	audit      *audit.Log
	log        *slog.Logger
	pushLimits objects.Limits
	scanTime   time.Duration
	idle       time.Duration
	keepAlive  time.Duration
	kept       *budget // of what clients have said, until they are answered
	room       *budget // of the disk, for what is pushed
	turns      turns   // of pushes
	large      turns   // of pushes with large objects, to be looked at
	walks      turns   // of fetches
	farewells  farewells
	lfsHeld    lfsHeld

	lfsDownload  int64 // bytes of one object
	lfsTransfers *lfsTransfers

	grown chan struct{} // some mirror has a new pack
}

// Run serves until ctx ends, then lets transfers in progress finish for Config.Drain.
func Run(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	g, err := newGate(c)
	if err != nil {
		return err
	}
	defer g.close()
	git, err := listen(c.Git, bundle.FDGit, cmp.Or(c.File.Listen.Git, "0.0.0.0:9418"))
	if err != nil {
		return err
	}
	defer git.Close()
	web, err := listen(c.HTTP, bundle.FDGitHTTP, cmp.Or(c.File.Listen.HTTP, "0.0.0.0:9420"))
	if err != nil {
		return err
	}
	defer web.Close()
	metrics.Expose(verdicts)
	metrics.Collect(g.families)
	activation.Ready(c.Digest)
	return g.serve(ctx, git, web, cmp.Or(c.Drain, 5*time.Second))
}

func listen(given net.Listener, name, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	return activation.Listen(name, address)
}

// serve runs both protocols. Clients live on a context of their own, which ends after the drain.
func (g *gate) serve(ctx context.Context, git, web net.Listener, drain time.Duration) error {
	clients, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var busy sync.WaitGroup
	defer busy.Wait()
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			busy.Add(1)
			defer busy.Done()
			g.web(clients, w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       g.idle,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return clients },
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.serveGit(clients, git) })
	group.Go(func() error {
		g.upkeep(ctx)
		return nil
	})
	group.Go(func() error {
		leave := httpd.DrainOptions{Timeout: drain + farewellWithin, NoSuccessor: activation.NoSuccessor()}
		l := httpListener{web, ctx, newClientTable(maxConns)}
		server.ConnState = l.state
		if err := httpd.Serve(ctx, server, l, leave); err != nil {
			return fmt.Errorf("serving http: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		activation.Stopping()
		git.Close()
		time.AfterFunc(drain, func() { // for both protocols; to cut once more later is harmless
			g.farewells.say()
			cut()
		})
		return nil
	})
	return group.Wait()
}

func newGate(c Config) (*gate, error) {
	g := &gate{
		rules:    rules{repos: c.File.Repos, protect: c.File.Protect, refs: cmp.Or(c.File.Limits.Refs, 1000), allow: c.File.Scan.Allow},
		mirrors:  map[string]*mirror{},
		kept:     newBudget(maxKept),
		turns:    make(turns, pushesAtOnce),
		large:    make(turns, 1),
		walks:    make(turns, walksAtOnce),
		grown:    make(chan struct{}, 1),
		log:      cmp.Or(c.Log, slog.New(slog.DiscardHandler)),
		scanTime: cmp.Or(c.ScanTime, 5*time.Minute),
		idle:     cmp.Or(c.Idle, time.Minute),

		keepAlive: cmp.Or(c.KeepAlive, keepAlive),

		lfsDownload:  cmp.Or(int64(c.File.Limits.LFSDownloadBytes), 5<<30),
		lfsTransfers: newLFSTransfers(),
	}
	g.pushLimits = objects.Limits{
		PackBytes:   cmp.Or(int64(c.File.Limits.PushBytes), 1<<30),
		ObjectBytes: cmp.Or(int64(c.File.Limits.ObjectBytes), 100<<20),
		Objects:     2_000_000,
	}
	g.pushLimits.TotalBytes = 16*g.pushLimits.PackBytes + 1<<30
	g.room = newBudget(cmp.Or(int64(c.File.Limits.QuarantineBytes), max(leastQuarantine, 4*g.pushLimits.PackBytes)))
	known, err := c.known()
	if err != nil {
		return nil, err
	}
	g.own, g.cleared = map[string]bool{}, newCleared()
	for name := range known {
		g.own[name] = true
	}
	if g.scanner, err = newScanner(c, known); err != nil {
		return nil, err
	}
	if g.seal, err = openSeal(c.root()); err != nil {
		return nil, err
	}
	if g.audit, err = audit.Open(c.Dirs.Audit(bundle.GitGate), bundle.GitGate, c.Pair); err != nil {
		return nil, err
	}
	g.audit.Trouble = activation.Unavailable
	if c.Roots == nil && c.File.UpstreamCA != "" {
		c.Roots, err = ca.Roots(c.Dirs.Path(c.File.UpstreamCA))
	}
	if err = errors.Join(err, g.openMirrors(c)); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// newScanner reads the operator's rules, if there are any, and looks for the credentials of the bundle too.
func newScanner(c Config, known map[string]secrets.Digest) (*secrets.Scanner, error) {
	opts := secrets.Options{ArchiveDepth: 6, Known: known}
	if c.File.Scan.Config != "" {
		toml, err := os.ReadFile(c.Dirs.Path(c.File.Scan.Config))
		if err != nil {
			return nil, fmt.Errorf("reading scan rules: %w", err)
		}
		opts.Config = string(toml)
	}
	return secrets.New(opts)
}

// known are the credentials that the bundle holds, by their slots: the gate's own, of which it makes digests, and the digests of
// egress's, which it has never seen.
func (c Config) known() (map[string]secrets.Digest, error) {
	known := map[string]secrets.Digest{}
	for _, name := range c.ownSlots() {
		value := c.slot(name)
		if len(value) < secrets.MinLength {
			continue
		}
		d, err := digest(value)
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w", name, err)
		}
		known[name] = d
	}
	for _, name := range c.Slots {
		number, ok := strings.CutPrefix(name, "EGRESS_DIGEST_")
		if !ok || c.slot(name) == "" {
			continue
		}
		d, err := secrets.ParseDigest(c.slot(name))
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w", name, err)
		}
		known["EGRESS_TOKEN_"+number] = d
	}
	return known, nil
}

// ownSlots names the slots that hold credentials of the gate's, used or not.
func (c Config) ownSlots() (names []string) {
	for _, name := range c.Slots {
		if strings.HasPrefix(name, "GIT_TOKEN_") || strings.HasPrefix(name, "GIT_PASS_") {
			names = append(names, name)
		}
	}
	for _, repo := range c.File.Repos {
		names = append(names, repo.Token, repo.Passphrase)
	}
	return names
}

// slot is a credential, empty when there is none.
func (c Config) slot(name string) string {
	if name == "" || c.Slot == nil {
		return ""
	}
	return c.Slot(name)
}

// digest makes a token recognisable under a key that nobody else has.
func digest(token string) (secrets.Digest, error) {
	text, err := secrets.NewDigest(token, rand.Text())
	if err != nil {
		return secrets.Digest{}, err
	}
	return secrets.ParseDigest(text)
}

// root is the folder of the mirrors.
func (c Config) root() string {
	if c.File.Root != "" {
		return c.Dirs.Path(c.File.Root)
	}
	return filepath.Join(c.Dirs.State, "git")
}

func (g *gate) openMirrors(c Config) error {
	t := times{
		answer:   cmp.Or(c.Answer, 20*time.Second),
		report:   cmp.Or(c.Report, 2*time.Minute),
		transfer: cmp.Or(c.Transfer, 30*time.Minute),
	}
	limits := objects.Limits{PackBytes: 32 << 30, ObjectBytes: 512 << 20, TotalBytes: 512 << 30, Objects: 50_000_000}
	for name, repo := range c.File.Repos {
		up, err := newTransport(c, repo)
		if err != nil {
			return fmt.Errorf("repos.%s: %w", name, err)
		}
		// The name was checked with the configuration: it holds no slash and does not begin with a dot.
		if g.mirrors[name], err = openMirror(name, filepath.Join(c.root(), name+".git"), up, limits, t); err != nil {
			return err
		}
		g.mirrors[name].hide = redactor(c.slot(repo.Token))
		g.mirrors[name].grown = g.wake
		u, err := bundle.ParseGitURL(repo.URL)
		if err != nil {
			return fmt.Errorf("repos.%s: url: %w", name, err)
		}
		g.mirrors[name].lfs = newLFSUpstream(u, up, bundle.ParseHosts(c.File.Hosts), c.Roots, g.mirrors[name].hide, t)
	}
	return nil
}

// newTransport picks the way to a repository's upstream.
func newTransport(c Config, repo bundle.Repo) (transport, error) {
	u, err := bundle.ParseGitURL(repo.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	d := dialer(bundle.ParseHosts(c.File.Hosts))
	switch u.Scheme {
	case "ssh":
		keys, err := hostkey.Parse(repo.HostKey)
		if err != nil {
			return nil, fmt.Errorf("host_key: %w", err)
		}
		t := &sshTransport{url: u, dial: d.dial, identity: c.Dirs.Path(repo.Identity), passphrase: c.slot(repo.Passphrase)}
		for _, k := range keys {
			if k.For(u.Hostname(), u.Port()) {
				t.pins = append(t.pins, k)
			}
		}
		return t, nil
	case "https":
		t := newHTTPTransport(u, d, c.Roots)
		t.token = c.slot(repo.Token)
		t.empty = repo.Token != "" && t.token == ""
		return t, nil
	}
	return nil, fmt.Errorf("url: no way to an upstream of the scheme %q", u.Scheme)
}

// redactor takes a token, in every form, out of what upstream says: it may echo what we sent.
func redactor(token string) func(string) string {
	var pairs []string
	for _, form := range secrets.Encodings(token) {
		pairs = append(pairs, string(form), "[redacted]")
	}
	return strings.NewReplacer(pairs...).Replace
}

// verdicts count what is written down: a fetch is one, a push is one for each ref.
var verdicts = metrics.NewCounter("airlock_git_verdicts_total", "Verdicts on fetches, and on each ref of a push.", "operation", "verdict")

// record writes a verdict down.
func (g *gate) record(v policy.Verdict, method, repo, ref string) error {
	verdicts.Inc(method, v.Word())
	return g.audit.Record(audit.Entry{Verdict: v.Word(), Rule: v.Rule, Why: v.Why, Method: method, Repo: repo, Ref: ref})
}

func (g *gate) close() {
	for _, m := range g.mirrors {
		_ = m.store.Close()
	}
	_ = g.audit.Close()
}
