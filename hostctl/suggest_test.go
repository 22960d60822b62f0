package hostctl

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"airlock/internal/audit"
)

// lessons makes entries of lines like "GET a.test:443 /path".
func lessons(t *testing.T, lines ...string) (all []audit.Entry) {
	t.Helper()
	for _, l := range lines {
		f := strings.SplitN(l, " ", 3)
		if len(f) != 3 {
			t.Fatalf("%q", l)
		}
		all = append(all, audit.Entry{Verdict: "allow", Rule: "learn", Method: f[0], Host: f[1], Path: audit.SafePath(f[2])})
	}
	return all
}

func many(form string, n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(form, i))
	}
	return lines
}

func TestSuggest(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  string // host methods paths git, a line each
	}{
		{"nothing", nil, ""},
		{"one", []string{"GET a.test:443 /v1/x", "GET a.test:443 /v1/x"}, "a.test [GET] [/v1/x]"},
		{"a port", []string{"GET a.test:8443 /", "GET a.test:80 /"}, "a.test:80 [GET] [/]\na.test:8443 [GET] [/]"},
		{"few paths stay", []string{"GET a.test:443 /a", "GET a.test:443 /b/c", "GET a.test:443 /b/d", "HEAD a.test:443 /e/"}, "a.test [GET HEAD] [/a /b/c /b/d /e/]"},
		{"many of one folder", many("GET a.test:443 /v1/items/%d", 20), "a.test [GET] [/v1/items/*]"},
		{"deep ones meet where they part", many("GET a.test:443 /v1/items/%d/x", 20), "a.test [GET] [/v1/items/*]"},
		{"a folder and its own name", append(many("GET a.test:443 /v1/%d", 9), "GET a.test:443 /v1"), "a.test [GET] [/v1 /v1/*]"},
		{"the largest group is folded first", append(many("GET a.test:443 /v1/items/%d", 9), "GET a.test:443 /a/b", "GET a.test:443 /a/c"), "a.test [GET] [/a/b /a/c /v1/items/*]"},
		{"a common first segment is never any path", append(many("GET a.test:443 /v1/a%d/x", 30), many("GET a.test:443 /v1/b%d/y", 30)...), "a.test [GET] [/v1/*]"},
		{"many first segments are any path", many("GET a.test:443 /package%d", 9), "a.test [GET] []"},
		{"eight first segments are not", many("GET a.test:443 /p%d", 8), "a.test [GET] [/p0 /p1 /p2 /p3 /p4 /p5 /p6 /p7]"},
		{"writes stand apart", []string{"GET a.test:443 /list", "GET a.test:443 /item", "POST a.test:443 /item"}, "a.test [GET] [/list]\na.test [GET POST] [/item]"},
		{"a clone", []string{"GET a.test:443 /acme/app.git/info/refs", "POST a.test:443 /acme/app.git/git-upload-pack", "GET a.test:443 /other"}, "a.test [] [/acme/app.git/*] fetch\na.test [GET] [/other]"},
		{"clones", many("POST a.test:443 /acme/app%d/git-upload-pack", 7), "a.test [] [/acme/*] fetch"},
		{"a clone of a long name", []string{"POST a.test:443 /acme/" + strings.Repeat("long", 10) + "/git-upload-pack"}, "a.test [] [/acme/*] fetch"},
		{"a shortened segment", []string{"GET a.test:443 /v1/" + strings.Repeat("abcd", 10) + "/x", "GET a.test:443 /v1/y"}, "a.test [GET] [/v1/*]"},
		{"a star and a percent sign", []string{"GET a.test:443 /v1/%2A/x", "GET a.test:443 /v2/100%25"}, "a.test [GET] [/v1/* /v2/*]"},
		{"odd spellings are the same", []string{"GET a.test:443 /v1/../v1/%78", "GET a.test:443 //v1/x"}, "a.test [GET] [/v1/x]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := suggest(lessons(t, c.lines...))
			var got []string
			for _, r := range s.routes {
				got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v %v %s", r.Host, r.Methods, r.Paths, r.Git)))
			}
			if text := strings.Join(got, "\n"); text != c.want || s.requests != len(c.lines) || len(s.notes) != 0 {
				t.Errorf("%d requests, %v:\n%s\nwant\n%s", s.requests, s.notes, text, c.want)
			}
			text, err := s.text()
			if err != nil {
				t.Fatal(err)
			}
			m := load(t, "version: 1\nname: demo\nagent: {command: [sh]}\n"+text)
			l := newLayout()
			if f := l.egress(m); len(f.Routes) != len(s.routes) {
				t.Errorf("%d routes of %d came back", len(f.Routes), len(s.routes))
			}
		})
	}
}

func TestSuggestNamesFamilies(t *testing.T) {
	s := suggest(lessons(t, "GET a.pkgs.example.com:443 /", "GET b.pkgs.example.com:443 /", "GET c.pkgs.example.com:443 /", "GET a.github.io:443 /", "GET b.github.io:443 /", "GET c.github.io:443 /",
		"GET 192.0.2.1:443 /", "GET 192.0.2.2:443 /", "GET 192.0.2.3:443 /"))
	if len(s.notes) != 1 || !strings.Contains(s.notes[0], `3 hosts were seen that "*.pkgs.example.com" would name`) || len(s.routes) != 9 {
		t.Errorf("%q, %d routes", s.notes, len(s.routes))
	}
	if text, err := s.text(); err != nil || strings.Contains(text, "host: '*") || !strings.Contains(text, "# 3 hosts were seen") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestSuggestTakesOnlyLessons(t *testing.T) {
	text := `{"time":"2026-01-01T00:00:00Z","seq":1,"verdict":"allow","rule":"learn","host":"old.test:443","method":"GET","path":"/"}
{"time":"2026-01-03T00:00:00Z","seq":2,"verdict":"allow","rule":"learn","host":"new.test:443","method":"GET","path":"/"}
{"time":"2026-01-03T00:00:00Z","seq":3,"verdict":"deny","rule":"no route","host":"evil.test:443","method":"GET","path":"/"}
{"time":"2026-01-03T00:00:00Z","seq":4,"verd`
	entries, err := readAudit(strings.NewReader(text), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	if s := suggest(entries); err != nil || s.requests != 1 || len(s.routes) != 1 || s.routes[0].Host.String() != "new.test" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := readAudit(strings.NewReader("no entry\n"), time.Time{}); err == nil {
		t.Error("what is no entry was read")
	}
}
