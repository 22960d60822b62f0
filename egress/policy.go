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

// httpsPort is the port of a route that names none.
const httpsPort = 443

// noRoute is the rule of a refusal when no route names the host.
const noRoute = "no route"

// methodForm is the form of an allowed method. A longer or mixed one could exfiltrate data, and would
// appear in the audit.
var methodForm = regexp.MustCompile(`^[A-Z][A-Z-]{0,19}$`)

// rules are the routes of one configuration.
type rules []bundle.Route

// requestInfo holds the parts of a request that a decision depends on.
type requestInfo struct {
	tls       bool
	authority policy.Authority
	method    string
	path      string // escaped, as received
	query     string // raw, as received
	content   string // media type of the body
}

// decide returns the verdict of the first route that allows the request. If none does, the verdict names
// the nearest route.
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

// admissible denies requests that no route can allow. It returns the cleaned path.
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

// name returns the name of a route in verdicts.
func (rs rules) name(i int) string { return "routes[" + strconv.Itoa(i) + "] " + rs[i].Host.String() }

// noRouteVerdict returns the denial of a host that no route names.
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

// nearestByName returns the index of the first route whose host has the most labels in common with h, or
// -1 if none has more in common than a public suffix.
func (rs rules) nearestByName(h policy.Host) int {
	nearest, best := -1, 0
	for i := range rs {
		if n := rs[i].Host.Kin(h); n > best {
			nearest, best = i, n
		}
	}
	return nearest
}

// injectsFor reports whether any route sends a credential to the host. If so, all its responses are
// searched, whatever their route.
func (rs rules) injectsFor(h policy.Host) bool {
	return slices.ContainsFunc(rs, func(r bundle.Route) bool { return r.Auth != nil && r.Host.Matches(h) })
}

// matchRoute returns the verdict of one route. For a denial, the score is higher the later the check is
// that failed. The verdict of a route for another host has no rule.
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

// defaultPorts returns the ports of a route that names none.
func defaultPorts(r *bundle.Route, tls bool) []uint16 {
	if r.PlainHTTP && !tls {
		return []uint16{80}
	}
	return []uint16{httpsPort}
}
