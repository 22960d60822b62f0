package bundle_test

import (
	"net/netip"
	"strings"
	"testing"

	"airlock/internal/bundle"
)

func TestHostsHaveOneAddress(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	repos := map[string]bundle.Repo{"app": {URL: "https://Git.Example.com/app.git"}, "lib": {URL: "ssh://git@git.example.com/lib"}, "else": {URL: "https://other.test/x"}}
	for name, tt := range map[string]struct {
		hosts map[string]netip.Addr
		want  []string // of the error; none: fine
	}{
		"case":         {map[string]netip.Addr{"git.example.com": one, "GIT.example.com": two}, []string{"hosts.git.example.com: ", `as "GIT.example.com"`, "192.0.2.1", "192.0.2.2", "app, lib"}},
		"trailing dot": {map[string]netip.Addr{"git.example.com": one, "git.example.com.": two}, []string{"hosts.git.example.com."}},
		"idna":         {map[string]netip.Addr{"bücher.example": one, "xn--bcher-kva.example": two}, []string{`"bücher.example"`, "hosts.xn--bcher-kva.example"}},
		"same address": {map[string]netip.Addr{"git.example.com": one, "GIT.example.com.": netip.MustParseAddr("::ffff:192.0.2.1")}, nil},
		"other hosts":  {map[string]netip.Addr{"git.example.com": one, "git2.example.com": two}, nil},
		"no host":      {map[string]netip.Addr{"no host": one}, []string{"hosts.no host"}},
	} {
		check(t, name, bundle.CheckHosts(bundle.HostTable{Key: "hosts", Hosts: tt.hosts}, repos), tt.want)
	}
	check(t, "two tables", bundle.CheckHostTables(repos,
		bundle.HostTable{Key: "pipelock.hosts", Hosts: map[string]netip.Addr{"GIT.example.com": one, "same.test": two}},
		bundle.HostTable{Key: "git.hosts", Hosts: map[string]netip.Addr{"git.example.com": two, "Same.test": two, "a.test": one, "A.test": two}}),
		[]string{"pipelock.hosts.GIT.example.com", "git.hosts.git.example.com", "app, lib"})
	if h := bundle.ParseHosts(map[string]netip.Addr{"GIT.example.com.": one}); len(h) != 1 {
		t.Errorf("expected one host, got %v", h)
	}
}

func check(t *testing.T, name string, err error, want []string) {
	t.Helper()
	if (err != nil) != (len(want) > 0) {
		t.Errorf("%s: expected an error: %v, got %v", name, len(want) > 0, err)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: expected %q in the error, got %v", name, w, err)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "same.test") || strings.Contains(err.Error(), "a.test")) {
		t.Errorf("%s: one conflict is there, got %v", name, err)
	}
}
