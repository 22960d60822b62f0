// Package probe tries to get out from where it runs, as an agent would: by
// routes, by the addresses of the host and the bridge, by DNS, by the metadata
// address, by raw sockets and by AF_VSOCK. A backend runs it from the agent's
// place before the agent starts and refuses to go on when anything but the
// wanted ports was reached. It sends nothing but connection attempts, one DNS
// question and, to a Canary of the host's, datagrams past the routing table.
package probe

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
)

// attemptTime bounds all attempts together, which run side by side. What is
// near answers within milliseconds.
const attemptTime = 800 * time.Millisecond

// Finding is the outcome of one attempt.
type Finding struct {
	Check  string `json:"check"`
	Target string `json:"target,omitempty"`
	Good   bool   `json:"good"` // a wanted port answers, a way out is closed
	Detail string `json:"detail"`
}

func (f Finding) String() string {
	return strings.TrimSpace(f.Check+" "+f.Target) + ": " + f.Detail
}

// Report is what a whole probe found.
type Report struct {
	Closed   bool      `json:"closed"`
	Findings []Finding `json:"findings"`
}

// Wrong are the findings for which a pair must not start.
func (r Report) Wrong() []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Good })
}

// Err is nil when everything is closed, or else names what is not.
func (r Report) Err() error {
	var names []string
	for _, f := range r.Wrong() {
		names = append(names, f.String())
	}
	if len(names) == 0 {
		return nil
	}
	return errors.New("the agent's place is not closed: " + strings.Join(names, "; "))
}

// Config says what to try. The zero value wants nothing and tries every way
// out that needs no address.
type Config struct {
	Want   []string // host:port that must answer
	Forbid []string // host:port that must not be reached, beside the usual ones
	Name   string   // a name of the outside that must not be found; empty: example.com

	// Datagram is the Token of a Canary at the forbidden addresses: datagrams
	// with it are sent there in every way. Empty: none is sent.
	Datagram string
}

// Main is the applet: exit code 0 when closed, 1 when something got out.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.SetOutput(stderr)
	want := flags.String("want", "", "`host:port,...` that must answer")
	forbid := flags.String("forbid", "", "`host:port,...` that must not be reached, beside the usual ones")
	name := flags.String("name", "", "a `name` of the outside that must not be found (default example.com)")
	datagram := flags.String("datagram", "", "send datagrams with this `token` to the forbidden addresses; their receiver says whether they arrive")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	if err := flags.Parse(args); err != nil {
		return config.Usagef("probe: %v", err)
	}
	if flags.NArg() > 0 {
		return config.Usagef("probe: unexpected argument %q", flags.Arg(0))
	}
	c := Config{Want: list(*want), Forbid: list(*forbid), Name: *name, Datagram: *datagram}
	if err := c.Validate(); err != nil {
		return err
	}
	report := Run(ctx, c)
	if err := report.print(stdout, *asJSON); err != nil {
		return err
	}
	return report.Err()
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(e string) bool { return e == "" })
}

// Validate says which addresses are none.
func (c Config) Validate() error {
	for _, a := range slices.Concat(c.Want, c.Forbid) {
		host, port, err := net.SplitHostPort(a)
		if n, convErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || convErr != nil || n == 0 {
			return config.Usagef("probe: %q: host:port was wanted", a)
		}
	}
	return nil
}

func (r Report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	for _, f := range r.Findings {
		mark := "ok  "
		if !f.Good {
			mark = "OPEN"
		}
		if _, err := fmt.Fprintf(w, "%s %s\n", mark, f); err != nil {
			return err
		}
	}
	return nil
}

// attempt is one way out, or one wanted port.
type attempt func(ctx context.Context) Finding

// Run makes all attempts side by side.
func Run(ctx context.Context, c Config) Report {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	attempts := c.attempts()
	findings := make([]Finding, len(attempts))
	var all sync.WaitGroup
	for i, a := range attempts {
		all.Go(func() { findings[i] = a(ctx) })
	}
	all.Wait()
	r := Report{Findings: findings}
	r.Closed = len(r.Wrong()) == 0
	return r
}

func (c Config) attempts() []attempt {
	name := c.Name
	if name == "" {
		name = "example.com"
	}
	attempts := []attempt{
		dns(name),
		unreachable("metadata", "169.254.169.254:80"),
		unreachable("internet", "1.1.1.1:443"),
		unreachable("internet", "[2606:4700:4700::1111]:443"),
	}
	for _, a := range c.Want {
		attempts = append(attempts, answers(a))
	}
	for _, a := range c.Forbid {
		attempts = append(attempts, unreachable("forbidden", a))
	}
	return append(attempts, c.system()...)
}

// Want are the addresses that an agent must reach when these daemons run;
// none means all of them. Behind egress, pipelock's own port may be shut.
func Want(daemons []string) []string {
	ports := map[string][]string{
		bundle.Egress:    {address("egress", bundle.PortEgress)},
		bundle.Pipelock:  {address("pipelock", bundle.PortPipelock)},
		bundle.GitGate:   {address("git-gate", bundle.PortGit), address("git-gate", bundle.PortGitHTTP)},
		bundle.Supervise: {address("supervise", bundle.PortSupervise)},
	}
	if len(daemons) == 0 {
		daemons = bundle.Daemons()
	}
	var want []string
	for _, d := range daemons {
		if d == bundle.Pipelock && slices.Contains(daemons, bundle.Egress) {
			continue
		}
		want = append(want, ports[d]...)
	}
	return want
}

func address(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
