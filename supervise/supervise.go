// Package supervise is the MCP server that an agent asks for access or help. It stores the request as a
// proposal and waits a while for the operator's answer. It changes no policy and starts no process:
// hostctl does the first, the supervisor the second.
package supervise

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"airlock/internal/activation"
	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/logs"
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
	Dirs  bundle.Dirs  // the folders that paths in the file refer to
	Pair  string       // for the audit
	Log   *slog.Logger // never nil
	Ready func(address string)
}

// Main runs supervise as the applet of that name.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	file, dirs, err := bundle.Args(bundle.Supervise, args, stderr)
	if err != nil {
		return err
	}
	log, err := logs.New(stderr)
	if err != nil {
		return err
	}
	return Run(ctx, Config{File: file, Dirs: dirs, Pair: os.Getenv("AIRLOCK_PAIR"), Log: log})
}

// Validate returns all errors of the file.
func (c Config) Validate() error {
	_, _, err := bundle.LoadBy[bundle.SuperviseFile](activation.Open, c.File)
	return err
}

// Run serves until ctx ends. Calls that still wait then get the state "pending".
func Run(ctx context.Context, c Config) error {
	file, digest, err := bundle.LoadBy[bundle.SuperviseFile](activation.Open, c.File)
	if err != nil {
		return err
	}
	store, err := proposal.Open(c.Dirs.Path(cmp.Or(file.Store, "/var/lib/airlock/proposals")))
	if err != nil {
		return err
	}
	book, err := audit.Open(c.Dirs.Audit(bundle.Supervise), bundle.Supervise, c.Pair)
	if err != nil {
		return err
	}
	defer book.Close()
	book.Trouble = activation.Unavailable
	l, err := activation.Listen(bundle.FDSupervise, cmp.Or(file.Listen, fmt.Sprintf("0.0.0.0:%d", bundle.PortSupervise)))
	if err != nil {
		return err
	}
	d := &service{
		store: store, audit: book, dirs: c.Dirs, daemonCtx: ctx,
		wait:    file.Wait.Or(defaultWait),
		maxOpen: cmp.Or(file.Limits.OpenProposals, defaultOpen),
		maxText: int(file.Limits.JustificationBytes.Or(defaultText)),
	}
	d.expose()
	activation.Ready(digest)
	c.Log.Info("supervise is ready", "address", l.Addr().String())
	if c.Ready != nil {
		c.Ready(l.Addr().String())
	}
	context.AfterFunc(ctx, activation.Stopping)
	return httpd.Serve(ctx, httpd.NewServer(d.handler(c.Log), c.Log), l, httpd.DrainOptions{Timeout: drain, NoSuccessor: activation.NoSuccessor()})
}
