package egress

import (
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

const explained = `version: 1
ca: {cert: a, key: b}
routes:
  - host: api.ok.test
    methods: [GET, POST]
    paths: ["/v1/*"]
    auth: {type: bearer, slot: S}

  - host: "*.cdn.test"
  - {host: git.test, git: fetch, auth: {type: bearer, slot: EMPTY}}
`

func explainer(t *testing.T, text string) *activeConfig {
	t.Helper()
	var f bundle.EgressFile
	if err := config.Decode("sample", []byte(text), &f); err != nil {
		t.Fatal(err)
	}
	return &activeConfig{file: "/etc/airlock/egress.yaml", lines: f.Lines, rules: f.Routes, credentials: credentials{"S": "a value that is long"}}
}

func TestExplain(t *testing.T) {
	l := explainer(t, explained)
	const api, cdn, git = "routes[0] api.ok.test", "routes[1] *.cdn.test", "routes[2] git.test"
	for _, c := range []struct {
		method, url string
		want        policy.Explanation
	}{
		{"GET", "https://API.ok.test./v1/%2e/x#fragment", policy.Explanation{Allow: true, Rule: api, At: "egress.yaml:4", Auth: "bearer"}},
		{"DELETE", "https://api.ok.test/v1/x?a=b", policy.Explanation{Rule: api, At: "egress.yaml:4", Why: "the route is for the methods GET, POST", Nearest: api, NearestAt: "egress.yaml:4",
			Line: `{host: "api.ok.test", methods: [DELETE], paths: ["/v1/x"]}`}},
		{"GET", `https://api.ok.test/v1\..\admin`, policy.Explanation{Rule: api, At: "egress.yaml:4", Why: `the route is for the paths ["/v1/*"]`, Nearest: api, NearestAt: "egress.yaml:4",
			Line: `{host: "api.ok.test", methods: [GET], paths: ["/admin"]}`}},
		{"GET", "http://a.cdn.test", policy.Explanation{Rule: cdn, At: "egress.yaml:9", Why: "the route does not name port 80", Nearest: cdn, NearestAt: "egress.yaml:9",
			Line: `{host: "a.cdn.test:80", methods: [GET], paths: ["/"]}`}},
		{"GET", "https://cdn.test/", policy.Explanation{Rule: "no route", Why: "no route names cdn.test:443; the nearest is " + cdn, Nearest: cdn, NearestAt: "egress.yaml:9",
			Line: `{host: "cdn.test", methods: [GET], paths: ["/"]}`}},
		{"GET", "https://evil.test/x", policy.Explanation{Rule: "no route", Why: "no route names evil.test:443", Line: `{host: "evil.test", methods: [GET], paths: ["/x"]}`}},
		{"GET", "https://git.test/x/info/refs?service=git-upload-pack", policy.Explanation{Rule: "credential", Why: "slot EMPTY holds no credential", At: "egress.yaml:10"}},
		{"GET", "https://git.test/x/info/refs?service=git-receive-pack", policy.Explanation{Rule: "git push",
			Why: "a push over HTTPS would pass the gate by; push to the remote on git-gate, which git is set up for"}},
		{"GET", "https://a.cdn.test/x/info/refs?service=git-upload-pack", policy.Explanation{Rule: cdn, At: "egress.yaml:9", Why: `git over HTTPS needs a route with "git: fetch"`,
			Nearest: cdn, NearestAt: "egress.yaml:9", Line: `{host: "a.cdn.test", methods: [GET], paths: ["/x/info/refs"], git: fetch}`}},
		{"GET", "https://_egress.local/", policy.Explanation{Allow: true, Final: true, Rule: localHost, Why: "egress answers it itself, with the live routes"}},
		{"GET", "https://api.ok.test/%zz", policy.Explanation{Rule: "path", Why: "the path has a percent sign without two hexadecimal digits"}},
		{"GET", "https://2130706433/", policy.Explanation{Rule: "authority", Why: `host "2130706433": an address is written as four decimal numbers or in IPv6 form`}},
	} {
		c.want.Daemon = bundle.Egress
		if got := l.explain(policy.Question{Method: c.method, URL: c.url}, time.Now()); got != c.want {
			t.Errorf("%s %s:\n%+v\nwant\n%+v", c.method, c.url, got, c.want)
		}
	}
}
