package pipelock

import (
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

func TestExplain(t *testing.T) {
	r := newRules(parse(t, sample+"# \n"))
	r.file = "/etc/airlock/pipelock.yaml"
	for url, want := range map[string]policy.Explanation{
		"https://API.ok.test.":        {Allow: true, Rule: "allow[0] api.ok.test", At: "pipelock.yaml:3"},
		"http://api.ok.test/":         {Allow: true, Rule: "allow[0] api.ok.test", At: "pipelock.yaml:3"},
		"https://git.test/":           {Rule: "allow", Why: "the allowlist does not have git.test:443", Line: `"git.test"`, Nearest: "allow[2] git.test:8443", NearestAt: "pipelock.yaml:5"},
		"https://a.git.cdn.test:8443": {Rule: "allow", Why: "the allowlist does not have a.git.cdn.test:8443", Line: `"a.git.cdn.test:8443"`, Nearest: "allow[1] *.cdn.test", NearestAt: "pipelock.yaml:4"},
		"http://new.test":             {Rule: "allow", Why: "the allowlist does not have new.test:80", Line: `"new.test"`},
		"https://93.184.216.34:81/":   {Rule: "allow", Why: "the allowlist does not have 93.184.216.34:81", Line: `"93.184.216.34:81"`, Nearest: "allow[3] 93.184.216.34", NearestAt: "pipelock.yaml:6"},
		"https://pinned.cdn.test":     {Allow: true, Rule: "allow[1] *.cdn.test", At: "pipelock.yaml:4"},
		"https://inside.cdn.test": {Rule: "address", Why: "inside.cdn.test leads to: 10.0.0.1 is in a special range (private 10.0.0.0/8)",
			Line: "addresses: {allow: [10.0.0.1/32]}"},
		"https://[::ffff:7f00:1]/":                             {Rule: "allow", Why: "the allowlist does not have 127.0.0.1:443", Line: `"127.0.0.1"`},
		"https://6d79206b65792069732030313233343536.cdn.test/": {Rule: "host name", Why: "the name holds text in hexadecimal, base32 or base36", Line: `"6d79206b65792069732030313233343536.cdn.test"`},
		"ftp://api.ok.test/":                                   {Rule: "authority", Why: "an absolute URL like https://api.example.com/v1/items is needed"},
	} {
		want.Daemon = bundle.Pipelock
		if got := r.explain(policy.Question{Method: "GET", URL: url}); got != want {
			t.Errorf("%s:\n%+v\nwant\n%+v", url, got, want)
		}
	}
}
