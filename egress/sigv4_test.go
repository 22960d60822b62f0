package egress

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"airlock/internal/bundle"
)

// The keys of the examples in Amazon's documentation.
var exampleID, exampleKey = "AKIA" + "IOSFODNN7EXAMPLE", "wJalrXUtnFEMI/" + "K7MDENG/bPxRfiCYEXAMPLEKEY"

// TestSignature compares with Amazon's own signer.
func TestSignature(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		name, service, method, path, query, session, hash string
		header                                            http.Header
	}{
		{name: "nothing special", service: "sts", path: "/"},
		{name: "no path", service: "sts"},
		{name: "a query", service: "ec2", path: "/", query: "b=2&a=1&a=0&c"},
		{name: "a query with odd characters", service: "ec2", path: "/", query: "a=%2B%20%26%3d*'()&z%C3%A9=~-._&plus=a+b&%41=x"},
		{name: "an encoded path", service: "lambda", path: "/2015-03-31/functions/arn%3Aaws%3Alambda/x%20y"},
		{name: "a path for s3", service: "s3", path: "/bucket/a%20b%2Bc/%C3%A9/d%2Ae"},
		{name: "empty segments for s3", service: "s3", path: "/bucket//a/./b"},
		{name: "fields", service: "dynamodb", method: "POST", path: "/", hash: hexHash([]byte("body")),
			header: http.Header{"X-Amz-Target": {"T.Get"}, "Content-Type": {"application/x-amz-json-1.0"}, "X-Amz-Meta-A": {"  a   b ", "c"}, "Content-Md5": {"x"}}},
		{name: "temporary keys", service: "s3", method: "PUT", path: "/b/k", session: "the-session-token", hash: unsignedPayload, header: http.Header{"X-Amz-Content-Sha256": {unsignedPayload}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.hash == "" {
				c.hash = hexHash(nil)
			}
			if c.method == "" {
				c.method = "GET"
			}
			target := "https://service.example.com" + c.path
			if c.query != "" {
				target += "?" + c.query
			}
			theirs, err := http.NewRequest(c.method, target, nil)
			must(t, err)
			for name, values := range c.header {
				theirs.Header[name] = values
			}
			ours := theirs.Clone(t.Context())
			ours.Host = theirs.URL.Host
			k := awsKey{id: exampleID, secret: exampleKey, session: c.session, region: "eu-central-1", service: c.service}
			if c.session != "" {
				ours.Header.Set(amzSession, c.session)
			}
			_, err = k.signHead(ours, c.hash, now)
			must(t, err)
			creds := aws.Credentials{AccessKeyID: k.id, SecretAccessKey: k.secret, SessionToken: k.session}
			must(t, v4.NewSigner().SignHTTP(t.Context(), creds, theirs, c.hash, k.service, k.region, now, func(o *v4.SignerOptions) {
				o.DisableURIPathEscaping = c.service == "s3"
			}))
			if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

// FuzzSignature compares paths and queries with Amazon's own signer.
func FuzzSignature(f *testing.F) {
	f.Add("/a b/é+~*", "key", "value &=+")
	f.Fuzz(func(t *testing.T, path, name, value string) {
		now := time.Date(2026, 6, 1, 12, 30, 0, 0, time.UTC)
		u := &url.URL{Scheme: "https", Host: "h.test", Path: "/" + path, RawQuery: "x=1&" + url.QueryEscape(name) + "=" + url.QueryEscape(value)}
		u.RawPath = awsEncode(u.Path, "/")
		theirs := &http.Request{Method: "GET", URL: u, Host: "h.test", Header: http.Header{}}
		ours := theirs.Clone(t.Context())
		k := awsKey{id: exampleID, secret: exampleKey, region: "r", service: "s3"}
		_, err := k.signHead(ours, "h", now)
		must(t, err)
		creds := aws.Credentials{AccessKeyID: k.id, SecretAccessKey: k.secret}
		must(t, v4.NewSigner().SignHTTP(t.Context(), creds, theirs, "h", k.service, k.region, now, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }))
		if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
			t.Errorf("%q: %s\nwant %s", u, got, want)
		}
	})
}

func TestSignedPath(t *testing.T) {
	for sent, want := range map[string]string{"": "/", "/a/../b/./c//d/": "/b/c/d/", "/%2e%2e/a": "/%252e%252e/a", "/..": "/", "/a%2Fb": "/a%252Fb"} {
		u, err := url.Parse("https://h.test" + sent)
		must(t, err)
		if got := (awsKey{service: "execute-api"}).path(u); got != want {
			t.Errorf("%q: %q, want %q", sent, got, want)
		}
	}
}

// TestSign has what becomes of the agent's own signature and of what it says
// of its body.
func TestSign(t *testing.T) {
	slots := credentials{"ID": exampleID, "KEY": exampleKey}
	for _, c := range []struct {
		name, service, scheme, hash, body, query string
		want, rule                               string
	}{
		{name: "no word on the body, s3", service: "s3", body: "hello", want: unsignedPayload},
		{name: "no word on the body, s3 over http", service: "s3", scheme: "http", body: "hello", want: hexHash([]byte("hello"))},
		{name: "a hash", service: "s3", body: "hello", hash: hexHash([]byte("hello")), want: hexHash([]byte("hello"))},
		{name: "an unsigned body", service: "s3", body: "hello", hash: unsignedPayload, want: unsignedPayload},
		{name: "an unsigned body in chunks", service: "s3", body: "0\r\n\r\n", hash: unsignedTrailer, want: unsignedTrailer},
		{name: "another service", service: "dynamodb", body: "hello"},
		{name: "another algorithm", service: "s3", hash: "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", rule: "credential"},
		{name: "a query that was signed", service: "s3", query: "X-Amz-Signature=a&X-Amz-Credential=b&x-amz-security-token=c&versionId=1&X-Amz-Date=d", want: unsignedPayload},
		{name: "a query that is none", service: "s3", query: "a=%zz", rule: "credential"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &bundle.Auth{Type: "sigv4", Region: "eu-central-1", Service: c.service, IDSlot: "ID", SecretSlot: "KEY"}
			out := httptest.NewRequest(http.MethodPut, "/b/k?"+c.query, strings.NewReader(c.body))
			out.URL.Scheme = c.scheme
			if c.scheme == "" {
				out.URL.Scheme = "https"
			}
			out.Header.Set("Authorization", "AWS4-HMAC-SHA256 mine")
			out.Header.Set(amzSession, "mine")
			if c.hash != "" {
				out.Header.Set(amzHash, c.hash)
			}
			names, err := configFor(a, slots).inject(t.Context(), out, a)
			if ruleOf(err) != c.rule {
				t.Fatalf("%v, want %q", err, c.rule)
			}
			if c.rule != "" {
				return
			}
			defer out.Body.Close()
			got, err := io.ReadAll(out.Body)
			if err != nil || string(got) != c.body || len(names) != 1 || out.Header.Get(amzHash) != c.want {
				t.Errorf("%v: %q, injected %v, %v", err, got, names, out.Header)
			}
			if strings.Contains(fmt.Sprint(out.Header, out.URL), "mine") || strings.Contains(out.URL.RawQuery, "X-Amz") || (c.query != "") != strings.Contains(out.URL.RawQuery, "versionId=1") {
				t.Errorf("%v %v", out.Header, out.URL)
			}
		})
	}
}

