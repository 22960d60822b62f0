package egress

import (
	"slices"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

const caseRoutes = `version: 1
ca: {cert: a, key: b}
routes:
  - {host: api.ok.test, paths: ["/v1/*", "/exact"], auth: {type: bearer, slot: S}}
  - {host: "*.cdn.test"}
  - {host: git.test, git: fetch}
  - {host: git.part.test, git: fetch, paths: ["/acme/*"]}
  - {host: 192.0.2.7}
`

// TestCases has what agents try: what is allowed, and by which route; what is
// refused, and by which rule. "bad" is a URL that no request can have.
func TestCases(t *testing.T) {
	var f bundle.EgressFile
	if err := config.Decode("sample", []byte(caseRoutes), &f); err != nil {
		t.Fatal(err)
	}
	const api, cdn, git, part, none, push, path, bad = "routes[0] api.ok.test", "routes[1] *.cdn.test", "routes[2] git.test", "routes[3] git.part.test", noRoute, "git push", "path", "bad"
	for _, c := range []struct {
		allow        bool
		rule         string
		method, urls string
	}{
		// 6, 8, 14: the authority.
		{true, api, "GET", "https://API.OK.test/v1/x https://api.ok.test./v1/x https://api.ok.test:443/v1/x https://api.ok.test:0443/v1/x HTTPS://api.ok.test/v1/x"},
		{false, bad, "GET", `https://api.ok.test@evil.test/v1/x https://api.ok.test:443:1/ https://api%2eok.test/ https://api.ok.test%00.evil.test/ https://api..ok.test/ https://api。ok.test/ https://api.ok.test:+443/ https://api.ok.test\.evil.test/ https:///v1/x`},
		{false, none, "GET", "https://api.ok.test.evil.test/v1/x https://evil-api.ok.test/v1/x https://ok.test/v1/x https://x.api.ok.test/v1/x https://evil.test/?https://api.ok.test/v1/x https://evil.test/#api.ok.test"},
		// 9: plain http where only https is meant; other ports.
		{false, api, "GET", "http://api.ok.test/v1/x http://api.ok.test:443/v1/x https://api.ok.test:8443/v1/x https://api.ok.test:80/v1/x"},
		{false, cdn, "GET", "http://a.cdn.test/ http://a.cdn.test:443/"},
		// 12: a suffix needs a label.
		{true, cdn, "GET", "https://a.cdn.test/ https://a.b.cdn.test/x https://A.CDN.TEST./"},
		{false, none, "GET", "https://cdn.test/ https://evilcdn.test/ https://cdn.test.evil.test/ https://a.cdn.test.evil.test/ https://acdn.test/"},
		{false, bad, "GET", "https://.cdn.test/ https://*.cdn.test/ https://a..cdn.test/"},
		// 15, 16: addresses.
		{true, "routes[4] 192.0.2.7", "GET", "https://192.0.2.7/ https://[::ffff:192.0.2.7]/ https://[::ffff:c000:207]/"},
		{false, bad, "GET", "https://127.1/ https://2130706433/ https://0x7f.1/ https://0177.0.0.1/ https://192.0.2.07/ https://[fe80::1%25eth0]/ https://3221225991/"},
		{false, none, "GET", "https://127.0.0.1/ https://[::1]/ https://[::ffff:127.0.0.1]/ https://[64:ff9b::7f00:1]/ https://169.254.169.254/ https://100.64.0.1/ https://7.2.0.192/ https://metadata.google.internal/"},
		// 28, 29: the path.
		{true, api, "GET", "https://api.ok.test/v1/ https://api.ok.test/v1/x https://api.ok.test//v1//x https://api.ok.test/v1/./x https://api.ok.test/v1/%2e/x https://api.ok.test/v1/a/../x https://api.ok.test/v1/a/b/../../x https://api.ok.test/%76%31/x https://api.ok.test/v1/%25 https://api.ok.test/v1/%3f%23 https://api.ok.test/v1/a..b https://api.ok.test/v1/... https://api.ok.test/exact https://api.ok.test/%65xact?a=../.."},
		{false, api, "GET", `https://api.ok.test/ https://api.ok.test https://api.ok.test/v1 https://api.ok.test/V1/ https://api.ok.test/v10 https://api.ok.test/v1x/ https://api.ok.test/v1;x/y https://api.ok.test/exact/ https://api.ok.test/exactly https://api.ok.test/Exact`},
		{false, api, "GET", `https://api.ok.test/v1/../admin https://api.ok.test/v1/%2e%2e/admin https://api.ok.test/v1//../admin https://api.ok.test/v1%2f..%2fadmin https://api.ok.test/v1\..\admin https://api.ok.test/v1/%252e%252e/admin https://api.ok.test/v1/.%2e/admin https://api.ok.test/v1/..%5cadmin https://api.ok.test/v1/%5c../admin https://api.ok.test/v1/x/../../admin https://api.ok.test/v1/%2e%2e%2fadmin https://api.ok.test/v1/..%252fadmin https://api.ok.test/../admin https://api.ok.test/v1/.. https://api.ok.test/v1/%25zz/%252e%252e/%252e%252e/admin`},
		// Dots and slashes that only some servers take for them.
		{false, api, "GET", "https://api.ok.test/v1/%c0%ae%c0%ae/admin https://api.ok.test/v1/..%c0%afadmin https://api.ok.test/v1/%ef%bc%8e%ef%bc%8e/admin https://api.ok.test/v1/..%ef%bc%8f../admin https://api.ok.test/v1/%e2%80%a5/admin https://api.ok.test/v1/%e0%80%ae%e0%80%ae/admin https://api.ok.test/v1/%25c0%25ae./admin https://api.ok.test/v1/．．/admin"},
		{true, api, "GET", "https://api.ok.test/v1/AC%ef%bc%8fDC https://api.ok.test/v1/caf%e9 https://api.ok.test/v1/%c3%ae"},
		// The other way round: a server that does not resolve dot segments.
		{false, api, "GET", `https://api.ok.test/admin/../v1/x https://api.ok.test/admin/%2e%2e/v1/x https://api.ok.test/admin/..%2fv1/x https://api.ok.test/admin\..\v1/x https://api.ok.test/v1/../v1/x https://api.ok.test/v1/x/../../admin/%2e%2e/v1/y https://api.ok.test/admin/../exact https://api.ok.test/exact/../exact https://api.ok.test/%252e%252e/v1/x`},
		{false, path, "GET", "https://api.ok.test/v1/% https://api.ok.test/v1/%zz https://api.ok.test/v1/%00 https://api.ok.test/v1/%0d%0aX:%20y https://api.ok.test/v1/..;x/admin https://api.ok.test/v1/%2e%2e;x/admin https://api.ok.test/v1/.;/x https://api.ok.test/v1/%252525252525252525252e"},
		{false, "method", "get", "https://api.ok.test/v1/x"},
		{false, "method", "G T", "https://api.ok.test/v1/x"},
		{false, "method", "", "https://api.ok.test/v1/x"},
		// 30: git.
		{true, git, "GET", "https://git.test/a.git/info/refs?service=git-upload-pack https://git.test/a/b/info/refs?service=git-upload-pack"},
		{true, git, "POST", "https://git.test/a.git/git-upload-pack"},
		{true, part, "POST", "https://git.part.test/acme/a.git/git-upload-pack"},
		{false, part, "POST", "https://git.part.test/other/a.git/git-upload-pack https://git.part.test/acme/../other/a.git/git-upload-pack https://git.part.test/other/../acme/a.git/git-upload-pack"},
		{false, git, "GET", "https://git.test/a.git/HEAD https://git.test/a.git/objects/ab/cd https://git.test/a.git/info/refs https://git.test/a.git/git-upload-pack https://git.test/a.git/info/refs?service=git-upload-pack&service=x https://git.test/a.git/info/refs?service=Git-Upload-Pack https://git.test/a.git/info/refs?service=git-upload-pack;x https://git.test/git-upload-pack/x"},
		{false, git, "POST", "https://git.test/a.git/info/refs?service=git-upload-pack https://git.test/a.git/info/lfs/objects/batch https://git.test/a.git/info/lfs/locks https://git.test/git-upload-pack/"},
		{false, cdn, "GET", "https://a.cdn.test/a.git/info/refs?service=git-upload-pack https://a.cdn.test/a.git/info/refs?a=%zz&service=git%2Dupload-pack https://a.cdn.test/a.git/info/refs/?SERVICE=git-upload-pack"},
		{false, cdn, "POST", "https://a.cdn.test/a.git/git-upload-pack https://a.cdn.test/a.git/%67it-upload-pack/ https://a.cdn.test/a.git/GIT-upload-pack;x"},
		{true, cdn, "GET", "https://a.cdn.test/docs/git-upload-pack https://a.cdn.test/search?q=git-receive-pack https://a.cdn.test/docs/git-receive-pack.html"},
		{false, push, "POST", "https://git.test/a.git/git-receive-pack https://a.cdn.test/git-receive-pack https://a.cdn.test/a.git/%67it-receive-pack https://a.cdn.test/a.git/git%2dreceive-pack https://a.cdn.test/a.git/git%252dreceive-pack https://a.cdn.test/a.git/GIT-Receive-Pack https://a.cdn.test/a.git/git-receive-pack/ https://a.cdn.test/a.git/git-receive-pack// https://a.cdn.test/a.git/git-receive-pack;x https://a.cdn.test/a.git/git-receive-pack;x/ https://a.cdn.test/a.git/git-receive-pack%3bx https://a.cdn.test/a.git/git-receive-pack%20 https://a.cdn.test/a.git/./git-receive-pack https://a.cdn.test/a.git/x/../git-receive-pack https://a.cdn.test/a.git/git-receive-pack/../git-upload-pack https://git.test/a.git/git-receive-pack/%2e%2e/git-upload-pack https://evil.test/x/git-receive-pack https://a.cdn.test/a.git%5cgit-receive-pack https://a.cdn.test/a.git%c0%afgit-receive-pack https://a.cdn.test/a.git%ef%bc%8fgit-receive-pack https://a.cdn.test/a.git/git-receive-pack?x https://a.cdn.test/a.git/git-receive-pack#x"},
		{false, push, "GET", "https://a.cdn.test/a.git/info/refs?service=git-receive-pack https://git.test/a.git/info/refs?service=git%2Dreceive-pack https://git.test/a.git/info/refs?service=git%252Dreceive-pack https://git.test/a.git/info/refs?a=b&service=git-receive-pack https://git.test/a.git/info/refs?a=%zz&service=git%2Dreceive-pack https://git.test/a.git/info/refs?%73ervice=git-receive-pack https://git.test/a.git/info/refs?service=git-upload-pack&service=git-receive-pack https://git.test/a.git/info/refs?SERVICE=GIT-RECEIVE-PACK https://git.test/a.git/info/refs?service=git-receive-pack+ https://git.test/a.git/info/refs/?service=git-receive-pack https://git.test/a.git/info//refs?service=git-receive-pack https://git.test/a.git/info/refs;x?service=git-receive-pack https://git.test/a.git/%69nfo/%72efs?service=git-receive-pack"},
		{false, push, "PROPFIND", "https://a.cdn.test/a.git/info/refs https://a.cdn.test/a.git/refs/heads/main https://a.cdn.test/a/objects/ab/"},
		{false, push, "LOCK", "https://a.cdn.test/a.git/info/refs https://a.cdn.test/a/refs/heads/main https://a.cdn.test/a.git/%72efs/heads/main"},
		{false, push, "MKCOL", "https://a.cdn.test/a.git/objects/ab/ https://a.cdn.test/a.git/refs/heads/"},
		{false, push, "PUT", "https://a.cdn.test/a.git/objects/ab/cdef https://a.cdn.test/a.git/info/refs https://git.test/a.git/info/refs?service=git-upload-pack https://a.cdn.test/a.git/refs/heads/main"},
		{false, push, "MOVE", "https://a.cdn.test/a.git/objects/ab/cdef_lock"},
		{true, cdn, "PUT", "https://a.cdn.test/bucket/objects/ab/cdef https://a.cdn.test/refs/heads/x"},
		{true, cdn, "PROPFIND", "https://a.cdn.test/dav/calendar/"},
	} {
		for _, text := range strings.Fields(c.urls) {
			target, err := policy.ParseTarget(text)
			if err != nil {
				if c.rule != bad {
					t.Errorf("%s: %v", text, err)
				}
				continue
			}
			a := requestInfo{tls: target.TLS, authority: target.Authority, method: c.method, path: target.Path, query: target.Query}
			v, route := rules(f.Routes).decide(a, time.Now())
			if v.Allow != c.allow || v.Rule != c.rule || (route != nil) != v.Allow {
				t.Errorf("%s %s: %+v, want %v by %q", c.method, text, v, c.allow, c.rule)
			}
		}
	}
}

// TestPushByItsBody knows a push by what it carries, wherever it goes.
func TestPushByItsBody(t *testing.T) {
	rs := sampleRules(t)
	a, err := policy.ParseAuthority("a.cdn.test", 443)
	if err != nil {
		t.Fatal(err)
	}
	for content, allowed := range map[string]bool{"": true, "application/json": true, "application/x-git-receive-pack-request": false, "Application/X-Git-Receive-Pack-Request; a=b": false} {
		if v, _ := rs.decide(requestInfo{tls: true, authority: a, method: "POST", path: "/x", content: content}, time.Now()); v.Allow != allowed {
			t.Errorf("%q: %+v", content, v)
		}
	}
}

// FuzzDecide asks for anything on a host with a route for some paths: what
// passes lies within them and is no push.
func FuzzDecide(f *testing.F) {
	for _, s := range [][2]string{{"/v1/x", "a=b"}, {"/v1/%2e%2e/admin", ""}, {"/v1/%c0%ae%c0%ae/x", ""}, {"/v1/info/refs", "a=%zz&service=git%2Dreceive-pack"}, {"/v1/a/../b;x/git-receive-pack", ""}} {
		f.Add(s[0], s[1])
	}
	var file bundle.EgressFile
	if err := config.Decode("sample", []byte(caseRoutes), &file); err != nil {
		f.Fatal(err)
	}
	a, err := policy.ParseAuthority("api.ok.test", 443)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		v, route := rules(file.Routes).decide(requestInfo{tls: true, authority: a, method: "POST", path: path, query: query}, time.Time{})
		if (route != nil) != v.Allow || v.Rule == "" || (!v.Allow && v.Why == "") {
			t.Errorf("%q ? %q: %+v, %v", path, query, v, route)
		}
		if !v.Allow {
			return
		}
		cleaned, err := policy.CleanPath(path)
		if err != nil || (cleaned != "/exact" && !strings.HasPrefix(cleaned, "/v1/")) {
			t.Errorf("%q passes as %q, %v", path, cleaned, err)
		}
		if decoded, _ := policy.DecodePath(path); slices.Contains(strings.Split(strings.ToLower(decoded), "/"), pushService) {
			t.Errorf("%q passes, and is a push", path)
		}
	})
}
