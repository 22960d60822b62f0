package egress

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// explain returns the verdict on a request without sending it. Nothing is resolved, dialled or recorded.
func (l *activeConfig) explain(q policy.Question, now time.Time) policy.Explanation {
	x := policy.Explanation{Daemon: bundle.Egress}
	t, err := policy.ParseTarget(q.URL)
	if err != nil {
		x.Rule, x.Why = "authority", err.Error()
		return x
	}
	if t.Authority.Host.String() == localHost {
		x.Allow, x.Final, x.Rule, x.Why = true, true, localHost, "egress answers it itself, with the live routes"
		return x
	}
	v, route := l.decideOrLearn(requestInfo{tls: t.TLS, authority: t.Authority, method: q.Method, path: t.Path, query: t.Query}, now)
	x.Allow, x.Rule, x.Why, x.At = v.Allow, v.Rule, v.Why, l.at(v.Rule)
	switch {
	case v.Allow && route.Auth != nil:
		x.Auth = route.Auth.Type
		if missing := l.credentials.missing(route.Auth); !missing.Allow {
			x.Allow, x.Rule, x.Why, x.Auth = false, missing.Rule, missing.Why, ""
		}
	case !v.Allow && x.At != "":
		x.Nearest, x.NearestAt = v.Rule, x.At
	case !v.Allow && v.Rule == noRoute:
		if i := l.rules.nearestByName(t.Authority.Host); i >= 0 {
			x.Nearest = l.rules.name(i)
			x.NearestAt = l.at(x.Nearest)
		}
	}
	if !v.Allow && (x.At != "" || v.Rule == noRoute) {
		x.Line = routeFor(t, q.Method)
	}
	return x
}

// at returns the file and line of a rule that is a route, and "" for others.
func (l *activeConfig) at(rule string) string {
	for i := range l.rules {
		if i < len(l.lines) && l.rules.name(i) == rule {
			return fmt.Sprintf("%s:%d", filepath.Base(l.file), l.lines[i])
		}
	}
	return ""
}

// routeFor returns a route that allows only that request, as it is written in egress.yaml and in a
// manifest.
func routeFor(t policy.Target, method string) string {
	path, err := policy.CleanPath(t.Path)
	if err != nil || strings.Contains(path, "*") {
		return ""
	}
	git := ""
	if fetchesGit(path, requestInfo{method: method, query: t.Query}) {
		git = ", git: fetch"
	}
	return fmt.Sprintf("{host: %s, methods: [%s], paths: [%s]%s}", strconv.Quote(t.Authority.HostFor(httpsPort)), method, strconv.Quote(path), git)
}

// explain adds to the verdict of the routes whether the pair's certificate authority permits the host.
func (s *server) explain(q policy.Question) policy.Explanation {
	l := s.active.Load()
	x := l.explain(q, time.Now())
	if t, err := policy.ParseTarget(q.URL); err == nil && x.Allow && t.TLS && !s.caPermits(t.Authority.Host) {
		v := l.rules.outsideConstraints(t.Authority)
		x.Allow, x.Final, x.Rule, x.Why, x.At, x.Auth = false, false, v.Rule, v.Why, "", ""
	}
	return x
}

// registerQueries registers handlers for the supervisor's queries, which use the current configuration.
func (s *server) registerQueries() {
	s.meterLearning()
	activation.HandleQuery(activation.TopicExplain, s.explain)
	activation.HandleQuery(activation.TopicRoutes, func(any) routesView { return s.active.Load().view() })
}

// routesView is the configuration in force, for the operator.
type routesView struct {
	Mode   string      `json:"mode,omitempty"`
	Routes []routeView `json:"routes"`
}

func (l *activeConfig) view() routesView { return routesView{Mode: l.learnNotice(), Routes: l.list()} }
