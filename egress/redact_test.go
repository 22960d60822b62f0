package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"airlock/internal/lab"
	"airlock/internal/secrets"
)

const value = "s3cr3t/value+of-the=test"

func testRedactor() *redactor {
	return newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": value, "EGRESS_TOKEN_1": "another-value-0123456789"}, map[string][]string{"EGRESS_TOKEN_0": {"user"}}))
}

func TestRedactEveryForm(t *testing.T) {
	r := testRedactor()
	forms := map[string]string{
		"raw": value, "hex": hex.EncodeToString([]byte(value)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(value))),
		"percent": url.QueryEscape(value), "JSON": `s3cr3t\/value+of-the=test`,
		"the Basic pair": base64.StdEncoding.EncodeToString([]byte("user:" + value)),
	}
	for i := range 3 {
		forms["base64 at "+string(rune('0'+i))] = base64.StdEncoding.EncodeToString([]byte("xyz"[:i] + value + "tail"))
		forms["base64url at "+string(rune('0'+i))] = base64.URLEncoding.EncodeToString([]byte("xyz"[:i] + value + "tail"))
	}
	for name, form := range forms {
		got := string(r.all([]byte("before " + form + " after")))
		if !strings.Contains(got, "[redacted:EGRESS_TOKEN_0]") || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRedactAcrossReads(t *testing.T) {
	text := "a" + value + "b" + value[:10] + value + value + "c" + value[:5]
	want := "a[redacted:EGRESS_TOKEN_0]b" + value[:10] + "[redacted:EGRESS_TOKEN_0][redacted:EGRESS_TOKEN_0]c" + value[:5]
	for name, src := range map[string]io.Reader{
		"whole": strings.NewReader(text), "bytewise": iotest.OneByteReader(strings.NewReader(text)), "halves": iotest.HalfReader(strings.NewReader(text)),
		"with an error at the end": iotest.DataErrReader(strings.NewReader(text)),
	} {
		got, err := io.ReadAll(newReader(io.NopCloser(src), testRedactor(), false))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestNestedForms: a credential that begins with another is taken out as a
// whole.
func TestNestedForms(t *testing.T) {
	r := newRedactor(formsOf(map[string]string{"ID": "key-12345678", "SECRET": "key-12345678.SECRET-part"}, nil))
	for text, want := range map[string]string{
		"a key-12345678.SECRET-part b": "a [redacted:ID] b",
		"a key-12345678 b":             "a [redacted:ID] b",
		"a key-12345678key-12345678":   "a [redacted:ID][redacted:ID]",
	} {
		for name, src := range map[string]io.Reader{"whole": strings.NewReader(text), "bytewise": iotest.OneByteReader(strings.NewReader(text))} {
			if got, err := io.ReadAll(newReader(io.NopCloser(src), r, false)); err != nil || string(got) != want {
				t.Errorf("%s, %s: %q, %v", text, name, got, err)
			}
		}
		if got, err := io.ReadAll(newReader(io.NopCloser(strings.NewReader(text)), r, true)); err != nil || len(got) != len(text) || bytes.Contains(got, []byte("SECRET-part")) {
			t.Errorf("%s became %q, %v", text, got, err)
		}
	}
}

func TestRedactKeepsLength(t *testing.T) {
	long := strings.Repeat("x", 60)
	r := newRedactor(formsOf(map[string]string{"A": "tokenish", "B": long}, nil))
	text := "1 tokenish 2 " + long + " 3"
	got, err := io.ReadAll(newReader(io.NopCloser(strings.NewReader(text)), r, true))
	if err != nil || len(got) != len(text) || bytes.Contains(got, []byte("tokenish")) || bytes.Contains(got, []byte(long)) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestRedactHeader(t *testing.T) {
	h := http.Header{"Location": {"https://x.test/?t=" + value}, "Set-Cookie": {"a=b", "t=" + value}}
	testRedactor().header(h)
	if h.Get("Location") != "https://x.test/?t=[redacted:EGRESS_TOKEN_0]" || h["Set-Cookie"][1] != "t=[redacted:EGRESS_TOKEN_0]" || h["Set-Cookie"][0] != "a=b" {
		t.Error(h)
	}
}

// A stream must not be held up by bytes that begin no form.
func TestNothingIsHeldBackWithoutNeed(t *testing.T) {
	s := stream{r: testRedactor()}
	event := []byte("data: {\"text\": \"hello\"}\n\n")
	if got := s.feed(nil, event); !bytes.Equal(got, event) {
		t.Errorf("%q of %q went on", got, event)
	}
}

func FuzzRedact(f *testing.F) {
	f.Add([]byte("hello"), uint8(3))
	f.Add([]byte(value+value), uint8(1))
	f.Add([]byte(value[:12]+value), uint8(7))
	r := testRedactor()
	forms := secrets.Encodings(value)
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		s := stream{r: r}
		var got []byte
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(cut)+1)
			got = s.feed(got, rest[:n])
			rest = rest[n:]
		}
		got = s.flush(got)
		if read, err := io.ReadAll(newReader(io.NopCloser(iotest.HalfReader(bytes.NewReader(text))), r, false)); err != nil || !bytes.Equal(read, got) {
			t.Errorf("%q was read as %q, %v", got, read, err)
		}
		found := false
		for _, form := range forms {
			found = found || bytes.Contains(text, form)
			if bytes.Contains(got, form) {
				t.Errorf("a form is left in %q", got)
			}
		}
		if !found && !bytes.Contains(got, []byte("[redacted:")) && !bytes.Equal(got, text) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// BenchmarkRedact searches a text that holds nothing of the kind.
func BenchmarkRedact(b *testing.B) {
	r := newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": lab.Token(), "EGRESS_TOKEN_1": lab.Token()}, nil))
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog, 0123456789 times.\n"), 512)
	b.SetBytes(int64(len(text)))
	s := stream{r: r}
	var out []byte
	for b.Loop() {
		out = s.feed(out[:0], text)
	}
}
