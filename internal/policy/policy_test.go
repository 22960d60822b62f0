package policy

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"api.example.com": "api.example.com", "API.Example.COM": "api.example.com", "api.example.com.": "api.example.com",
		"bücher.example": "xn--bcher-kva.example", "127.0.0.1": "127.0.0.1", "[::1]": "::1", "::1": "::1",
		"[::ffff:127.0.0.1]": "127.0.0.1", "[2001:DB8::0:1]": "2001:db8::1", "_egress.local": "_egress.local", "a-b.c1": "a-b.c1",
	} {
		if h, err := ParseHost(in); err != nil || h.String() != want {
			t.Errorf("ParseHost(%q) = %q, %v; want %q", in, h, err, want)
		}
	}
	for name, in := range map[string]string{
		"nothing": "", "a dot": ".", "two dots at the end": "a..", "an empty label": "a..b", "a dot first": ".a",
		"a long label": strings.Repeat("a", 64) + ".test", "a long name": strings.Repeat("abcdefg.", 32) + "test",
		"a zero byte": "a\x00b.test", "percent": "a%2eb.test", "user information": "ok.test@evil.test", "a path": "ok.test/x",
		"a query": "ok.test?", "a space": "ok .test", "a fullwidth dot": "ok。test", "short": "127.1", "decimal": "2130706433",
		"hexadecimal": "0x7f.1", "all hexadecimal": "0x7f000001", "octal": "0177.0.0.1", "a zone": "fe80::1%eth0",
		"brackets around a name": "[ok.test]", "brackets around IPv4": "[127.0.0.1]", "a hyphen first": "-a.test", "a colon": "a:b:c.test",
		"a line end": "a.test\n", "a backslash": `a\b.test`,
	} {
		if h, err := ParseHost(in); err == nil {
			t.Errorf("%s: ParseHost(%q) = %q", name, in, h)
		}
	}
}

func TestParseAuthority(t *testing.T) {
	for in, want := range map[string]string{
		"a.test:443": "a.test:443", "a.test": "a.test:7", "[::1]:80": "[::1]:80", "[::1]": "[::1]:7", "::1": "[::1]:7", "A.test.:1": "a.test:1",
	} {
		if a, err := ParseAuthority(in, 7); err != nil || a.String() != want {
			t.Errorf("ParseAuthority(%q) = %v, %v; want %s", in, a, err, want)
		}
	}
	for _, in := range []string{"a.test:", "a.test:0", "a.test:65536", "a.test:+5", "a.test:http", ":443", "[::1]:", "[::1", "a.test:443:1"} {
		if a, err := ParseAuthority(in, 7); err == nil {
			t.Errorf("ParseAuthority(%q) = %v", in, a)
		}
	}
	if _, err := ParseAuthority("a.test", 0); err == nil {
		t.Error("a port was not asked for")
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"a.test", "127.0.0.1", "[::1]", "bücher.example", "0x7f.1", "a..b", "*.a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			return
		}
		if again, err := ParseHost(h.String()); err != nil || again != h {
			t.Errorf("%q → %q → %q, %v: not canonical", s, h, again, err)
		}
		if strings.ContainsAny(h.String(), "/@?#%\\ \x00*[]") || h.String() != strings.ToLower(h.String()) {
			t.Errorf("%q → %q", s, h)
		}
	})
}

