package egress

import (
	"net/http"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// refuseConnect refuses a CONNECT to a host outside the name constraints of the pair's certificate
// authority. Inside TLS the client would see an invalid certificate instead of the reason
// (docs/decisions/0013-constrained-authority.md).
func (s *server) refuseConnect(w http.ResponseWriter, a policy.Authority, text bool) {
	v := s.active.Load().rules.outsideConstraints(a)
	if err := s.audit.Record(audit.Entry{Verdict: v.Word(), Rule: v.Rule, Why: v.Why, Host: a.Shown(), Method: http.MethodConnect}); err != nil {
		s.log.Error("refusing: the audit cannot be written", "error", err)
	}
	s.log.Info("refused", "host", a.Shown(), "method", http.MethodConnect, "rule", v.Rule, "why", v.Why)
	requests.Inc(v.Word(), class(http.StatusForbidden))
	httpd.Forbid(w, bundle.Egress, v, "https://"+a.HostFor(httpsPort)+"/", askFor(v), text)
}

// outsideConstraints returns the verdict on a host outside the constraints. A route that was granted
// after the start of the pair may name it.
func (rs rules) outsideConstraints(a policy.Authority) policy.Verdict {
	for i := range rs {
		if rs[i].Host.MatchesAuthority(a, httpsPort) {
			return policy.Denied("ca", "the pair's authority is constrained and may not speak for "+a.Host.String()+", which "+rs.name(i)+" names: that takes a new pair")
		}
	}
	return rs.noRouteVerdict(a)
}
