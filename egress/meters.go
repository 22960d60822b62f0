package egress

import (
	"airlock/internal/metrics"
	"airlock/internal/tunnel"
)

var (
	requests   = metrics.NewCounter("airlock_egress_requests_total", "Requests by verdict and class of the answer's status; none: the agent left before it.", "verdict", "status")
	injections = metrics.NewCounter("airlock_egress_credentials_injected_total", "Requests that got a credential, by its type.", "type")
	tokens     = metrics.NewCounter("airlock_egress_tokens_fetched_total", "Tokens that were asked for, by type and outcome.", "type", "outcome")
	redactions = metrics.NewCounter("airlock_egress_redactions_total", "Credentials in what an upstream sent, which were taken out.")
)

func expose(t *tunnel.Server) {
	metrics.Expose(requests, injections, tokens, redactions)
	metrics.SetGauge("airlock_egress_tunnels_open", "Tunnels that are open.", func() (float64, bool) { return float64(t.Open()), true })
}

// class returns the class of a status, like 2xx.
func class(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return string('0'+rune(status/100)) + "xx"
}
