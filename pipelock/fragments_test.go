package pipelock

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime/multipart"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"

	"airlock/internal/inflate"
	"airlock/internal/lab"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

func host(t testing.TB, name string) policy.Host {
	t.Helper()
	h, err := policy.ParseHost(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestEverySurfaceIsScanned: whatever of a request holds a secret is named, and the secret
// is not.
func TestEverySurfaceIsScanned(t *testing.T) {
	s := testScanner(t, "")
	token := lab.Token()
	for _, c := range []struct {
		name    string
		request func() *http.Request
	}{
		{"method", func() *http.Request { return httptest.NewRequest(token, "https://a.ok.test/", nil) }},
		{"path", func() *http.Request { return httptest.NewRequest("GET", "https://a.ok.test/x/"+token+"/y", nil) }},
		{"path", func() *http.Request { return httptest.NewRequest("GET", "https://a.ok.test/%67"+token[1:], nil) }},
		{"query", func() *http.Request { return httptest.NewRequest("GET", "https://a.ok.test/?a=1&b="+token, nil) }},
		{"query", func() *http.Request { return httptest.NewRequest("GET", "https://a.ok.test/?"+token, nil) }},
		{"header X-Note", func() *http.Request { return withField("X-Note", token) }},
		{"cookie", func() *http.Request { return withField("Cookie", "a=b; c="+token) }},
		{"name of a header", func() *http.Request { return withField("X-"+fmt.Sprintf("%x", token), "1") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := s.head(c.request(), scanContext{host: host(t, "a.ok.test")})
			if !isFinding(v) || !strings.HasPrefix(v.Why, "the "+c.name+" holds") || strings.Contains(v.Why, token[4:]) {
				t.Errorf("%+v", v)
			}
		})
	}
}

func withField(name, value string) *http.Request {
	r := httptest.NewRequest("GET", "https://a.ok.test/", nil)
	r.Header[name] = []string{value}
	return r
}

// TestSecretSplitOverOneRequestIsRefused has secrets of which no surface holds enough.
func TestSecretSplitOverOneRequestIsRefused(t *testing.T) {
	s := testScanner(t, "")
	for i, change := range []func(r *http.Request, k string){
		func(r *http.Request, k string) { fields(r, "X-A", k[:20], "X-B", k[20:]) },
		func(r *http.Request, k string) { fields(r, "X-B", k[:20], "X-A", k[20:]) },
		func(r *http.Request, k string) { fields(r, "A", k[:13], "Accept", "*/*", "B", k[13:27], "C", k[27:]) },
		func(r *http.Request, k string) { fields(r, "Z", k[:13], "Y", k[13:27], "X", k[27:]) },
		func(r *http.Request, k string) { fields(r, "X-A", "note "+k[:20], "User-Agent", k[20:]+" x") },
		func(r *http.Request, k string) { r.URL.Path = "/v1/" + k[:20] + "/" + k[20:] },
		func(r *http.Request, k string) { r.URL.Path = "/" + strings.Join(strings.Split(k, ""), "/") },
		func(r *http.Request, k string) {
			r.URL.Path = "/v1/" + k[:15] + "/" + k[15:30] + "/" + k[30:] + "/items"
		},
		func(r *http.Request, k string) { r.URL.RawQuery = "a=" + k[:20] + "&b=" + k[20:] },
		func(r *http.Request, k string) { r.URL.RawQuery = "b=" + k[20:] + "&x=1&a=" + k[:20] },
		func(r *http.Request, k string) { fields(r, "Cookie", "a="+k[:20]+"; b="+k[20:]) },
		func(r *http.Request, k string) { r.URL.Path = "/" + k[:20]; fields(r, "X-A", k[20:]) },
		func(r *http.Request, k string) { r.URL.RawQuery = "q=" + k[20:]; fields(r, "Cookie", "a="+k[:20]) },
	} {
		r := httptest.NewRequest("GET", "https://a.ok.test/", nil)
		fields(r, "Accept", "*/*", "User-Agent", "Go-http-client/1.1", "X-Stainless-Lang", "python")
		change(r, apart())
		v := s.head(r, scanContext{host: host(t, fmt.Sprintf("h%d.ok.test", i))})
		if !isFinding(v) {
			t.Errorf("%d: %+v", i, v)
		}
		if again := s.head(r, scanContext{host: host(t, fmt.Sprintf("h%d.ok.test", i))}); again != v {
			t.Errorf("%d: the second time %+v", i, again)
		}
	}
}

func fields(r *http.Request, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
	}
}

// TestSecretSplitOverRequestsIsRefused has secrets that go out over time, and which
// another host has no part of.
func TestSecretSplitOverRequestsIsRefused(t *testing.T) {
	one := func(s *scanner, h, piece string, n int) policy.Verdict {
		r := httptest.NewRequest("POST", "https://"+h+"/", strings.NewReader(`{"note": "`+piece+`"}`))
		switch n % 3 {
		case 0:
			r = httptest.NewRequest("GET", "https://"+h+"/?q="+piece, nil)
		case 1:
			r = httptest.NewRequest("GET", "https://"+h+"/", nil)
			r.Header.Set("X-Part", piece)
		}
		v := s.head(r, scanContext{host: host(t, h)})
		if v.Allow {
			v, _ = s.body(r, scanContext{host: host(t, h), report: silent})
		}
		return v
	}
	for n := range 6 {
		s, k := testScanner(t, ""), apart()
		a, b := k[:20], k[20:]
		if n >= 3 {
			a, b = b, a
		}
		if v := one(s, "a.ok.test", a, n); !v.Allow {
			t.Errorf("%d: the first half: %+v", n, v)
		}
		if v := one(s, "b.ok.test", b, n+1); !v.Allow {
			t.Errorf("%d: another host: %+v", n, v)
		}
		for range 2 { // what was refused has not gone
			if v := one(s, "a.ok.test", b, n+1); !isFinding(v) {
				t.Errorf("%d: the second half: %+v", n, v)
			}
		}
	}
	s, k := testScanner(t, ""), apart()
	for i, piece := range []string{k[:13], k[13:26], k[26:]} {
		if v := one(s, "a.ok.test", piece, i); v.Allow != (i < 2) {
			t.Errorf("three requests, the %d.: %+v", i+1, v)
		}
	}
}

// apart is a token of which every piece looks drawn by chance, as most do:
// what looks like a word is not remembered.
func apart() string {
	for {
		k := lab.Token()
		ok := strings.ContainsAny(k, "0123456789")
		for at := range len(k) - 12 {
			ok = ok && looksRandom(k[at:at+13])
		}
		if ok {
			return k
		}
	}
}

func never(string) bool { return false }

// TestHistoriesAreBounded in hosts, in what is kept of each, and in time.
func TestHistoriesAreBounded(t *testing.T) {
	var hosts histories
	now := time.Now()
	for i := range 2 * maxHistories {
		var all []fragment
		for j := range 100 {
			all = append(all, fragment{text: fmt.Sprintf("a1B2c3D4%dx%d", i, j)})
		}
		hosts.add(host(t, fmt.Sprintf("h%d.test", i)), all, never, now.Add(time.Duration(i)))
	}
	if len(hosts.hosts) != maxHistories {
		t.Errorf("%d hosts", len(hosts.hosts))
	}
	for h, own := range hosts.hosts {
		if len(own.fragments) != maxFragments {
			t.Errorf("%s: %d fragments", h, len(own.fragments))
		}
	}
	last := host(t, fmt.Sprintf("h%d.test", 2*maxHistories-1))
	if _, before := hosts.add(last, nil, never, now.Add(historyTTL+time.Minute)); len(before) != 0 {
		t.Errorf("%d fragments are left", len(before))
	}
}

// TestOrdinaryRequests: ids, hashes and signatures make nothing together.
func TestOrdinaryRequests(t *testing.T) {
	s := testScanner(t, "")
	h := host(t, "api.ok.test")
	for n := range 200 {
		r := httptest.NewRequest("POST", fmt.Sprintf("https://api.ok.test/v1/items/%08x-1234-4234-8234-123456789abc/%040x?cursor=%s", n, n*7919, base64.URLEncoding.EncodeToString(fmt.Appendf(nil, "cursor-%d", n))), nil)
		fields(r, "User-Agent", "OpenAI/Python 1.54.3", "X-Stainless-Package-Version", "1.54.3", "X-Stainless-Runtime", "CPython", "X-Stainless-Runtime-Version", "3.12.3",
			"Traceparent", fmt.Sprintf("00-%032x-%016x-01", n*104729, n*31), "Idempotency-Key", fmt.Sprintf("stainless-python-retry-%08x-1234-4234-8234-123456789abc", n),
			"If-None-Match", fmt.Sprintf(`W/"%x"`, n*65537), "X-Amz-Date", "20261121T194158Z", "X-Amz-Content-Sha256", fmt.Sprintf("%064x", n*15485863),
			"Cookie", fmt.Sprintf("sid=s%%3A%032x.%x; lang=SK; theme=dark", n*193, n), "Range", "bytes=0-1023", "X-Npm-Session", fmt.Sprintf("%016x", n*999331))
		if v := s.head(r, scanContext{host: h}); !v.Allow {
			t.Fatalf("%d: %+v", n, v)
		}
	}
}

func TestCodingsOfBodies(t *testing.T) {
	s := testScanner(t, "")
	token := lab.Token()
	br := func(text string) string {
		var b bytes.Buffer
		w := brotli.NewWriterLevel(&b, 1)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return b.String()
	}
	for _, c := range []struct {
		name, encoding, body string
		want                 bool
	}{
		{"br, clean", "br", br("hello"), true},
		{"br", "br", br("x " + token), false},
		{"gzip in br, clean", "gzip, br", br(zipped(t, "hello")), true},
		{"gzip in br", "gzip, br", br(zipped(t, "x "+token)), false},
		{"br, a bomb", "br", br(strings.Repeat("\x00", maxInflate+1)), false},
		{"a bomb in a bomb", "gzip, gzip", zipped(t, zipped(t, strings.Repeat("\x00", maxInflate+1))), false},
		{"not br", "br", "hello", false},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(c.body))
		r.Header.Set("Content-Encoding", c.encoding)
		if v, got := outcome(t, s, r); v.Allow != c.want || c.want && got != c.body {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	s.memory.idle(t)
	if !inflate.Known([]string{"br"}) {
		t.Error("br is not known")
	}
}

// TestMultipart has what a part says in an encoding of its own, alone and far
// inside a long body.
func TestMultipart(t *testing.T) {
	s := testScanner(t, "")
	quoted := func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, "=%02X", c)
		}
		return b.String()
	}
	wrapped := func(text string) string {
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		_, _ = io.WriteString(w, "a = b "+text)
		_ = w.Close()
		return b.String()
	}
	for _, c := range []struct {
		name  string
		field textproto.MIMEHeader
		body  func(k string) string
		want  bool
	}{
		{"clean", textproto.MIMEHeader{"Content-Disposition": {`form-data; name="a"; filename="a.txt"`}}, func(string) string { return "hello" }, true},
		{"plain", textproto.MIMEHeader{"Content-Disposition": {`form-data; name="a"`}}, func(k string) string { return k }, false},
		{"quoted", textproto.MIMEHeader{"Content-Transfer-Encoding": {"quoted-printable"}}, quoted, false},
		{"quoted softly", textproto.MIMEHeader{"Content-Transfer-Encoding": {"Quoted-Printable"}}, wrapped, false},
		{"base64", textproto.MIMEHeader{"Content-Transfer-Encoding": {"base64"}}, func(k string) string { return base64.StdEncoding.EncodeToString([]byte(k)) }, false},
		{"gzip", textproto.MIMEHeader{"Content-Encoding": {"gzip"}}, func(k string) string { return zipped(t, k) }, false},
		{"gzip in base64", textproto.MIMEHeader{"Content-Encoding": {"gzip"}, "Content-Transfer-Encoding": {"base64"}}, func(k string) string { return base64.StdEncoding.EncodeToString([]byte(zipped(t, k))) }, false},
		{"gzip, clean", textproto.MIMEHeader{"Content-Encoding": {"gzip"}}, func(string) string { return zipped(t, "hello") }, true},
		{"a PNG", textproto.MIMEHeader{"Content-Type": {"image/png"}}, func(string) string { return "\x89PNG\r\n\x1a\n" + strings.Repeat("\x01\x02\xfe", 1000) }, true},
	} {
		for _, filler := range []int{0, 100, 70_000} { // lines, the last more than a window
			var b bytes.Buffer
			w := multipart.NewWriter(&b)
			k := lab.Token()
			for _, p := range []struct {
				h    textproto.MIMEHeader
				text string
			}{{textproto.MIMEHeader{"Content-Disposition": {`form-data; name="text"`}}, strings.Repeat("the quick brown fox\n", filler)}, {c.field, c.body(k)}, {textproto.MIMEHeader{}, "end"}} {
				part, err := w.CreatePart(p.h)
				if err == nil {
					_, err = io.WriteString(part, p.text)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			for _, length := range []int64{int64(b.Len()), -1} {
				r := httptest.NewRequest("POST", "/", bytes.NewReader(b.Bytes()))
				r.ContentLength = length
				r.Header.Set("Content-Type", w.FormDataContentType())
				if v, got := outcome(t, s, r); v.Allow != c.want || c.want && got != b.String() {
					t.Errorf("%s behind %d lines: %+v, %d bytes", c.name, filler, v, len(got))
				}
			}
		}
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"=?utf-8?q?"+strings.ReplaceAll(quoted(lab.Token()), " ", "_")+"?=\"\r\n\r\nx\r\n--b--\r\n"))
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	if v, _ := outcome(t, s, r); !isFinding(v) {
		t.Errorf("a file name: %+v", v)
	}
}

