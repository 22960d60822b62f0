package supervise

import (
	"net/netip"
	"testing"
)

func TestOwnHost(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.7")
	for host, want := range map[string]bool{
		"supervise": true, "supervise:9100": true, "SUPERVISE.:9100": true, "localhost": true, "localhost:1234": true,
		"127.0.0.1:9100": true, "127.9.9.9": true, "[::1]:9100": true, "192.0.2.7:9100": true,
		"": false, "evil.test": false, "evil.test:9100": false, "supervise.evil.test": false, "localhost.evil.test": false, "evil.test.localhost": false,
		"192.0.2.8": false, "0.0.0.0": false, "supervise@evil.test": false, "evil.test/supervise": false, "[::ffff:192.0.2.8]": false,
	} {
		if got := ownHost(host, local); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

func TestOwnOrigins(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.7")
	for _, c := range []struct {
		origins []string
		want    bool
	}{
		{nil, true},
		{[]string{"http://supervise:9100"}, true},
		{[]string{"http://localhost:3000"}, true},
		{[]string{"https://127.0.0.1"}, true},
		{[]string{"http://evil.test"}, false},
		{[]string{"null"}, false},
		{[]string{""}, false},
		{[]string{"file://"}, false},
		{[]string{"http://supervise@evil.test"}, false},
		{[]string{"http://u@supervise"}, false},
		{[]string{"http://supervise", "http://evil.test"}, false},
		{[]string{"chrome-extension://localhost"}, false},
	} {
		if got := ownOrigins(c.origins, local); got != c.want {
			t.Errorf("%q: %v, want %v", c.origins, got, c.want)
		}
	}
}
