package hostctl

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"airlock/hostctl/pair"
	"airlock/internal/ca"
)

// soon is how long before its end an authority is worth a warning.
const soon = 14 * 24 * time.Hour

// examiner is a backend that can say whether it would work here.
type examiner interface {
	Doctor(ctx context.Context) []pair.Check
}

// health is what doctor finds.
type health struct {
	OK     bool         `json:"ok"` // a backend works here, and nothing is wrong with any pair
	Checks []pair.Check `json:"checks"`
}

var errIll = errors.New("something is wrong, see above")

func (c *controller) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Tell what works here, and what is worth knowing of each pair", Args: exactly(0, "no arguments"),
		Example: "  hostctl doctor --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := c.examine(cmd.Context(), time.Now())
			if err != nil {
				return err
			}
			if err := c.tell(h); err != nil {
				return err
			}
			if !h.OK {
				return errIll
			}
			return nil
		},
	}
}

func (c *controller) tell(h health) error {
	if c.json {
		return c.print(h)
	}
	t := tabwriter.NewWriter(c.out, 0, 4, 2, ' ', 0)
	for _, check := range h.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", check.State, check.Name, check.Says)
	}
	return t.Flush()
}

// examine asks every backend, and looks at every pair.
func (c *controller) examine(ctx context.Context, now time.Time) (health, error) {
	var h health
	for _, name := range []string{"docker", "local"} {
		checks := c.backendChecks(ctx, name)
		h.OK = h.OK || !slices.ContainsFunc(checks, isBad)
		h.Checks = append(h.Checks, checks...)
	}
	names, err := c.store.names()
	if err != nil {
		return h, err
	}
	for _, name := range names {
		checks := c.pairChecks(ctx, name, now)
		h.OK = h.OK && !slices.ContainsFunc(checks, isBad)
		h.Checks = append(h.Checks, checks...)
	}
	return h, nil
}

func isBad(c pair.Check) bool { return c.State == pair.Bad }

func (c *controller) backendChecks(ctx context.Context, name string) []pair.Check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := c.backends[name]()
	if err != nil {
		return []pair.Check{{Name: name, State: pair.Bad, Says: err.Error()}}
	}
	if e, ok := b.(examiner); ok {
		return e.Doctor(ctx)
	}
	return nil
}

func (c *controller) pairChecks(ctx context.Context, name string, now time.Time) []pair.Check {
	at := "pair " + name
	card, b, err := c.of(ctx, name)
	if err != nil {
		return []pair.Check{{Name: at, State: pair.Bad, Says: err.Error()}}
	}
	running := pair.Check{Name: at, State: pair.Good, Says: "the daemons serve"}
	if err := ctl(ctx, b, name, nil, "health"); err != nil {
		running.State, running.Says = pair.Bad, err.Error()
	}
	authority, err := ca.Read(filepath.Join(card.Plan.Etc(), "ca", "ca.crt"))
	if err != nil {
		return []pair.Check{running, {Name: at + ": authority", State: pair.Bad, Says: err.Error()}}
	}
	return []pair.Check{running, constraint(at, authority), expiry(at, authority, now)}
}

// constraint says for whom a pair's authority may speak, and what that means.
func constraint(at string, authority *x509.Certificate) pair.Check {
	check := pair.Check{Name: at + ": authority", State: pair.Good}
	if !ca.Constrained(authority) {
		check.Says = "not constrained: every refusal can be shown inside TLS, and what is approved takes effect at once; egress: {ca: constrained} in the manifest binds it to the routes' hosts"
		return check
	}
	hosts := slices.Clone(authority.PermittedDNSDomains)
	for _, n := range authority.PermittedIPRanges {
		hosts = append(hosts, n.IP.String())
	}
	check.Says = "constrained to " + strings.Join(hosts, ", ") + " and what is below them; curl, OpenSSL, GnuTLS, Go, Node and Python hold it to that, another host takes a new pair"
	return check
}

func expiry(at string, authority *x509.Certificate, now time.Time) pair.Check {
	check := pair.Check{Name: at + ": expiry", State: pair.Good, Says: "the authority is valid until " + authority.NotAfter.UTC().Format(time.RFC3339)}
	switch left := authority.NotAfter.Sub(now); {
	case left <= 0:
		check.State, check.Says = pair.Bad, "the authority has expired: stop the pair and start it anew"
	case left < soon:
		check.State = pair.Warn
		check.Says += ": stop the pair and start it anew before that"
	}
	return check
}
