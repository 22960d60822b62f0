package egress

import (
	"strings"
	"testing"
	"time"

	"airlock/internal/policy"
)

const learning = `version: 1
ca: {cert: a, key: b}
mode: learn
learn: ["*.cdn.test", api.ok.test, "plain.test:80", "odd.test:8443"]
routes:
  - {host: api.ok.test, methods: [GET], paths: ["/v1/*"], auth: {type: bearer, slot: S}}
  - {host: a.cdn.test, expires: 2026-01-01T00:00:00Z, auth: {type: bearer, slot: S}}
`

func TestLearnModeVerdicts(t *testing.T) {
	l := explainer(t, learning)
	l.learn = learnList(t, "*.cdn.test", "api.ok.test", "plain.test:80", "odd.test:8443")
	learnt := func(why string) policy.Verdict { return policy.Verdict{Allow: true, Rule: learnRule, Why: why} }
	const api = "routes[0] api.ok.test"
	for _, c := range []struct {
		method, url string
		want        policy.Verdict
		auth        bool
	}{
		{"GET", "https://api.ok.test/v1/x", policy.Allowed(api), true},
		{"POST", "https://api.ok.test/v1/x", learnt(api + ": the route is for the methods GET"), false},
		{"GET", "https://api.ok.test/v2", learnt(api + `: the route is for the paths ["/v1/*"]`), false},
		{"GET", "https://b.cdn.test/x", learnt("no route names b.cdn.test:443; the nearest is routes[1] a.cdn.test"), false},
		{"GET", "https://a.cdn.test/x", learnt("routes[1] a.cdn.test: the grant ended at 2026-01-01T00:00:00Z"), false},
		{"GET", "https://b.cdn.test/x/info/refs?service=git-upload-pack", learnt("no route names b.cdn.test:443; the nearest is routes[1] a.cdn.test"), false},
		{"GET", "http://plain.test/", learnt("no route names plain.test:80"), false},
		{"GET", "https://odd.test:8443/", learnt("no route names odd.test:8443"), false},

		{"GET", "https://odd.test/", policy.Denied(noRoute, "no route names odd.test:443"), false},
		{"GET", "https://b.cdn.test:8443/", policy.Denied(noRoute, "no route names b.cdn.test:8443; the nearest is routes[1] a.cdn.test"), false},
		{"GET", "http://api.ok.test:443/v1/x", policy.Denied(api, "the route is for https, this is plain http"), false},
		{"GET", "http://b.cdn.test/", policy.Denied(noRoute, "no route names b.cdn.test:80; the nearest is routes[1] a.cdn.test"), false},
		{"GET", "https://cdn.test/", policy.Denied(noRoute, "no route names cdn.test:443; the nearest is routes[1] a.cdn.test"), false},
		{"GET", "https://evil.test/", policy.Denied(noRoute, "no route names evil.test:443"), false},
		{"POST", "https://b.cdn.test/x/%67it-receive-pack", policy.Denied("git push", "a push over HTTPS would pass the gate by; push to the remote on git-gate, which git is set up for"), false},
		{"GET", "https://b.cdn.test/%zz", policy.Denied("path", "the path has a percent sign without two hexadecimal digits"), false},
		{"get", "https://b.cdn.test/", policy.Denied("method", "a method is a word in upper case"), false},
	} {
		target, err := policy.ParseTarget(c.url)
		if err != nil {
			t.Fatal(err)
		}
		got, route := l.decideOrLearn(requestInfo{tls: target.TLS, authority: target.Authority, method: c.method, path: target.Path, query: target.Query}, time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
		if got != c.want || (route != nil) != got.Allow || (route != nil && (route.Auth != nil) != c.auth) {
			t.Errorf("%s %s:\n%+v, route %+v\nwant\n%+v", c.method, c.url, got, route, c.want)
		}
	}
	if m := l.learnNotice(); !strings.HasPrefix(m, "learn mode: ") || !strings.Contains(m, "*.cdn.test, api.ok.test") {
		t.Error(m)
	}
}

func learnList(t *testing.T, patterns ...string) (all []policy.Pattern) {
	t.Helper()
	for _, text := range patterns {
		p, err := policy.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}
