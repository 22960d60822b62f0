package supervise

import (
	"strings"
	"testing"

	"airlock/internal/proposal"
)

func TestNewAccess(t *testing.T) {
	for _, c := range []struct {
		url     string
		methods []string
		want    string
		verbs   string
	}{
		{"https://A.example.com/x/../y?q=1#f", nil, "https://a.example.com/y", "GET"},
		{"https://a.example.com:443", []string{"post", "GET", "POST"}, "https://a.example.com/", "GET POST"},
		{"https://a.example.com:8443/%2e%2e/x", []string{"PUT"}, "https://a.example.com:8443/x", "PUT"},
		{"http://a.example.com/", []string{"GET"}, "http://a.example.com/", "GET"},
		{"https://a.example.com/v1/a%3fb%23c", nil, "https://a.example.com/v1/a%3Fb%23c", "GET"},
	} {
		p, err := newAccess(c.url, c.methods, "because", 100)
		if err != nil || p.URL != c.want || strings.Join(p.Methods, " ") != c.verbs || p.Kind != proposal.Access {
			t.Errorf("%s: %+v, %v", c.url, p, err)
		}
	}
	for name, c := range map[string]struct {
		url, why string
		methods  []string
	}{
		"no URL": {"", "w", nil}, "no scheme": {"a.example.com", "w", nil}, "another scheme": {"ftp://a.example.com/", "w", nil},
		"user information": {"https://u:p@a.example.com/", "w", nil}, "an odd host": {"https://2130706433/", "w", nil},
		"no reason": {"https://a.example.com/", " \n", nil}, "a long reason": {"https://a.example.com/", strings.Repeat("x", 101), nil},
		"an odd method": {"https://a.example.com/", "w", []string{"GET /"}}, "CONNECT": {"https://a.example.com/", "w", []string{"CONNECT"}},
		"a star":                       {"https://a.example.com/%2a", "w", nil},
		"a reason that cannot be seen": {"https://a.example.com/", "\u200b\u202e", nil},
	} {
		if p, err := newAccess(c.url, c.methods, c.why, 100); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestControlCharactersAreRemoved(t *testing.T) {
	got, err := checkText("why", "read\x1b[2J \u202edocs\u202c\r\nplease\a", 100)
	if err != nil || got != "read[2J docs\nplease" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNewQuestion(t *testing.T) {
	if p, err := newQuestion("which?", []string{" a ", "b"}, 100); err != nil || p.Choices[0] != "a" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, choices := range [][]string{{""}, make([]string, maxChoices+1), {strings.Repeat("x", 201)}} {
		if _, err := newQuestion("which?", choices, 100); err == nil {
			t.Errorf("%d choices were taken", len(choices))
		}
	}
}
