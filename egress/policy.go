package egress

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// httpsPort is the port that a route without one stands for.
const httpsPort = 443

// noRoute is the rule of a refusal when no route names the host.
const noRoute = "no route"

// methodForm is what a method looks like; a longer or mixed one could carry
// something out, and would stand in the audit.
var methodForm = regexp.MustCompile(`^[A-Z][A-Z-]{0,19}$`)

// rules are the routes of one configuration.
type rules []bundle.Route

// requestInfo is a request, reduced to what a decision depends on.
type requestInfo struct {
	tls       bool
	authority policy.Authority
	method    string
	path      string // escaped, as it came
	query     string // raw, as it came
	content   string // type of the body
}

// decide finds the first route that lets the request pass. Where none does,
// the verdict names the route that came nearest.
func (rs rules) decide(a requestInfo, now time.Time) (policy.Verdict, *bundle.Route) {
	path, v := admissible(a)
	if !v.Allow {
		return v, nil
	}
	nearest, best := policy.Verdict{}, 0
	for i := range rs {
		v, score := matchRoute(&rs[i], a, path, now)
		if v.Rule == "" {
			continue
		}
		v.Rule = rs.name(i)
		if v.Allow {
			return v, &rs[i]
		}
		if score > best {
			nearest, best = v, score
		}
	}
	if best == 0 {
		return rs.noRouteVerdict(a.authority), nil
	}
	return nearest, nil
}

// admissible refuses what no route can allow. It returns the cleaned path.
func admissible(a requestInfo) (path string, v policy.Verdict) {
	if !methodForm.MatchString(a.method) {
		return "", policy.Denied("method", "a method is a word in upper case")
	}
	if httpd.Echoes(a.method) {
		return "", httpd.NoTrace
	}
	path, err := policy.CleanPath(a.path)
	if err != nil {
		return "", policy.Denied("path", err.Error())
	}
	if pushesGit(a) {
		return "", policy.Denied("git push", "a push over HTTPS would pass the gate by; push to the remote on git-gate, which git is set up for")
	}
	return path, policy.Allowed("request")
}

// name is what a verdict calls a route.
func (rs rules) name(i int) string { return "routes[" + strconv.Itoa(i) + "] " + rs[i].Host.String() }

// noRouteVerdict refuses a host that no route names.
func (rs rules) noRouteVerdict(a policy.Authority) policy.Verdict {
	why := "no route names " + a.Shown()
	if a.Host.Addr().IsValid() {
		why += ", an address: a client that looks up names itself has to leave that to the proxy (as with socks5h)"
	}
	if i := rs.nearestByName(a.Host); i >= 0 {
		why += "; the nearest is " + rs.name(i)
	}
	return policy.Denied(noRoute, why)
}

// nearestByName is the first route whose host has most in common with a name,
// or -1 when none has more than a public suffix.
func (rs rules) nearestByName(h policy.Host) int {
	nearest, best := -1, 0
	for i := range rs {
		if n := rs[i].Host.Kin(h); n > best {
			nearest, best = i, n
		}
	}
	return nearest
}

// injectsFor tells whether a credential is ever sent to the host: then every
// answer of it is searched, whatever its route.
func (rs rules) injectsFor(h policy.Host) bool {
	return slices.ContainsFunc(rs, func(r bundle.Route) bool { return r.Auth != nil && r.Host.Matches(h) })
}

// matchRoute tells whether one route lets the request pass, and if not, how far it
// came: the later the check that failed, the higher the score. A route that
// names another host gives a verdict without a rule.
func matchRoute(r *bundle.Route, a requestInfo, path string, now time.Time) (v policy.Verdict, score int) {
	if !r.Host.Matches(a.authority.Host) {
		return policy.Verdict{}, 0
	}
	const here = "route"
	switch {
	case !r.Host.MatchesAuthority(a.authority, defaultPorts(r, a.tls)...):
		return policy.Denied(here, fmt.Sprintf("the route does not name port %d", a.authority.Port)), 1
	case !a.tls && !r.PlainHTTP && (r.Auth != nil || r.Host.MatchesAuthority(policy.Authority{Host: a.authority.Host, Port: httpsPort}, httpsPort)):
		return policy.Denied(here, "the route is for https, this is plain http"), 1
	case !r.Expires.IsZero() && !now.Before(r.Expires):
		return policy.Denied(here, "the grant ended at "+r.Expires.UTC().Format(time.RFC3339)), 2
	case len(r.Paths) > 0 && !policy.Names(r.Paths, a.path):
		return policy.Denied(here, fmt.Sprintf("the route is for the paths %q", r.Paths)), 3
	case len(r.Methods) > 0 && !slices.Contains(r.Methods, a.method):
		return policy.Denied(here, "the route is for the methods "+strings.Join(r.Methods, ", ")), 4
	case r.Git == "fetch" && !fetchesGit(path, a):
		return policy.Denied(here, "the route is for git clone and fetch alone"), 5
	case r.Git == "" && resemblesFetch(a):
		return policy.Denied(here, "git over HTTPS needs a route with \"git: fetch\""), 5
	}
	return policy.Allowed(here), 0
}

// defaultPorts are those that a route stands for that names none.
func defaultPorts(r *bundle.Route, tls bool) []uint16 {
	if r.PlainHTTP && !tls {
		return []uint16{80}
	}
	return []uint16{httpsPort}
}
