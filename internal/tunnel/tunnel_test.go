package tunnel

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"airlock/internal/policy"
)

func authority(t *testing.T, s string) policy.Authority {
	t.Helper()
	a, err := policy.ParseAuthority(s, 443)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestCheckRequest(t *testing.T) {
	tunnel := authority(t, "api.ok.test")
	for _, c := range []struct {
		method, target, host string
		want                 int // 0: allowed
	}{
		{"GET", "/x", "api.ok.test", 0},
		{"GET", "/x", "API.OK.TEST.", 0},
		{"GET", "/x", "api.ok.test:443", 0},
		{"GET", "https://api.ok.test/x", "api.ok.test", 0},
		{"GET", "/x", "api.ok.test:80", 421},
		{"GET", "/x", "evil.test", 421},
		{"GET", "/x", "127.0.0.1", 421},
		{"GET", "/x", "", 400},
		{"GET", "/x", "api.ok.test@evil.test", 400},
		{"GET", "/x", "api.ok.test/", 400},
		{"GET", "/x", "api.ok.test:", 400},
		{"GET", "http://api.ok.test/x", "api.ok.test", 400},
		{"GET", "ftp://api.ok.test/x", "api.ok.test", 400},
		{"GET", "https://user@api.ok.test/x", "api.ok.test", 400},
		{"CONNECT", "api.ok.test:443", "api.ok.test:443", 405},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.method == "CONNECT" {
			r.Method = c.method
		} else {
			r = httptest.NewRequest(c.method, c.target, nil)
		}
		r.Host = c.host
		status, v := checkRequest(r, tunnel)
		if status != c.want || v.Allow != (c.want == 0) || (!v.Allow && v.Why == "") {
			t.Errorf("%s %s with Host %q: %d %+v, want %d", c.method, c.target, c.host, status, v, c.want)
		}
	}
}

func TestCheckSNI(t *testing.T) {
	name, address := authority(t, "api.ok.test").Host, authority(t, "192.0.2.1").Host
	for _, c := range []struct {
		sni  string
		host policy.Host
		want bool
	}{
		{"api.ok.test", name, true}, {"API.ok.test", name, true}, {"evil.test", name, false}, {"", name, false},
		{"", address, true}, {"api.ok.test", address, false}, {"a b", name, false},
	} {
		if err := checkSNI(c.sni, c.host); (err == nil) != c.want {
			t.Errorf("SNI %q for %s: %v", c.sni, c.host, err)
		}
	}
}
