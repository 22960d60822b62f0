package pipelock

import (
	"errors"
	"net"
	"strings"

	"airlock/internal/metrics"
	"airlock/internal/policy"
)

// What pipelock counts.
var (
	requests  = metrics.NewCounter("airlock_pipelock_requests_total", "Requests by verdict; one that is stopped after it began counts under both.", "verdict")
	findings  = metrics.NewCounter("airlock_pipelock_findings_total", "Secrets that were found, by the family of the rule.", "rule")
	orderings = metrics.NewCounter("airlock_pipelock_orders_total", "Answers with text that is meant for an agent, by the rule.", "rule")
	traffic   = metrics.NewCounter("airlock_pipelock_bytes_total", "Bytes to and from origins, TLS among them.", "direction")
)

// tally counts a verdict.
func tally(word string, v policy.Verdict) {
	requests.Inc(word)
	if rule, ok := strings.CutPrefix(v.Rule, "secret: "); ok {
		findings.Inc(family(rule))
	}
}

// family is what the names of one provider's rules begin with: "github" of
// "github-fine-grained-pat".
func family(rule string) string {
	name, _, _ := strings.Cut(rule, "-")
	return name
}

// meteredConn counts what goes to an origin and comes from it.
type meteredConn struct{ net.Conn }

func (c meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	traffic.Add(n, "received")
	return n, err
}

func (c meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	traffic.Add(n, "sent")
	return n, err
}

// NetConn is the connection below.
func (c meteredConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends one direction.
func (c meteredConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