func seedOf(t *testing.T, last string) *signature {
	t.Helper()
	k := awsKey{secret: exampleKey, region: "us-east-1", service: "s3"}
	return &signature{key: k.derive("20130524"), date: "20130524T000000Z", scope: "20130524/us-east-1/s3/aws4_request", last: last}
}

// chunked frames a body as a client does that signs with another key.
func chunked(size int, text string, trailer ...string) string {
	var b strings.Builder
	for len(text) > 0 {
		n := min(size, len(text))
		fmt.Fprintf(&b, "%x;chunk-signature=%064d\r\n%s\r\n", n, 1, text[:n])
		text = text[n:]
	}
	fmt.Fprintf(&b, "0;chunk-signature=%064d\r\n", 2)
	for _, line := range trailer {
		b.WriteString(line + "\r\n")
	}
	return b.String() + "\r\n"
}

// TestChunkSignatures has the examples of Amazon's documentation.
func TestChunkSignatures(t *testing.T) {
	body := strings.Repeat("a", 66560)
	for _, c := range []struct {
		name, seed string
		trailer    []string
		want       []string
	}{
		{"chunks", "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9", nil, []string{
			"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
			"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
			"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"}},
		{"a trailer", "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
			[]string{"x-amz-checksum-crc32c:sOO8/Q==", "x-amz-trailer-signature:" + strings.Repeat("0", 64)}, []string{
				"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
				"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
				"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
				"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"}},
		{"a trailer, parted from its signature", "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
			[]string{"x-amz-checksum-crc32c:sOO8/Q==", "", "x-amz-trailer-signature:" + strings.Repeat("0", 64)}, []string{
				"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
				"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
				"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
				"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := chunked(65536, body, c.trailer...)
			signer := newChunkSigner(io.NopCloser(iotest.HalfReader(strings.NewReader(sent))), seedOf(t, c.seed), c.trailer != nil)
			got, err := io.ReadAll(signer)
			if err != nil || len(got) != len(sent) {
				t.Fatalf("%d bytes of %d: %v", len(got), len(sent), err)
			}
			rest := string(got)
			for _, want := range c.want {
				_, after, found := strings.Cut(rest, "signature="+want)
				if !found {
					_, after, found = strings.Cut(rest, "signature:"+want)
				}
				if !found {
					t.Fatalf("%s is missing or in the wrong place", want)
				}
				rest = after
			}
			if strings.Count(string(got), "a") < 66560 {
				t.Error("the content is not what it was")
			}
		})
	}
}

