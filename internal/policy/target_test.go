package policy

import (
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]Target{
		"https://API.Example.com.":             {TLS: true, Authority: Authority{Host{name: "api.example.com"}, 443}, Path: "/"},
		"HTTP://api.example.com/a?b#c":         {Authority: Authority{Host{name: "api.example.com"}, 80}, Path: "/a", Query: "b"},
		"https://a.test:8443/%2e%2e/x":         {TLS: true, Authority: Authority{Host{name: "a.test"}, 8443}, Path: "/%2e%2e/x"},
		"https://a.test?x":                     {TLS: true, Authority: Authority{Host{name: "a.test"}, 443}, Path: "/", Query: "x"},
		"https://a.test#/git-receive-pack":     {TLS: true, Authority: Authority{Host{name: "a.test"}, 443}, Path: "/"},
		`https://a.test/v1\..\admin?a=b?c=d#e`: {TLS: true, Authority: Authority{Host{name: "a.test"}, 443}, Path: `/v1\..\admin`, Query: "a=b?c=d"},
	} {
		if got, err := ParseTarget(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"": "an absolute URL", "/v1": "an absolute URL", "ftp://a.test/": "an absolute URL", "https:/a.test": "an absolute URL",
		"https://user:the-password@a.test/": "user information", "https://a.test/the password": "percent-encode", "https:///x": "a host is needed",
		"https://a.test:0/": "from 1 to 65535", `https://a.test\x`: "character",
	} {
		if got, err := ParseTarget(in); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "the-password") {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
}

func TestKin(t *testing.T) {
	for _, c := range []struct {
		pattern, host string
		want          int
	}{
		{"api.example.com", "www.example.com", 2}, {"*.cdn.example.com", "cdn.example.com", 3}, {"api.example.com", "example.com", 2},
		{"api.example.com", "api.example.org", 0}, {"a.co.uk", "b.co.uk", 0}, {"a.github.io", "b.github.io", 0}, {"a.test", "b.test", 0},
		{"a.test", "a.test", 2}, {"127.0.0.1", "127.0.0.1", 0}, {"a.test", "10.0.0.1", 0},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHost(c.host)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Kin(h); got != c.want {
			t.Errorf("%s and %s: %d, want %d", c.pattern, c.host, got, c.want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"https://API.Example.com.:0443/a?b#c", "http://[::1]:80", "https://a.test?x/y", `https://a.test\x/`, "https://u:p@a.test/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		target, err := ParseTarget(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(target.Path, "/") || strings.ContainsAny(target.Path, "?# ") || strings.ContainsAny(target.Query, "# ") {
			t.Errorf("%q → %+v", s, target)
		}
		again, err := ParseTarget(map[bool]string{true: "https://", false: "http://"}[target.TLS] + target.Authority.String() + target.Path + "?" + target.Query)
		if err != nil || again != target {
			t.Errorf("%q → %+v → %+v, %v", s, target, again, err)
		}
	})
}
