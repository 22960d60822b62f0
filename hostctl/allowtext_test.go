package hostctl

import (
	"slices"
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

func allowed(t testing.TB, host string, expires time.Time) bundle.Allowed {
	t.Helper()
	p, err := policy.ParsePattern(host)
	if err != nil {
		t.Fatal(err)
	}
	return bundle.Allowed{Host: p, Expires: expires}
}

func TestParseAllow(t *testing.T) {
	end := time.Date(2026, 12, 31, 18, 0, 0, 0, time.UTC)
	lines, err := parseAllow(allowHelp + `
api.example.com
  git.example.com:8443   # the mirror
*.pkgs.example	expires 2026-12-31T18:00Z
docs.example.com expires 2026-12-31T19:00:00+01:00 # for a while
late.example.com expires 2027-01-01
[2001:db8::1]:443` + "\r\n")
	if err != nil {
		t.Fatal(err)
	}
	want := []bundle.Allowed{
		allowed(t, "api.example.com", time.Time{}), allowed(t, "git.example.com:8443", time.Time{}), allowed(t, "*.pkgs.example", end),
		allowed(t, "docs.example.com", end), allowed(t, "late.example.com", end.Add(6*time.Hour)), allowed(t, "[2001:db8::1]:443", time.Time{}),
	}
	if got := entries(lines); !slices.EqualFunc(got, want, bundle.Allowed.Equal) {
		t.Errorf("%v", got)
	}
	_, err = parseAllow("a.test\n*.com\n\nhttps://a.test/x\nb.test until tomorrow\nc.test expires\nd.test expires soon\ne.test expires 2026-12-31 or so\n")
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	for i, want := range []string{
		`line 2: pattern "*.com": too wide`, `line 4: pattern "https://a.test/x": a host stands here without its scheme and path: "a.test"`,
		`line 5: "until" behind the host`, "line 6: a time like", `line 7: "soon" is no time`, "line 8: a time like",
	} {
		if len(got) <= i || !strings.HasPrefix(got[i], want) {
			t.Errorf("error %d: %q, want %s", i, got, want)
		}
	}
}

func TestMergeKeepsComments(t *testing.T) {
	end := time.Date(2026, 12, 31, 18, 0, 0, 0, time.UTC)
	text := "# the model\napi.example.com  # do not remove\n\n# papers\ndocs.example.com expires 2026-12-31T18:00Z\ngone.example.com\n"
	list := []bundle.Allowed{allowed(t, "new.example.com", time.Time{}), allowed(t, "docs.example.com", end), allowed(t, "api.example.com", time.Time{})}
	want := "# the model\napi.example.com  # do not remove\n\n# papers\ndocs.example.com expires 2026-12-31T18:00Z\nnew.example.com\n"
	if got := merge(list, text); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := merge(list[:1], ""); got != allowHelp+"new.example.com\n" {
		t.Errorf("%q", got)
	}
	if got := diffAllow(list, []bundle.Allowed{allowed(t, "api.example.com", time.Time{}), allowed(t, "docs.example.com", end.Add(time.Hour))}); got != "- new.example.com\n- docs.example.com  expires 2026-12-31T18:00:00Z\n+ docs.example.com  expires 2026-12-31T19:00:00Z\n" {
		t.Errorf("%q", got)
	}
}

// FuzzAllowText: what can be read is the same when it is written and read
// again, as a text and in pipelock.yaml, and merging changes no list.
func FuzzAllowText(f *testing.F) {
	for _, s := range []string{allowHelp, "api.example.com\n*.pkgs.example:81 expires 2026-12-31 # x\n", "a.test\r\nB.test.", "bücher.example", "[::1]:443", "1.2.3.4 expires 0001-01-02", "a.test expires 2026-12-31T00:00:00.5+01:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := parseAllow(text)
		if err != nil {
			return
		}
		list := entries(lines)
		again, err := parseAllow(renderAllow(list))
		if err != nil || !slices.EqualFunc(entries(again), list, bundle.Allowed.Equal) {
			t.Errorf("%q: %v, and again %v, %v", text, list, entries(again), err)
		}
		merged, err := parseAllow(merge(list, text))
		if err != nil || !slices.EqualFunc(entries(merged), list, bundle.Allowed.Equal) {
			t.Errorf("%q: merged to %v, %v", text, entries(merged), err)
		}
		data, err := render("the list", bundle.PipelockFile{Version: 1, Allow: list})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var file bundle.PipelockFile
		if err := config.Decode("sample", data, &file); err != nil || !slices.EqualFunc(file.Allow, list, bundle.Allowed.Equal) {
			t.Errorf("%q: in YAML\n%s%v, %v", text, data, file.Allow, err)
		}
	})
}