// TestSecretSplitOverFramesIsRefused has halves with control frames between them, in two
// pings, and in two texts that are more than their halves.
func TestSecretSplitOverFramesIsRefused(t *testing.T) {
	frame := func(first byte, payload string) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...) // masked with zeros
	}
	k := apart()
	a, b := k[:20], k[20:]
	for name, flow := range map[string][][]byte{
		"two pings":                     {frame(0x89, a), frame(0x89, b)},
		"two pings, a text between":     {frame(0x89, a), frame(0x81, "hello"), frame(0x89, b)},
		"two fragments, a ping between": {frame(0x01, a), frame(0x89, "ping"), frame(0x80, b)},
		"a ping and a text":             {frame(0x89, a), frame(0x81, b)},
		"a text and a ping":             {frame(0x81, a), frame(0x89, b)},
		"two JSON texts":                {frame(0x81, `{"a":"`+a+`"}`), frame(0x81, `{"a":"`+b+`"}`)},
		"three":                         {frame(0x81, `{"a":"`+k[:13]+`"}`), frame(0x81, `{"a":"`+k[13:26]+`"}`), frame(0x81, `{"a":"`+k[26:]+`"}`)},
		"the second half first":         {frame(0x81, `{"a":"`+b+`"}`), frame(0x81, `{"a":"`+a+`"}`)},
	} {
		s := testScanner(t, "")
		in := s.frames(t.Context(), scanContext{host: host(t, "a.ok.test"), report: silent})
		for i, f := range flow {
			_, err := in.Feed(f)
			if last := i == len(flow)-1; (err != nil) != last {
				t.Errorf("%s, frame %d: %v", name, i, err)
			}
		}
	}
}