func TestUnframedChunks(t *testing.T) {
	good := chunked(5, "hello world")
	signature := "x-amz-trailer-signature:" + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		body    string
		trailer bool
	}{
		"not chunked":             {body: "hello"},
		"no signature":            {body: "5\r\nhello\r\n0\r\n\r\n"},
		"too long a chunk":        {body: strings.Replace(good, "5;", "fffffff;", 1)},
		"longer than it says":     {body: strings.Replace(good, "5;", "4;", 1)},
		"cut":                     {body: good[:len(good)-10]},
		"something behind it":     {body: good + "x"},
		"an endless line":         {body: strings.Repeat("5", 1<<20)},
		"a trailer not announced": {body: chunked(5, "hello", "a:b")},
		"no trailer":              {body: good, trailer: true},
		"two trailer signatures":  {body: chunked(5, "hello", signature, signature), trailer: true},
		"a line that is no field": {body: chunked(5, "hello", "nothing", signature), trailer: true},
	} {
		signer := newChunkSigner(io.NopCloser(strings.NewReader(c.body)), seedOf(t, ""), c.trailer)
		if _, err := io.ReadAll(signer); err == nil {
			t.Errorf("%s: it passed", name)
		}
	}
}

// FuzzChunkSigner sends anything at all, in reads of any size. What passes has
// kept its length and everything but its signatures.
func FuzzChunkSigner(f *testing.F) {
	f.Add([]byte(chunked(5, "hello world")), uint8(3), false)
	f.Add([]byte(chunked(5, "hello", "a:b", "", "x-amz-trailer-signature:"+strings.Repeat("1", 64))), uint8(2), true)
	f.Add([]byte(chunked(5, "hello", "a:b", "x-amz-trailer-signature:"+strings.Repeat("0", 64))), uint8(1), true)
	f.Fuzz(func(t *testing.T, body []byte, size uint8, trailer bool) {
		signer := newChunkSigner(io.NopCloser(&pieces{rest: body, size: int(size) + 1}), seedOf(t, ""), trailer)
		got, err := io.ReadAll(signer)
		if err == nil && !trailer && len(got) != len(body) {
			t.Errorf("%d bytes became %d", len(body), len(got))
		}
		again, err2 := io.ReadAll(newChunkSigner(io.NopCloser(bytes.NewReader(got)), seedOf(t, ""), trailer))
		if err == nil && (err2 != nil || !bytes.Equal(got, again)) {
			t.Errorf("signed again: %v", err2)
		}
	})
}