func TestPatterns(t *testing.T) {
	allow, deny := true, false
	for _, c := range []struct {
		pattern, authority string
		want               bool
	}{
		{"api.example.com", "api.example.com:443", allow},
		{"API.example.com", "api.EXAMPLE.com.:443", allow},
		{"api.example.com", "api.example.com:8443", deny},
		{"api.example.com:8443", "api.example.com:8443", allow},
		{"api.example.com:8443", "api.example.com:443", deny},
		{"api.example.com", "evil-api.example.com:443", deny},
		{"api.example.com", "api.example.com.evil.test:443", deny},
		{"*.pkgs.example", "go.pkgs.example:443", allow},
		{"*.pkgs.example", "a.b.pkgs.example:443", allow},
		{"*.pkgs.example", "pkgs.example:443", deny},
		{"*.pkgs.example", "evilpkgs.example:443", deny},
		{"*.pkgs.example", "go.pkgs.example.evil.test:443", deny},
		{"*.pkgs.example:81", "go.pkgs.example:81", allow},
		{"192.0.2.1", "192.0.2.1:443", allow},
		{"[2001:db8::1]:443", "[2001:db8::1]:443", allow},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		a, err := ParseAuthority(c.authority, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.MatchesAuthority(a, 443); got != c.want {
			t.Errorf("%s against %s: %v", c.pattern, c.authority, got)
		}
	}
	for _, bad := range []string{"", "*", "*.", "*.com", "*.co.uk", "*.github.io", "*.test", "ex*mple.com", "a.*.com", "**.a.com", "*.1.2.3.4", "a.test:", "a.test:x", "https://a.test", "a.test/x"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("pattern %q was accepted as %v", bad, p)
		}
	}
	if (Pattern{}).MatchesAuthority(Authority{}) {
		t.Error("the zero pattern matches")
	}
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"": "/", "/": "/", "/v1/x": "/v1/x", "/v1/": "/v1/", "/v1": "/v1", "//v1//x": "/v1/x", "/v1/./x": "/v1/x",
		"/v1/../admin": "/admin", "/v1/%2e%2e/admin": "/admin", "/v1//../admin": "/admin", "/v1%2f..%2fadmin": "/admin",
		`/v1\..\admin`: "/admin", "/v1/%252e%252e/admin": "/admin", "/v1/%25252e%25252e/admin": "/admin", "/../../x": "/x",
		"/v1/%5c..%5c../admin": "/admin", "/a%20b": "/a b", "/v1/..": "/", "/100%25": "/100%",
		"/%25zz/%252e%252e/%2541": "/A",
	} {
		if got, err := CleanPath(in); err != nil || got != want {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{"/%", "/%zz", "/a%00b", "/a%0ab", "/v1/..;x/admin", "/v1/.;/x", "/%252525252525252525252e", "/%2525252525252525252525zz%41"} {
		if got, err := CleanPath(bad); err == nil {
			t.Errorf("CleanPath(%q) = %q", bad, got)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, s := range []string{"/v1/%2e%2e/admin", `/v1\..\x`, "/%25", "//", "/a;b/../c", "/%25zz/%252e%252e/x", "/%2525252e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := CleanPath(s)
		if err != nil {
			return
		}
		if !strings.HasPrefix(got, "/") || strings.Contains(got, "/../") || strings.Contains(got, "//") || strings.Contains(got, `\`) {
			t.Errorf("CleanPath(%q) = %q", s, got)
		}
		if _, again := Unescape(got); again {
			t.Errorf("CleanPath(%q) = %q: an escape is left", s, got)
		}
		if again, err := CleanPath((&url.URL{Path: got}).EscapedPath()); err != nil || again != got {
			t.Errorf("CleanPath(%q) = %q, and of that %q, %v", s, got, again, err)
		}
	})
}

// FuzzPathPatternNeverWidens lets a server resolve any choice of the dot
// segments of an allowed path: what it serves lies within the pattern.
func FuzzPathPatternNeverWidens(f *testing.F) {
	for _, s := range []string{"/v1/%2e%2e/admin", "/admin/../v1/x", "/v1/x/../../admin/%2e%2e/v1/y", "/v1/a/../b", `/v1\..\v1/x`, "/v1/%25zz/%252e%252e/x"} {
		f.Add(s, uint64(0b1010))
	}
	f.Fuzz(func(t *testing.T, s string, choice uint64) {
		const pattern PathPattern = "/v1/*"
		cleaned, err := CleanPath(s)
		decoded, err2 := DecodePath(s)
		if err != nil || err2 != nil || !pattern.Matches(cleaned) || !pattern.Holds(decoded) {
			return
		}
		var seen []string
		for i, segment := range segments(decoded) {
			if segment == ".." && choice>>(i%64)&1 == 1 {
				seen = seen[:max(0, len(seen)-1)]
				continue
			}
			seen = append(seen, segment)
		}
		if len(seen) == 0 || seen[0] != "v1" {
			t.Errorf("%q is allowed, and may be read as %q", s, seen)
		}
	})
}

func FuzzParseAuthority(f *testing.F) {
	for _, s := range []string{"a.test:443", "[::1]:80", "::1", "A.test.", "a.test:0443", "[::ffff:127.0.0.1]:1", "a@b:1", "*.a.test:1"} {
		f.Add(s)
	}
	suffix, err := ParsePattern("*.cdn.test")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAuthority(s, 443)
		if err != nil {
			return
		}
		for _, text := range []string{a.String(), a.HostFor(443), a.HostFor(80)} {
			if again, err := ParseAuthority(text, map[bool]uint16{true: 80, false: 443}[text == a.HostFor(80)]); err != nil || again != a {
				t.Errorf("%q → %q → %v, %v: not canonical", s, text, again, err)
			}
		}
		if target, err := ParseTarget("https://" + a.HostFor(443) + "/"); err != nil || target.Authority != a {
			t.Errorf("%q is %v in a URL, %v", s, target.Authority, err)
		}
		exact, err := ParsePattern(a.String())
		if err != nil || !exact.MatchesAuthority(a) || exact.MatchesAuthority(Authority{a.Host, a.Port ^ 1}) {
			t.Errorf("%q as a pattern: %v, %v", s, exact, err)
		}
		if suffix.Matches(a.Host) != (strings.HasSuffix(a.Host.String(), ".cdn.test") && a.Host.String() != ".cdn.test") {
			t.Errorf("*.cdn.test and %q", s)
		}
	})
}

func TestPathPattern(t *testing.T) {
	for _, c := range []struct {
		pattern PathPattern
		path    string
		want    bool
	}{
		{"/v1/*", "/v1/x", true}, {"/v1/*", "/v1/", true}, {"/v1/*", "/v1", false}, {"/v1/*", "/v10", false}, {"/v1/*", "/V1/x", false},
		{"/v1", "/v1", true}, {"/v1", "/v10", false}, {"/v1", "/v1/", false}, {"/*", "/anything", true},
	} {
		if got := c.pattern.Matches(c.path); got != c.want {
			t.Errorf("%s against %s: %v", c.pattern, c.path, got)
		}
	}
	for _, bad := range []PathPattern{"", "v1", "/v1/../x", "/a*b", "/%41", "//x", "/**"} {
		if bad.Validate() == nil {
			t.Errorf("path %q was accepted", bad)
		}
	}
}

func TestJudgeAddr(t *testing.T) {
	for _, in := range []string{
		"127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1",
		"240.0.0.1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "192.0.2.1", "168.63.129.16", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
		"::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
	} {
		if v := JudgeAddr(netip.MustParseAddr(in), nil); v.Allow || v.Why == "" {
			t.Errorf("%s: %+v", in, v)
		}
	}
	for _, in := range []string{"1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1"} {
		if v := JudgeAddr(netip.MustParseAddr(in), nil); !v.Allow {
			t.Errorf("%s: %+v", in, v)
		}
	}
	exempt := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if v := JudgeAddr(netip.MustParseAddr("127.0.0.1"), exempt); v != Allowed("addresses.allow: 127.0.0.0/8") {
		t.Errorf("an exception: %+v", v)
	}
	if v := JudgeAddr(netip.Addr{}, exempt); v.Allow {
		t.Error("no address at all is allowed")
	}
}

// TestJudgeAddrForms has IPv4 addresses in every guise of IPv6, with and
// without the range being exempt.
func TestJudgeAddrForms(t *testing.T) {
	exempt := []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
		netip.MustParsePrefix("::ffff:0:0:0/96"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("168.63.129.16/32"),
	}
	special := func(addr, rest string) Verdict { return Denied("address", addr+" is in a special range ("+rest+")") }
	carries := func(addr, rest string) Verdict {
		return Denied("address", addr+" carries an IPv4 address: "+rest)
	}
	loopback := "127.0.0.1 is in a special range (loopback 127.0.0.0/8)"
	for _, c := range []struct {
		addr   string
		exempt []netip.Prefix
		want   Verdict
	}{
		{"::ffff:127.0.0.1", nil, Denied("address", loopback)},
		{"::127.0.0.1", nil, special("::7f00:1", "IPv4 in IPv6 ::/96")},
		{"::ffff:0:127.0.0.1", nil, special("::ffff:0:7f00:1", "IPv4 translated ::ffff:0:0:0/96")},
		{"64:ff9b::127.0.0.1", nil, special("64:ff9b::7f00:1", "NAT64 64:ff9b::/96")},
		{"2002:7f00:1::1", nil, special("2002:7f00:1::1", "6to4 2002::/16")},
		{"2001:0:4136:e378:8000:63bf:80ff:fffe", nil, special("2001:0:4136:e378:8000:63bf:80ff:fffe", "protocol assignments, Teredo among them 2001::/23")},
		{"2606:4700::5efe:127.0.0.1", nil, carries("2606:4700::5efe:7f00:1", loopback)},
		{"2606:4700::200:5efe:10.0.0.1", nil, carries("2606:4700::200:5efe:a00:1", "10.0.0.1 is in a special range (private 10.0.0.0/8)")},
		{"2606:4700::5efe:1.1.1.1", nil, Allowed("address")},
		{"64:ff9b::127.0.0.1", exempt, carries("64:ff9b::7f00:1", loopback)},
		{"64:ff9b::1.1.1.1", exempt, Allowed("addresses.allow: 64:ff9b::/96")},
		{"64:ff9b:1::127.0.0.1", exempt, carries("64:ff9b:1::7f00:1", loopback)},
		{"64:ff9b:1:7f00:0:100::", exempt, carries("64:ff9b:1:7f00:0:100::", loopback)},
		{"64:ff9b:1:0101:1:100::", exempt, Allowed("addresses.allow: 64:ff9b:1::/48")},
		{"2002:7f00:1::1", exempt, carries("2002:7f00:1::1", loopback)},
		{"2002:101:101::1", exempt, Allowed("addresses.allow: 2002::/16")},
		{"2001:0:4136:e378:8000:63bf:80ff:fffe", exempt, carries("2001:0:4136:e378:8000:63bf:80ff:fffe", loopback)},
		{"::ffff:0:127.0.0.1", exempt, carries("::ffff:0:7f00:1", loopback)},
		{"64:ff9b::127.0.0.1", []netip.Prefix{netip.MustParsePrefix("64:ff9b::7f00:1/128")}, Allowed("addresses.allow: 64:ff9b::7f00:1/128")},
		{"169.254.169.254", exempt, Denied("address", "169.254.169.254 is the metadata service of a cloud, which a range does not exempt")},
		{"64:ff9b::169.254.169.254", exempt, carries("64:ff9b::a9fe:a9fe", "169.254.169.254 is the metadata service of a cloud, which a range does not exempt")},
		{"100.100.100.200", exempt, Denied("address", "100.100.100.200 is the metadata service of a cloud, which a range does not exempt")},
		{"100.64.0.1", exempt, Allowed("addresses.allow: 100.64.0.0/10")},
		{"169.254.7.7", exempt, Allowed("addresses.allow: 169.254.0.0/16")},
		{"168.63.129.16", exempt, Allowed("addresses.allow: 168.63.129.16/32")},
		{"fd00:ec2::254", nil, Denied("address", "fd00:ec2::254 is the metadata service of a cloud, which a range does not exempt")},
		{"4000::1", nil, Denied("address", "4000::1 is in no range that has been given out")},
		{"fe80::1%eth0", exempt, Denied("address", "not a plain address")},
	} {
		if got := JudgeAddr(netip.MustParseAddr(c.addr), c.exempt); got != c.want {
			t.Errorf("%s, %d exceptions: %+v\nwant %+v", c.addr, len(c.exempt), got, c.want)
		}
	}
}

// TestPatternErrors: who writes something else than a host is told what.
func TestPatternErrors(t *testing.T) {
	for in, want := range map[string]string{
		"": "a host is needed", "a.test:": "a number after the colon", "*": "every host there is", "*.com": "public suffix", "*.co.uk": "public suffix", "*.test": "public suffix",
		"ex*mple.com": "a star stands only at the beginning", "*.*.x.test": "a star stands only at the beginning", "*.a.*.test": "a star stands only at the beginning",
		"192.168.1.*": "a star stands only at the beginning", "*.1.2.3.4": "an address has no subdomains", "*.[::1]": "an address has no subdomains",
		"a.test:0": "from 1 to 65535", "a.test:65536": "from 1 to 65535", "*.cdn.test:http": "from 1 to 65535",
		"user@a.test": "without user information", "https://a.test/x": `without its scheme and path: "a.test"`, "https://a.test:8443": `without its scheme and path: "a.test:8443"`,
		"https://u:p@a.test": "without scheme", "a.test/x": "without scheme, path and query", "a.test?x": "without scheme, path and query",
		"127.1": "four decimal numbers", "2130706433": "four decimal numbers", "0x7f.1": "four decimal numbers", "0177.0.0.1": "four decimal numbers",
		"10.0.0.0/8": "without scheme, path and query", "fe80::1%eth0": "a zone", "a..test": "an empty label", "a_b.test ": "character",
	} {
		if p, err := ParsePattern(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", in, p, err, want)
		}
	}
}
