// Package supervise is the MCP server an agent asks for help or permission.
// It writes the request down as a proposal and waits a while for the
// operator's answer. It changes no policy and starts no process: the host
// does the first, the supervisor the second.
package supervise

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/handoff"
	"airlock/internal/httpd"
	"airlock/internal/proposal"
)

const (
	drain       = 5 * time.Second
	defaultWait = 30 * time.Second
	defaultOpen = 50
	defaultText = 4 << 10 // bytes of a justification
)

// Config is what Run needs.
type Config struct {
	File  string       // path of supervise.yaml
	Dirs  bundle.Dirs  // what the well-known folders in the file stand for
	Pair  string       // for the audit
	Log   *slog.Logger // never nil
	Ready func(address string)
}

// Main runs supervise as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	dirs := bundle.DirsFromEnv()
	flags := flag.NewFlagSet("supervise", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("config", dirs.File(bundle.Supervise), "configuration `file`")
	if err := flags.Parse(args); err != nil {
		return config.Usagef("supervise: %v", err)
	}
	if flags.NArg() > 0 {
		return config.Usagef("supervise: unexpected argument %q", flags.Arg(0))
	}
	return Run(ctx, Config{File: *file, Dirs: dirs, Pair: os.Getenv("AIRLOCK_PAIR"), Log: slog.New(slog.NewTextHandler(stderr, nil))})
}

// Validate says everything that is wrong with the file.
func (c Config) Validate() error {
	_, _, err := bundle.Load[bundle.SuperviseFile](c.File)
	return err
}

// Run serves until ctx ends. Calls that wait then are answered "pending".
func Run(ctx context.Context, c Config) error {
	file, digest, err := bundle.Load[bundle.SuperviseFile](c.File)
	if err != nil {
		return err
	}
	store, err := proposal.Open(c.Dirs.Path(orDefault(file.Store, "/var/lib/airlock/proposals")))
	if err != nil {
		return err
	}
	book, err := audit.Open(c.Dirs.Audit(bundle.Supervise), bundle.Supervise, c.Pair)
	if err != nil {
		return err
	}
	defer book.Close()
	l, err := handoff.Listen(bundle.FDSupervise, orDefault(file.Listen, fmt.Sprintf("0.0.0.0:%d", bundle.PortSupervise)))
	if err != nil {
		return err
	}
	d := &desk{
		store: store, audit: book, dirs: c.Dirs, over: ctx,
		wait: file.Wait.Or(defaultWait),
		open: orZero(file.Limits.OpenProposals, defaultOpen),
		text: int(file.Limits.JustificationBytes.Or(defaultText)),
	}
	handoff.Ready(digest)
	c.Log.Info("supervise is ready", "address", l.Addr().String())
	if c.Ready != nil {
		c.Ready(l.Addr().String())
	}
	context.AfterFunc(ctx, handoff.Stopping)
	return httpd.Serve(ctx, httpd.NewServer(d.handler(c.Log), c.Log), l, drain)
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func orZero(n, def int) int {
	if n == 0 {
		return def
	}
	return n
}