// TestSplitSecretIsFoundInOtherEncodings: halves in base64 and in hexadecimal, and halves of a
// known value, of which no rule knows anything.
func TestSplitSecretIsFoundInOtherEncodings(t *testing.T) {
	value := base64.RawURLEncoding.EncodeToString(random(18))
	for !looksRandom(value[:12]) || !looksRandom(value[12:]) {
		value = base64.RawURLEncoding.EncodeToString(random(18))
	}
	d, err := secrets.NewDigest(value, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newScanner(parse(t, "version: 1\nallow: []\nsecrets: {values: [EGRESS_DIGEST_0]}\n"), "", func(string) string { return d })
	if err != nil {
		t.Fatal(err)
	}
	for n, spell := range []func(string) string{
		func(k string) string { return base64.StdEncoding.EncodeToString([]byte(k)) },
		func(k string) string { return base64.RawURLEncoding.EncodeToString([]byte("my " + k)) },
		func(k string) string { return fmt.Sprintf("%x", k) },
		func(string) string { return value },
		func(string) string { return fmt.Sprintf("%x", value) },
	} {
		for i := range 2 {
			text := spell(apart())
			halves := []string{text[:len(text)/2], text[len(text)/2:]}
			h := host(t, fmt.Sprintf("h%d-%d.ok.test", n, i))
			for at, half := range []int{i, 1 - i} {
				v := s.head(withField("X-Part", halves[half]), scanContext{host: h})
				if v.Allow != (at == 0) {
					t.Errorf("form %d, half %d: %+v", n, half, v)
				}
			}
		}
	}
}
