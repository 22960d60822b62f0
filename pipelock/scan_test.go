package pipelock

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"airlock/internal/httpd"
	"airlock/internal/lab"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

func testScanner(t *testing.T, more string) *scanner {
	t.Helper()
	s, err := newScanner(parse(t, "version: 1\nallow: []\n"+more), "", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	s.within = time.Hour // some of the tests have much to scan, on machines that are slow or busy
	return s
}

// TestScanOutOfTime is refused, whatever the text is.
func TestScanOutOfTime(t *testing.T) {
	s := testScanner(t, "")
	s.within = 0
	for _, length := range []int64{5, -1} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("hello"))
		r.ContentLength = length
		if v, got := outcome(t, s, r); v.Allow || v.Rule != "scan" || !strings.Contains(v.Why, "deadline exceeded") || got != "" {
			t.Errorf("length %d: %+v, %q went on", length, v, got)
		}
	}
}

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// heard is a request whose reports are heard.
func heard(s *scanner, f func(policy.Verdict)) scanContext {
	return scanContext{action: s.action.usual, report: func(_ string, v policy.Verdict) error { f(v); return nil }}
}

func silent(string, policy.Verdict) error { return nil }

// outcome sends a body through the scan and says what became of it.
func outcome(t *testing.T, s *scanner, r *http.Request) (policy.Verdict, string) {
	t.Helper()
	reported := 0
	v, err := s.body(r, heard(s, func(v policy.Verdict) {
		if !v.Allow { // what was overwritten before is reported, too
			reported++
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if !v.Allow {
		return v, ""
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if refused, ok := err.(*refusedError); ok {
		if reported != 1 || !refused.reported {
			t.Errorf("what was stopped in the middle was reported %d times", reported)
		}
		return refused.v, string(got)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v, string(got)
}

func TestSecretsInBodiesAreRefused(t *testing.T) {
	s := testScanner(t, "limits: {body_bytes: 8MiB}\n")
	token := lab.Token()
	filler := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 60_000) // 2.6 MB
	for _, c := range []struct {
		name, body, encoding string
		chunked              bool
		rule                 string // empty: passes
	}{
		{name: "nothing to find", body: `{"a": "b"}`},
		{name: "a token", body: "x " + token + " y", rule: "secret: github-pat"},
		{name: "a token in base64", body: base64.StdEncoding.EncodeToString([]byte("my key is " + token + " ok")), rule: "secret: "},
		{name: "a token, chunked", body: "x " + token + " y", chunked: true, rule: "secret: github-pat"},
		{name: "long and clean", body: filler},
		{name: "long and clean, chunked", body: filler, chunked: true},
		{name: "a token behind the first window", body: filler + token, rule: "secret: github-pat"},
		{name: "a token over the border of a window", body: filler[:wholeBody-20] + " " + token + " " + filler[:1000], rule: "secret: github-pat"},
		{name: "gzip, clean", body: zipped(t, "hello"), encoding: "gzip"},
		{name: "gzip, a token", body: zipped(t, "x "+token+" y"), encoding: "gzip", rule: "secret: github-pat"},
		{name: "not gzip", body: "hello", encoding: "gzip", rule: "scan"},
		{name: "an encoding that is not known", body: "hello", encoding: "magic", rule: "scan"},
		{name: "a bomb", body: zipped(t, strings.Repeat("\x00", maxInflate+1)), encoding: "gzip", rule: "scan"},
		{name: "too long", body: strings.Repeat("a", 9<<20), rule: "limits.body_bytes"},
		{name: "too long, chunked", body: strings.Repeat("a b ", 9<<18), chunked: true, rule: "limits.body_bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
			if c.chunked {
				r.ContentLength = -1
				r.Body = io.NopCloser(iotest.HalfReader(strings.NewReader(c.body)))
			}
			if c.encoding != "" {
				r.Header.Set("Content-Encoding", c.encoding)
			}
			v, got := outcome(t, s, r)
			if c.rule == "" {
				if !v.Allow || got != c.body {
					t.Errorf("%+v, %d bytes of %d", v, len(got), len(c.body))
				}
				return
			}
			if v.Allow || !strings.HasPrefix(v.Rule, c.rule) || strings.Contains(got, token) || strings.Contains(v.Why, token) {
				t.Errorf("%+v, want %s", v, c.rule)
			}
		})
	}
}

func TestSecretsInHeadsAreRefused(t *testing.T) {
	s := testScanner(t, "")
	token := lab.Token()
	host, err := policy.ParseHost("api.ok.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, target string
		header       http.Header
		injected     []string
		want         bool
	}{
		{name: "clean", target: "https://api.ok.test/v1/x?a=b", header: http.Header{"Accept": {"*/*"}}, want: true},
		{name: "a token in the path", target: "https://api.ok.test/v1/" + token},
		{name: "a token in the query, percent-encoded", target: "https://api.ok.test/?q=%67" + token[1:]},
		{name: "a token in a header", target: "https://api.ok.test/", header: http.Header{"X": {token}}},
		{name: "a token in a cookie", target: "https://api.ok.test/", header: http.Header{"Cookie": {"s=" + token}}},
		{name: "the injected one is no leak", target: "https://api.ok.test/?key=" + token, header: http.Header{"Authorization": {"Bearer " + token}}, injected: []string{"Authorization", "query:key"}, want: true},
		{name: "beside the injected one", target: "https://api.ok.test/", header: http.Header{"Authorization": {"Bearer " + token}, "X": {token}}, injected: []string{"Authorization"}},
		{name: "a parameter in another case than the injected one", target: "https://api.ok.test/?KEY=" + token, injected: []string{"query:key"}},
		{name: "a field called body", target: "https://api.ok.test/", header: http.Header{"Body": {token}}, injected: []string{httpd.InjectedBody}},
		{name: "a parameter whose name ends the list", target: "https://api.ok.test/?a=" + token, injected: []string{"query:a%2CX"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, c.target, nil)
			if c.header != nil {
				r.Header = c.header
			}
			if v := s.head(r, scanContext{host: host, injected: c.injected}); v.Allow != c.want {
				t.Errorf("%+v", v)
			}
		})
	}
}

// TestInjectedBodies has bodies in which egress put a credential: its value
// alone is excused, and only that of the slot that it names.
func TestInjectedBodies(t *testing.T) {
	token, other := lab.Token(), lab.Token()
	digests := map[string]string{}
	for name, value := range map[string]string{"EGRESS_DIGEST_0": token, "EGRESS_DIGEST_1": other} {
		d, err := secrets.NewDigest(value, "0123456789abcdef")
		if err != nil {
			t.Fatal(err)
		}
		digests[name] = d
	}
	file := parse(t, "version: 1\nallow: []\nsecrets: {values: [EGRESS_DIGEST_0, EGRESS_DIGEST_1]}\n")
	s, err := newScanner(file, "", func(name string) string { return digests[name] })
	if err != nil {
		t.Fatal(err)
	}
	replaced := []string{httpd.InjectedBody + httpd.Replaced + "EGRESS_TOKEN_0"}
	filler := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 60_000)
	for _, c := range []struct {
		name, body string
		injected   []string
		want       bool
	}{
		{"not announced", "a " + token, nil, false},
		{"announced", `{"a": "` + token + `", "api_key": "` + token + `"}`, replaced, true},
		{"announced, deep in a long one", filler + token + filler, replaced, true},
		{"another slot's", "a " + other, replaced, false},
		{"another slot's beside it", token + " " + other, replaced, false},
		{"a secret around it", other[:20] + token + other[20:], replaced, false},
		{"announced for a field", "a " + token, []string{"Body", "body", "query:body"}, false},
		{"egress' own", "client_secret=" + token, []string{httpd.InjectedBody}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
			v, err := s.body(r, scanContext{injected: c.injected, report: silent})
			if err == nil && v.Allow {
				_, err = io.ReadAll(r.Body)
			}
			if passed := err == nil && v.Allow; passed != c.want {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

// TestFramedBodies has bodies in the framing of S3, which must hide nothing.
func TestFramedBodies(t *testing.T) {
	s := testScanner(t, "")
	token := lab.Token()
	framed := func(text string, size int) string {
		var b strings.Builder
		for len(text) > 0 {
			n := min(size, len(text))
			fmt.Fprintf(&b, "%x;chunk-signature=%064x\r\n%s\r\n", n, n, text[:n])
			text = text[n:]
		}
		return b.String() + "0;chunk-signature=" + strings.Repeat("0", 64) + "\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
	}
	filler := strings.Repeat("the quick brown fox jumps over the lazy dog\n", 60_000)
	for _, c := range []struct {
		name, encoding, body string
		want                 bool
	}{
		{"clean", "aws-chunked", framed(filler, 64<<10), true},
		{"a token cut in pieces", "aws-chunked", framed("note "+token+" x", 3), false},
		{"one far inside", "aws-chunked", framed(filler+token, 1000), false},
		{"without a word in Content-Encoding", "", framed("note "+token+" x", 7), false},
		{"compressed and clean", "gzip, aws-chunked", framed(zipped(t, "hello"), 10), true},
		{"compressed", "aws-chunked,gzip", framed(zipped(t, "x "+token), 10), false},
		{"a token in an extension", "aws-chunked", "1;a=" + token + "\r\nx\r\n0\r\n\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(c.body))
			r.Header.Set("Content-Encoding", c.encoding)
			r.Header.Set("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
			v, err := s.body(r, scanContext{report: silent})
			if err == nil && v.Allow {
				_, err = io.ReadAll(r.Body)
			}
			if passed := err == nil && v.Allow; passed != c.want {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func TestSecretsInFramesAreRefused(t *testing.T) {
	token := lab.Token()
	frame := func(first byte, payload string) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...) // masked with zeros
	}
	for _, c := range []struct {
		name   string
		frames [][]byte
		want   int // how many pass
	}{
		{"clean", [][]byte{frame(0x81, "hello"), frame(0x82, "\x00\x01"), frame(0x8a, "")}, 3},
		{"a token in a text", [][]byte{frame(0x81, token)}, 0},
		{"in a binary frame", [][]byte{frame(0x82, "\x00 "+token+" \x00")}, 0},
		{"in a ping", [][]byte{frame(0x89, token)}, 0},
		{"over three fragments", [][]byte{frame(0x01, "note "+token[:12]), frame(0x00, token[12:25]), frame(0x80, token[25:])}, 2},
		{"with a ping between them", [][]byte{frame(0x01, "note "+token[:15]), frame(0x89, " ping "), frame(0x80, token[15:])}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			reported := 0
			s := testScanner(t, "") // it remembers what the case before has sent
			in := s.frames(t.Context(), heard(s, func(policy.Verdict) { reported++ }))
			passed := 0
			for _, f := range c.frames {
				if _, err := in.Feed(f); err != nil {
					break
				}
				passed++
			}
			if passed != c.want || (reported == 1) != (c.want < len(c.frames)) {
				t.Errorf("%d frames passed, %d reports", passed, reported)
			}
		})
	}
}
