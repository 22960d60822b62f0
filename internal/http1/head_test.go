package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

const start = "GET /x HTTP/1.1\r\nHost: a.test\r\n"

// cases are the bytes of a connection and the expected refusal; nil: they are accepted.
var cases = []struct {
	name, raw string
	want      error
}{
	{"a plain request", start + "\r\n", nil},
	{"a length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", nil},
	{"a length without a space", "POST / HTTP/1.1\r\nHost:a\r\nContent-Length:5\r\n\r\nhello", nil},
	{"a length of zero", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", nil},
	{"chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n", nil},
	{"HTTP/1.0 without a host", "GET / HTTP/1.0\r\n\r\n", nil},
	{"two in one", start + "\r\n" + start + "\r\n", nil},
	{"a value that is no ASCII", start + "X: \xc3\xa9\ttab\r\n\r\n", nil},
	{"CONNECT", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", nil},
	{"an announced trailer", start + "Trailer: X-T, Y\r\n\r\n", nil},

	{"length and coding", start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errBoth},
	{"coding and length", start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", errBoth},
	{"coding and a length of zero", start + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", errBoth},
	{"two lengths", start + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", errLengths},
	{"two equal lengths", start + "Content-Length: 1\r\ncontent-length: 1\r\n\r\na", errLengths},
	{"a length with a sign", start + "Content-Length: +5\r\n\r\nhello", errLength},
	{"a negative length", start + "Content-Length: -5\r\n\r\n", errLength},
	{"a length after two spaces", start + "Content-Length:  5\r\n\r\nhello", nil},
	{"a length after a tab", start + "Content-Length:\t5\r\n\r\nhello", nil},
	{"a length before a space", start + "Content-Length: 5 \r\n\r\nhello", nil},
	{"a list of lengths", start + "Content-Length: 5,5\r\n\r\nhello", errLength},
	{"an empty length", start + "Content-Length: \r\n\r\n", errLength},
	{"an octal length", start + "Content-Length: 010\r\n\r\n", errLength},
	{"a hexadecimal length", start + "Content-Length: 0x5\r\n\r\nhello", errLength},
	{"a length with an underscore", start + "Content-Length: 1_0\r\n\r\n", errLength},
	{"a length beyond all", start + "Content-Length: 9223372036854775808\r\n\r\n", errLength},
	{"identity", start + "Transfer-Encoding: identity\r\n\r\n", errCoding},
	{"two codings", start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked twice", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked twice in a list", start + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked and identity", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", errCoding},
	{"xchunked", start + "Transfer-Encoding: xchunked\r\n\r\n", errCoding},
	{"chunked in capitals", start + "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", nil},
	{"chunked after a tab", start + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", nil},
	{"chunked before a space", start + "Transfer-Encoding: chunked \r\n\r\n0\r\n\r\n", nil},
	{"chunked with a parameter", start + "Transfer-Encoding: chunked;x=y\r\n\r\n0\r\n\r\n", errCoding},
	{"chunked in quotes", start + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", errCoding},
	{"an empty coding", start + "Transfer-Encoding:\r\n\r\n", errCoding},
	{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", errOldCoding},
	{"a coding with an underscore", start + "Transfer_Encoding: chunked\r\n\r\n", errUnderscore},
	{"a length's name with an underscore", start + "Content_Length: 5\r\n\r\n", errUnderscore},
	{"a folded field", start + "X: a\r\n b\r\n\r\n", errFolding},
	{"a field folded with a tab", start + "X: a\r\n\tb\r\n\r\n", errFolding},
	{"a folded coding", start + "Transfer-Encoding:\r\n chunked\r\n\r\n", errFolding},
	{"a space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", errFolding},
	{"LF alone", "GET / HTTP/1.1\nHost: a\n\n", errLineEnd},
	{"LF alone in the middle", start + "X: a\nTransfer-Encoding: chunked\r\n\r\n", errLineEnd},
	{"LF alone at the end", start + "\n", errLineEnd},
	{"CR in a value", start + "X: a\rb\r\n\r\n", errValue},
	{"CR CR LF", start + "X: a\r\r\n\r\n", errValue},
	{"CR in a value, and all in one", start + "X: a\rb\r\n\r\n", errValue},
	{"NUL in a value", start + "X: a\x00b\r\n\r\n", errValue},
	{"a control byte in a value", start + "X: a\x0bb\r\n\r\n", errValue},
	{"DEL in a value", start + "X: a\x7fb\r\n\r\n", errValue},
	{"a space before the colon", start + "Content-Length : 5\r\n\r\nhello", errName},
	{"a tab before the colon", start + "X\t: 5\r\n\r\n", errName},
	{"a name with a space", start + "X Y: z\r\n\r\n", errName},
	{"no name", start + ": z\r\n\r\n", errName},
	{"no colon", start + "nonsense\r\n\r\n", errName},
	{"a name that is no ASCII", start + "X\xe9: z\r\n\r\n", errName},
	{"a name in brackets", start + "(X): z\r\n\r\n", errName},
	{"NUL in a name", start + "Content-Length\x00: 5\r\n\r\n", errName},
	{"two hosts", start + "Host: a.test\r\n\r\n", errHosts},
	{"two hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nhOST: b\r\n\r\n", errHosts},
	{"no host", "GET / HTTP/1.1\r\n\r\n", errNoHost},
	{"a chunk in 0x", start + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", errChunk},
	{"a chunk with a sign", start + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", errChunk},
	{"a chunk after a space", start + "Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", errChunk},
	{"a chunk before a space", start + "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", errChunk},
	{"a chunk without a length", start + "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n", errChunk},
	{"an extension without a length", start + "Transfer-Encoding: chunked\r\n\r\n;a\r\n", errChunk},
	{"a chunk beyond all", start + "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n", errChunk},
	{"a chunk and LF alone", start + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", errLineEnd},
	{"a chunk and CR alone", start + "Transfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n", errChunk},
	{"LF in an extension", start + "Transfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n", errLineEnd},
	{"an extension without end", start + "Transfer-Encoding: chunked\r\n\r\n5;" + strings.Repeat("a", 1<<14), errChunk},
	{"a chunk that is longer than it says", start + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", errChunkEnd},
	{"a chunk that ends with LF alone", start + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", errLineEnd},
	{"a trailer that is folded", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n", errFolding},
	{"a trailer with a length", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", errTrailerName},
	{"a trailer with LF alone", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\r\n", errLineEnd},
	{"LF alone after the last chunk", start + "Transfer-Encoding: chunked\r\n\r\n0\r\n\n", errLineEnd},
	{"a trailer without end", start + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("X: a\r\n", 4000), errTooLarge},
	{"an announced length", start + "Trailer: Content-Length\r\n\r\n", errTrailerName},
	{"two spaces in the line", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", errLine},
	{"a tab in the line", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", errLine},
	{"a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", errLine},
	{"a space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", errLine},
	{"a space in front", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", errLine},
	{"an empty line in front", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", nil},
	{"no version", "GET /\r\nHost: a\r\n\r\n", errLine},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", errTargetBytes},
	{"a target that is no ASCII", "GET /\xc2\xa0 HTTP/1.1\r\nHost: a\r\n\r\n", errTargetBytes},
	{"a query that is no ASCII", "GET /?q=\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", errTargetBytes},
	{"a credential's name with an underscore after it", start + "Authorization_: x\r\n\r\n", errUnderscore},
	{"a credential's name with a hyphen before it", start + "-Authorization: x\r\n\r\n", errUnderscore},
	{"a length's name with two hyphens", start + "Content--Length: 5\r\n\r\n", errUnderscore},
	{"a coding's name with a dot", start + "Transfer.Encoding: chunked\r\n\r\n", errUnderscore},
	{"a name of the daemons with an underscore", start + "Airlock_Injected: x\r\n\r\n", errUnderscore},
	{"a name with an underscore", start + "X_Note: x\r\n\r\n", nil},
	{"a trailer of the daemons", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nAirlock-Injected: x\r\n\r\n", errTrailerName},
	{"a trailer of the daemons that is announced", start + "Transfer-Encoding: chunked\r\nTrailer: Airlock-Hop\r\n\r\n0\r\n\r\n", errTrailerName},
	{"a trailer that is another spelling", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nContent_Length: 5\r\n\r\n", errUnderscore},
	{"a method that is none", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", errLine},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", errVersion},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", errVersion},
	{"http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", errLine},
	{"HTTP/01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", errVersion},
	{"a long target", "GET /" + strings.Repeat("a", 70<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", errLongTarget},
	{"a large header", start + "X: " + strings.Repeat("a", 300<<10), errTooLarge},
	{"many fields", start + strings.Repeat("X: a\r\n", 10000), errTooMany},
	{"CONNECT with a body", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 5\r\n\r\nhello", errConnectBody},
	{"the second of two", start + "\r\n" + start + "Host: a\r\n\r\n", errHosts},
	{"a smuggled second", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcdGET / HTTP/1.1\nHost: a\n\n", errLineEnd},
}

// parseMessages parses the messages of a connection and returns the offsets at which they end.
func parseMessages(raw []byte, through func(io.Reader) io.Reader) (ends []int, err error) {
	in := bytes.NewReader(raw)
	src := newConnReader(through(in))
	for {
		text, err := src.readHead(256<<10, true)
		if err != nil {
			return ends, err
		}
		r, err := parseRequest(text)
		if err != nil {
			return ends, err
		}
		if r.ContentLength != 0 {
			body := framedBody{in: &src, strict: true, chunked: r.ContentLength < 0, left: max(r.ContentLength, 0), setTrailer: func(http.Header) {}}
			if _, err := io.Copy(io.Discard, &body); err != nil {
				return ends, err
			}
		}
		ends = append(ends, len(raw)-in.Len()-src.buffered())
	}
}

func unchanged(r io.Reader) io.Reader { return r }

func TestStrictHeads(t *testing.T) {
	for _, c := range cases {
		for name, through := range map[string]func(io.Reader) io.Reader{"as one": unchanged, "byte by byte": iotest.OneByteReader, "in halves": iotest.HalfReader} {
			want := c.want
			if want == nil {
				want = io.EOF
			}
			ends, err := parseMessages([]byte(c.raw), through)
			if err != want {
				t.Errorf("%s, %s: %v, want %v", c.name, name, err, want)
			}
			if c.want == nil && (len(ends) == 0 || ends[len(ends)-1] != len(c.raw)) {
				t.Errorf("%s, %s: the messages end at %v, of %d bytes", c.name, name, ends, len(c.raw))
			}
		}
	}
}

// FuzzHeads compares the parser with net/http: what it accepts, net/http must accept and parse to the
// same request, ending at the same byte.
func FuzzHeads(f *testing.F) {
	for _, c := range cases {
		if len(c.raw) < 4000 {
			f.Add([]byte(c.raw))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ends, _ := parseMessages(raw, unchanged)
		bytewise, _ := parseMessages(raw, iotest.OneByteReader)
		if !reflect.DeepEqual(ends, bytewise) {
			t.Fatalf("in one piece %v, byte by byte %v", ends, bytewise)
		}
		at := 0
		for _, end := range ends {
			if !compareWithNetHTTP(t, bytes.TrimPrefix(raw[at:end], []byte("\r\n"))) {
				return
			}
			at = end
		}
	})
}

// compareWithNetHTTP parses the message with both, and reports whether messages after it can be
// compared.
func compareWithNetHTTP(t *testing.T, message []byte) bool {
	src := bytes.NewReader(message)
	br := bufio.NewReader(src)
	r, err := http.ReadRequest(br)
	var form *url.Error
	if errors.As(err, &form) {
		return false // the target's own grammar is the server's to judge, and it refuses
	}
	if err != nil {
		t.Fatalf("net/http refuses what passed: %v\n%q", err, message)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("net/http cannot read the body: %v\n%q", err, message)
	}
	if left := br.Buffered() + src.Len(); left != 0 {
		t.Fatalf("net/http leaves %d bytes\n%q", left, message)
	}
	lines := strings.Split(string(message), "\r\n")
	if first := r.Method + " " + r.RequestURI + " " + r.Proto; lines[0] != first {
		t.Fatalf("%q became %q", lines[0], first)
	}
	want := http.Header{}
	chunked := false
	for _, l := range lines[1:] {
		if l == "" {
			break
		}
		name, value, _ := strings.Cut(l, ":")
		switch name = http.CanonicalHeaderKey(name); name {
		case "Transfer-Encoding":
			chunked = true
			continue
		}
		want.Add(name, strings.Trim(value, " \t"))
	}
	if chunked {
		want.Del("Trailer")
	}
	if r.URL.Host == "" && r.Host != want.Get("Host") {
		t.Fatalf("the host %q became %q", want.Get("Host"), r.Host)
	}
	want.Del("Host")
	r.Header.Del("Host")
	if want.Get("Pragma") == "no-cache" && want.Values("Cache-Control") == nil {
		want.Set("Cache-Control", "no-cache") // net/http adds it
	}
	if len(want) != len(r.Header) || len(want) > 0 && !reflect.DeepEqual(want, r.Header) {
		t.Fatalf("the fields %q became %q", want, r.Header)
	}
	if _, plain, _ := strings.Cut(string(message), "\r\n\r\n"); !chunked && plain != string(body) {
		t.Fatalf("the body %q became %q", plain, body)
	} else if chunked && dechunk(plain) != string(body) {
		t.Fatalf("the chunks %q became %q", plain, body)
	}
	return true
}

// dechunk decodes a chunked body that is known to be valid.
func dechunk(s string) string {
	var all strings.Builder
	for {
		line, rest, _ := strings.Cut(s, "\r\n")
		digits, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseInt(digits, 16, 64)
		if err != nil || n == 0 {
			return all.String()
		}
		all.WriteString(rest[:n])
		s = rest[n+2:]
	}
}

// FuzzAnswers checks that no response of an origin makes the transport panic.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200\nA: b\n c\n\nhi", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n", "HTTP/1.0 304 x\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		src := newConnReader(bytes.NewReader(raw))
		text, err := src.readHead(64<<10, false)
		if err != nil {
			return
		}
		res, err := parseResponse(text)
		if err != nil || frameResponse(res, http.MethodGet) != nil {
			return
		}
		for name, values := range res.Header {
			if !all(name, token) || name != http.CanonicalHeaderKey(name) {
				t.Errorf("the name %q", name)
			}
			for _, v := range values {
				if v != "" && !all(v, content) {
					t.Errorf("the value %q", v)
				}
			}
		}
		body := framedBody{in: &src, chunked: res.TransferEncoding != nil, left: res.ContentLength, setTrailer: func(http.Header) {}}
		if body.chunked {
			body.left = 0
		}
		_, _ = io.Copy(io.Discard, &body)
	})
}

// BenchmarkHead parses a request with eight fields.
func BenchmarkHead(b *testing.B) {
	head := "POST /v1/messages HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\nAuthorization: Bearer abcdefghijklmnop\r\nX-One: 1\r\nX-Two: 2\r\nContent-Length: 2\r\n"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseRequest(head); err != nil {
			b.Fatal(err)
		}
	}
}
