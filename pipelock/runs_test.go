package pipelock

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// TestFragmentsBesideOtherTextAreJoined: halves of two requests, with what stands
// around them as a rule, and in escapes.
func TestFragmentsBesideOtherTextAreJoined(t *testing.T) {
	each := func(k, format string) (out string) {
		for _, c := range []byte(k) {
			out += fmt.Sprintf(format, c)
		}
		return out
	}
	target := func(format string) func(string) *http.Request {
		return func(k string) *http.Request {
			return httptest.NewRequest("GET", "https://a.ok.test/"+fmt.Sprintf(format, k), nil)
		}
	}
	field := func(name, format string) func(string) *http.Request {
		return func(k string) *http.Request { return withField(name, fmt.Sprintf(format, k)) }
	}
	body := func(text func(k string) string) func(string) *http.Request {
		return func(k string) *http.Request {
			return httptest.NewRequest("POST", "https://a.ok.test/", strings.NewReader(text(k)))
		}
	}
	for name, request := range map[string]func(k string) *http.Request{
		"a parameter's name": target("?%s=1"),
		"a cookie's name":    field("Cookie", "%s=1"),
		"a field's name":     func(k string) *http.Request { return withField(http.CanonicalHeaderKey(fmt.Sprintf("X%x", k)), "1") },
		"a file name":        target("img/%s.png"),
		"a prefix":           target("img/x-%s"),
		"a number before":    target("img/1_%s"),
		"a product":          field("User-Agent", "curl/%s"),
		"a sentence":         field("X-A", "part one: %s."),
		"a Referer":          field("Referer", "https://x.test/%s"),
		"percent-encoding":   body(func(k string) string { return "a=" + each(k, "%%%02X") }),
		"quoted-printable":   body(func(k string) string { return each(k, "=%02X") }),
		"JSON's escapes":     body(func(k string) string { return `{"v":"` + each(k, `\u%04x`) + `"}` }),
		"UTF-16":             body(func(k string) string { return each(k, "%c\x00") }),
		"base64 of JSON":     body(func(k string) string { return base64.StdEncoding.EncodeToString([]byte(`{"v":"` + k + `"}`)) }),
		"a path in JSON":     body(func(k string) string { return `{"path":"src/` + k + `"}` }),
		"a compressed body": func(k string) *http.Request {
			r := httptest.NewRequest("POST", "https://a.ok.test/", strings.NewReader(zipped(t, k)))
			r.Header.Set("Content-Encoding", "gzip")
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := apart()
			d, err := secrets.NewDigest(k, "0123456789abcdef")
			if err != nil {
				t.Fatal(err)
			}
			s, err := newScanner(parse(t, "version: 1\nallow: []\nsecrets: {values: [EGRESS_DIGEST_0]}\n"), "", func(string) string { return d })
			if err != nil {
				t.Fatal(err)
			}
			if v := all(t, s, request(k[:20])); !v.Allow {
				t.Errorf("the first half: %+v", v)
			}
			if v := all(t, s, request(k[20:])); !isFinding(v) {
				t.Errorf("the second half: %+v", v)
			}
		})
	}
}

// all is what becomes of a request, head and body.
func all(t *testing.T, s *scanner, r *http.Request) policy.Verdict {
	t.Helper()
	to := scanContext{host: host(t, "a.ok.test"), report: silent}
	if v := s.head(r, to); !v.Allow {
		return v
	}
	v, err := s.body(r, to)
	if err == nil && v.Allow {
		_, err = io.Copy(io.Discard, r.Body)
	}
	var refused *refusedError
	if errors.As(err, &refused) {
		return refused.v
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSecretSplitOverStreamsIsRefused: each part of a body that pauses counts.
func TestSecretSplitOverStreamsIsRefused(t *testing.T) {
	s := testScanner(t, "")
	k := apart()
	synctest.Test(t, func(t *testing.T) {
		send := func(parts ...string) policy.Verdict {
			src, w := io.Pipe()
			go func() {
				for _, p := range parts {
					if _, err := io.WriteString(w, p); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
				w.Close()
			}()
			r := httptest.NewRequestWithContext(t.Context(), "POST", "https://a.ok.test/", src)
			r.ContentLength = -1
			defer time.Sleep(time.Minute) // the writer leaves
			defer src.Close()
			return all(t, s, r)
		}
		if v := send(k[:20]+" \n", "\n"); !v.Allow {
			t.Errorf("the first half: %+v", v)
		}
		if v := send("hello \n", k[20:]+"\n"); !isFinding(v) {
			t.Errorf("the second half: %+v", v)
		}
	})
}

func TestUnescaped(t *testing.T) {
	for _, c := range []struct{ text, mark, want string }{
		{"a%20b%zz%2", "%", "a b%zz%2"},
		{"%e4%41", "%", "%e4A"},
		{"%%41", "%", "%A"},
		{"none", "%", "none"},
	} {
		if got, changed := unescaped(c.text, c.mark, 2); got != c.want || changed != (got != c.text) {
			t.Errorf("%q: %q, %v", c.text, got, changed)
		}
	}
}
