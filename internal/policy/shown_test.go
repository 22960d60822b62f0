package policy

import "testing"

func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"api.example.com:443":                                     "api.example.com:443",
		"d111111abcdef8.cloudfront.net":                           "d111111abcdef8.cloudfront.net",
		"deploy-preview-123--my-site.netlify.app":                 "deploy-preview-123--my-site.netlify.app",
		"192.0.2.1:80":                                            "192.0.2.1:80",
		"[2001:db8::1]:443":                                       "[2001:db8::1]:443",
		"550e8400-e29b-41d4-a716-446655440000.a.b":                "550e8400-e29b-41d4-a716-446655440000.a.b",
		"6768705f3031323334353637.evil.test":                      "6768…(24).evil.test",
		"ghp1a2b3c4d5e6f7g8h.evil.test:8443":                      "ghp1…(19).evil.test:8443",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.evil.test": "aaaa…(45).evil.test",
	} {
		if got := Shown(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
