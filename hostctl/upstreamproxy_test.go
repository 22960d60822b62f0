package hostctl

import (
	"strings"
	"testing"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/config"
)

const withProxy = "version: 1\nname: demo\nagent: {command: [sh]}\negress: {routes: [{host: api.example.com}]}\npipelock: {upstream_proxy: {%s}}\n"

// TestUpstreamProxyOfTheManifest: the proxy reaches pipelock's file, its credential a slot;
// the host's environment counts only where the manifest names a variable of it.
func TestUpstreamProxyOfTheManifest(t *testing.T) {
	environment := map[string]string{
		"HTTPS_PROXY": "http://agent:word%40rd@proxy.example:3128/", "SHORT": "proxy.example:3128",
		"NO_PROXY": "localhost, 10.0.0.0/8,.internal.example,*.other.example,git.example,192.0.2.1",
	}
	lookup := func(name string) (string, bool) { value, ok := environment[name]; return value, ok }
	for text, want := range map[string]struct {
		url, auth, direct string
		secret            reference
	}{
		`url: "http://proxy.example:3128", auth: "file:word", no_proxy: ["*.internal.example", "git.example:8443"]`: {"http://proxy.example:3128", "PROXY_AUTH_0", "*.internal.example git.example:8443", reference{"file", "word"}},
		`url: "https://proxy.example"`:                       {"https://proxy.example", "", "", reference{}},
		`url: "env:HTTPS_PROXY", no_proxy: ["env:NO_PROXY"]`: {"http://proxy.example:3128/", "PROXY_AUTH_0", "localhost internal.example *.internal.example other.example *.other.example git.example *.git.example 192.0.2.1", reference{"env", "HTTPS_PROXY"}},
		`url: "env:SHORT"`:                                   {"http://proxy.example:3128", "", "", reference{}},
	} {
		m := load(t, strings.Replace(withProxy, "%s", text, 1))
		l, err := lay(m, "/state/demo", nil, lookup)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var lock bundle.PipelockFile
		if err := config.Decode("pipelock.yaml", l.etc["pipelock.yaml"], &lock); err != nil {
			t.Fatal(err)
		}
		p, direct := lock.UpstreamProxy, ""
		for _, d := range p.NoProxy {
			direct += " " + d.String()
		}
		if p.URL != want.url || p.Auth != want.auth || strings.TrimSpace(direct) != want.direct || l.secrets["PROXY_AUTH_0"] != want.secret {
			t.Errorf("%s: %+v, direct%s, %v", text, p, direct, l.secrets)
		}
		for name, data := range l.etc {
			if strings.Contains(string(data), "word%40rd") {
				t.Errorf("a password stands in %s", name)
			}
		}
	}
	m := load(t, strings.Replace(withProxy, "%s", `url: "env:ABSENT"`, 1))
	if _, err := lay(m, "/state/demo", nil, lookup); err == nil || !strings.Contains(err.Error(), "upstream_proxy.url") {
		t.Errorf("a variable that is not set: %v", err)
	}
	m = load(t, "version: 1\nname: demo\nagent: {command: [sh]}\n")
	if l, err := lay(m, "/state/demo", nil, lookup); err != nil || strings.Contains(string(l.etc["pipelock.yaml"]), "proxy") {
		t.Errorf("without a word of it: %s, %v", l.etc["pipelock.yaml"], err)
	}
	for _, bad := range []string{`url: ""`, `url: "http://a:b@proxy.example"`, `url: "socks5://proxy.example"`, `url: "http://proxy.example", auth: "user:word"`, `url: "http://proxy.example", no_proxy: ["*"]`} {
		var m Manifest
		if err := config.Decode("airlock.yaml", []byte(strings.Replace(withProxy, "%s", bad, 1)), &m); err == nil || !strings.Contains(err.Error(), "upstream_proxy") || strings.Contains(err.Error(), "user:word") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestDoctorShowsProxies(t *testing.T) {
	check := proxyOfPair("pair demo", &bundle.UpstreamProxy{URL: "http://proxy.example:3128", Auth: "PROXY_AUTH_0"})
	if check.State != pair.Warn || !strings.Contains(check.Says, "http://proxy.example:3128 with a credential") || !strings.Contains(check.Says, "only addresses in requests and in hosts are checked") {
		t.Errorf("%+v", check)
	}
	check, ok := proxyOfHost(func(name string) (string, bool) { return "http://user:word@proxy.example", name == "https_proxy" })
	if !ok || !strings.Contains(check.Says, "env:https_proxy") || strings.Contains(check.Says, "word") {
		t.Errorf("%+v", check)
	}
	if _, ok := proxyOfHost(func(string) (string, bool) { return "", false }); ok {
		t.Error("a proxy that is not there")
	}
}
