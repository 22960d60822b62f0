package hostctl

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
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
	if check, ok := proxyOfHost(os.LookupEnv); ok {
		h.Checks = append(h.Checks, check)
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
	all := []pair.Check{running}
	if lock, _, err := bundle.Load[bundle.PipelockFile](filepath.Join(card.Plan.Etc(), bundle.Pipelock+".yaml")); err == nil && lock.UpstreamProxy != nil {
		all = append(all, proxyOfPair(at, lock.UpstreamProxy))
	}
	authority, err := ca.Read(filepath.Join(card.Plan.Etc(), "ca", "ca.crt"))
	if err != nil {
		return append(all, pair.Check{Name: at + ": authority", State: pair.Bad, Says: err.Error()})
	}
	return append(all, constraint(at, authority), expiry(at, authority, now))
}

// proxyOfPair says through which proxy a pair reaches the internet, and what is no
// longer checked then.
func proxyOfPair(at string, p *bundle.UpstreamProxy) pair.Check {
	says := "origins are reached through " + p.URL
	if p.Auth != "" {
		says += " with a credential"
	}
	says += "; it resolves their names, so that only addresses in requests and in hosts are checked"
	var direct []string
	for _, d := range p.NoProxy {
		direct = append(direct, d.String())
	}
	if len(direct) > 0 {
		says += "; reached directly: " + strings.Join(direct, ", ")
	}
	return pair.Check{Name: at + ": proxy", State: pair.Warn, Says: says}
}

// proxyOfHost says that a proxy of the host's environment is not used by itself. Its URL
// may hold a password and is not told.
func proxyOfHost(lookup func(string) (string, bool)) (check pair.Check, ok bool) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if value, set := lookup(name); set && value != "" {
			return pair.Check{Name: "proxy", State: pair.Good, Says: "this host's environment names a proxy (" + name + "); pairs use it only with pipelock: {upstream_proxy: {url: \"env:" + name + "\"}} in the manifest"}, true
		}
	}
	return check, false
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
