package egress

import (
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

const sample = `version: 1
ca: {cert: c, key: k}
routes:
  - host: api.ok.test
    methods: [GET, POST]
    paths: ["/v1/*"]
    auth: {type: bearer, slot: EGRESS_TOKEN_0}
  - host: "*.cdn.test"
  - host: plain.test:80
  - host: old.test
    expires: 2026-01-01T00:00:00Z
  - host: git.test
    git: fetch
  - host: both.test:443
    paths: ["/a"]
  - host: both.test:8443
    paths: ["/b"]
  - {host: inside.test, plain_http: true, auth: {type: bearer, slot: EGRESS_TOKEN_0}}
  - {host: 'inside.test:8080', plain_http: true, auth: {type: bearer, slot: EGRESS_TOKEN_0}}
  - {host: 'secure.test:8080', auth: {type: bearer, slot: EGRESS_TOKEN_0}}
`

func sampleRules(t testing.TB) rules {
	t.Helper()
	var f bundle.EgressFile
	if err := config.Decode("sample", []byte(sample), &f); err != nil {
		t.Fatal(err)
	}
	return f.Routes
}

func TestDecide(t *testing.T) {
	rs := sampleRules(t)
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	allow := func(rule string) policy.Verdict { return policy.Allowed(rule) }
	deny := policy.Denied
	for _, c := range []struct {
		method, target string
		want           policy.Verdict
	}{
		{"GET", "https://api.ok.test/v1/x", allow("routes[0] api.ok.test")},
		{"POST", "https://api.ok.test/v1/%2e/x", allow("routes[0] api.ok.test")},
		{"DELETE", "https://api.ok.test/v1/x", deny("routes[0] api.ok.test", "the route is for the methods GET, POST")},
		{"GET", "https://api.ok.test/V1/x", deny("routes[0] api.ok.test", `the route is for the paths ["/v1/*"]`)},
		{"GET", "https://api.ok.test/v10", deny("routes[0] api.ok.test", `the route is for the paths ["/v1/*"]`)},
		{"GET", "https://api.ok.test/v1/../admin", deny("routes[0] api.ok.test", `the route is for the paths ["/v1/*"]`)},
		{"GET", "https://api.ok.test/v1%2f..%2fadmin", deny("routes[0] api.ok.test", `the route is for the paths ["/v1/*"]`)},
		{"GET", "https://api.ok.test:8443/v1/x", deny("routes[0] api.ok.test", "the route does not name port 8443")},
		{"GET", "http://api.ok.test/v1/x", deny("routes[0] api.ok.test", "the route does not name port 80")},
		{"GET", "http://api.ok.test:443/v1/x", deny("routes[0] api.ok.test", "the route is for https, this is plain http")},
		{"GET", "https://a.cdn.test/", allow("routes[1] *.cdn.test")},
		{"GET", "https://cdn.test/", deny("no route", "no route names cdn.test:443; the nearest is routes[1] *.cdn.test")},
		{"GET", "https://evilcdn.test/", deny("no route", "no route names evilcdn.test:443")},
		{"GET", "https://cdn.test.evil.test/", deny("no route", "no route names cdn.test.evil.test:443")},
		{"GET", "http://plain.test/", allow("routes[2] plain.test:80")},
		{"GET", "https://old.test/", deny("routes[3] old.test", "the grant ended at 2026-01-01T00:00:00Z")},
		{"GET", "https://git.test/x.git/info/refs?service=git-upload-pack", allow("routes[4] git.test")},
		{"POST", "https://git.test/x.git/git-upload-pack", allow("routes[4] git.test")},
		{"GET", "https://git.test/x.git/HEAD", deny("routes[4] git.test", "the route is for git clone and fetch alone")},
		{"GET", "https://a.cdn.test/x.git/info/refs?service=git-upload-pack", deny("routes[1] *.cdn.test", `git over HTTPS needs a route with "git: fetch"`)},
		{"GET", "https://both.test/a", allow("routes[5] both.test:443")},
		{"GET", "https://both.test:8443/b", allow("routes[6] both.test:8443")},
		{"GET", "https://both.test:8443/a", deny("routes[6] both.test:8443", `the route is for the paths ["/b"]`)},
		{"GET", "http://inside.test/", allow("routes[7] inside.test")},
		{"GET", "https://inside.test/", allow("routes[7] inside.test")},
		{"GET", "http://inside.test:8080/", allow("routes[8] inside.test:8080")},
		{"GET", "http://secure.test:8080/", deny("routes[9] secure.test:8080", "the route is for https, this is plain http")},
		{"GET", "https://evil.test/%", deny("path", "the path has a percent sign without two hexadecimal digits")},
	} {
		u := strings.SplitN(c.target, "://", 2)
		host, rest, _ := strings.Cut(u[1], "/")
		path, query, _ := strings.Cut("/"+rest, "?")
		port := uint16(443)
		if u[0] == "http" {
			port = 80
		}
		a, err := policy.ParseAuthority(host, port)
		if err != nil {
			t.Fatal(err)
		}
		got, route := rs.decide(requestInfo{tls: u[0] == "https", authority: a, method: c.method, path: path, query: query}, now)
		if got != c.want || (route != nil) != got.Allow {
			t.Errorf("%s %s: %+v, want %+v", c.method, c.target, got, c.want)
		}
	}
}

func TestPushIsRecognised(t *testing.T) {
	rs := sampleRules(t)
	a, _ := policy.ParseAuthority("git.test", 443)
	for _, target := range []string{
		"/x.git/git-receive-pack", "/x.git/git%2dreceive-pack", "/x.git/GIT-RECEIVE-PACK", "/x.git//git-receive-pack/", "/x.git/git-receive-pack;a=b",
		"/x.git/info/refs?service=git-receive-pack", "/x.git/info/refs?service=git%2Dreceive%2Dpack", "/x.git/info/refs?a=b&service=git-receive-pack",
		"/x.git/info/refs?service=git%252dreceive-pack", "/x.git/info/refs?SERVICE=Git-Receive-Pack",
	} {
		path, query, _ := strings.Cut(target, "?")
		for _, method := range []string{"GET", "POST"} {
			if v, _ := rs.decide(requestInfo{tls: true, authority: a, method: method, path: path, query: query}, time.Now()); v.Allow || v.Rule != "git push" {
				t.Errorf("%s %s: %+v", method, target, v)
			}
		}
	}
}

func TestCredentialsDoNotPrintThemselves(t *testing.T) {
	w := credentials{"S": "the value"}
	if s := w.String() + w.GoString(); strings.Contains(s, "value") {
		t.Error(s)
	}
}

func TestMissingCredentialIsDenied(t *testing.T) {
	for name, value := range map[string]string{"nothing": "", "too short": "1234567", "a line end": "the-value\nmore"} {
		v := (credentials{"S": value}).missing(&bundle.Auth{Type: "bearer", Slot: "S"})
		if v.Allow || v.Rule != "credential" || (value != "" && strings.Contains(v.Why, value)) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := (credentials{"S": "the-value"}).missing(&bundle.Auth{Type: "bearer", Slot: "S"}); !v.Allow {
		t.Errorf("%+v", v)
	}
}
