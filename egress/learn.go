package egress

import (
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/metrics"
	"airlock/internal/policy"
)

// learnRule is the rule of a verdict that allows only because of learn mode.
const learnRule = "learn"

var learned = metrics.NewCounter("airlock_egress_learned_requests_total", "Requests that no route let pass, only learn mode.")

// decideOrLearn returns the verdict of the routes. If they deny a request to a host of learn mode, it is
// allowed without a credential, and the audit gets the reason of the denial. A push, an invalid path
// and an invalid method are never allowed.
func (l *activeConfig) decideOrLearn(a requestInfo, now time.Time) (policy.Verdict, *bundle.Route) {
	refused, route := l.rules.decide(a, now)
	if refused.Allow || len(l.learn) == 0 {
		return refused, route
	}
	path, sane := admissible(a)
	if !sane.Allow {
		return refused, nil
	}
	plain := bundle.Route{}
	if fetchesGit(path, a) {
		plain.Git = "fetch"
	}
	for _, plain.Host = range l.learn {
		if v, _ := matchRoute(&plain, a, path, now); v.Allow {
			return policy.Verdict{Allow: true, Rule: learnRule, Why: oneLine(refused)}, &plain
		}
	}
	return refused, nil
}

// oneLine returns a denial as one line.
func oneLine(v policy.Verdict) string {
	if v.Rule == noRoute {
		return v.Why
	}
	return v.Rule + ": " + v.Why
}

// learnNotice returns the notice for the operator that learn mode is on; empty: it is off.
func (l *activeConfig) learnNotice() string {
	if len(l.learn) == 0 {
		return ""
	}
	var hosts []string
	for _, p := range l.learn {
		hosts = append(hosts, p.String())
	}
	return "learn mode: whatever is asked of " + strings.Join(hosts, ", ") + " passes without a credential, and is written down"
}

// meterLearning exposes whether learn mode is on and how many requests it allowed.
func (s *server) meterLearning() {
	metrics.Expose(learned)
	metrics.SetGauge("airlock_egress_learn_mode", "1 while learn mode is on.", func() (float64, bool) {
		if s.active.Load().learnNotice() != "" {
			return 1, true
		}
		return 0, true
	})
}
