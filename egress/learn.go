package egress

import (
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/metrics"
	"airlock/internal/policy"
)

// learnRule is the rule of a verdict that only learn mode let pass.
const learnRule = "learn"

var learned = metrics.NewCounter("airlock_egress_learned_requests_total", "Requests that no route let pass, only learn mode.")

// decideOrLearn is the routes' verdict; where they refuse, and the operator wants to
// learn about the host, the request passes with the reason written down, and
// with no credential. A push, a bad path and a bad method never pass.
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

// oneLine is a refusal in one line.
func oneLine(v policy.Verdict) string {
	if v.Rule == noRoute {
		return v.Why
	}
	return v.Rule + ": " + v.Why
}

// learnNotice is how the operator is told, and empty while routes alone decide.
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

// meterLearning tells whether learn mode is on, and what it let pass.
func (s *server) meterLearning() {
	metrics.Expose(learned)
	metrics.SetGauge("airlock_egress_learn_mode", "1 while learn mode is on.", func() (float64, bool) {
		if s.active.Load().learnNotice() != "" {
			return 1, true
		}
		return 0, true
	})
}
