package secrets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

// token makes a provider-shaped token at run time, so that this file holds none.
func token(seed uint64) string {
	const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	r := rand.New(rand.NewPCG(seed, 7))
	b := []byte("gh" + "p_")
	for range 36 {
		b = append(b, alnum[r.IntN(len(alnum))])
	}
	return string(b)
}

func pemKey(lines int) string {
	r := rand.New(rand.NewPCG(3, 3))
	var b strings.Builder
	b.WriteString("-----BEGIN RSA PRIVATE " + "KEY-----\n")
	for range lines {
		raw := make([]byte, 48)
		for i := range raw {
			raw[i] = byte(r.Uint32())
		}
		b.WriteString(base64.StdEncoding.EncodeToString(raw) + "\n")
	}
	b.WriteString("-----END RSA PRIVATE " + "KEY-----\n")
	return b.String()
}

func rules(found []Finding) map[string]bool {
	m := map[string]bool{}
	for _, f := range found {
		m[f.Rule] = true
	}
	return m
}

func newScanner(t testing.TB, opts Options) *Scanner {
	t.Helper()
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

func utf16be(s string) []byte {
	b := utf16le(s)
	for i := 0; i < len(b); i += 2 {
		b[i], b[i+1] = b[i+1], b[i]
	}
	return b
}

func utf32le(s string) (b []byte) {
	for _, c := range s {
		b = append(b, byte(c), byte(c>>8), byte(c>>16), 0)
	}
	return b
}

func zipped(name, body string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, _ := z.Create(name)
	w.Write([]byte(body))
	z.Close()
	return b.Bytes()
}

func targz(name, body string) []byte {
	var b bytes.Buffer
	g := gzip.NewWriter(&b)
	w := tar.NewWriter(g)
	w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644, Typeflag: tar.TypeReg})
	w.Write([]byte(body))
	w.Close()
	g.Close()
	return b.Bytes()
}

func TestScanFinds(t *testing.T) {
	k := token(1)
	long := strings.Repeat("nothing to see in this line\n", 5000)
	oneLine := strings.Repeat("x,", 100_000)
	cases := []struct {
		name, rule string
		data       []byte
		line       int
	}{
		{"plain", "github-pat", []byte("a\nb\nkey: " + k + "\n"), 3},
		{"alone", "github-pat", []byte(k), 1},
		{"deep in a file", "github-pat", []byte(long + k + "\n" + long), 5001},
		{"in one long line", "github-pat", []byte(oneLine + k + oneLine), 1},
		{"gitleaks:allow", "github-pat", []byte("t := \"" + k + "\" // gitleaks:allow\n"), 1},
		{"base64", "github-pat", []byte("x: " + base64.StdEncoding.EncodeToString([]byte("user:"+k)) + "\n"), 1},
		{"base64 of a long text", "github-pat", []byte(base64.StdEncoding.EncodeToString([]byte(long + k + long))), 1},
		{"base64 twice", "github-pat", []byte(base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte("user:" + k))))), 1},
		{"hex", "github-pat", []byte("\n" + hex.EncodeToString([]byte(k))), 2},
		{"utf-16 little", "github-pat", utf16le("a\nb = " + k + "\n"), 2},
		{"utf-16 big", "github-pat", utf16be("a\nb = " + k + "\n"), 2},
		{"utf-16 inside a binary", "github-pat", append([]byte("\x7fELF\x00\x01\x02\xff\xfe\x03"), utf16le(k)...), 1},
		{"utf-32", "github-pat", utf32le(k), 1},
		{"binary", "github-pat", []byte("\x00\xff\x01" + k + "\x00\x00"), 1},
		{"zip", "github-pat", zipped("a/b.txt", k), 1},
		{"tar.gz", "github-pat", targz("a/b.txt", "x\n"+k), 1},
		{"name in a zip", "github-pat", zipped(k, "x"), 1},
		{"zip in tar.gz", "github-pat", targz("a.zip", string(zipped("b", k))), 1},
		{"private key", "private-key", []byte(pemKey(30)), 1},
		{"private key that is cut off", "private-key", []byte(pemKey(30)[:900]), 1},
		{"private key with an excused word", "private-key", []byte(strings.Replace(pemKey(30), "\n-----END", "\nnull false abcdefghijklmnopqrstuvwxyz\n-----END", 1)), 1},
		{"private key in JSON", "private-key", []byte(`{"k":"` + strings.ReplaceAll(pemKey(30)[:900], "\n", `\n`) + `"}`), 1},
		{"big private key", "private-key", []byte(strings.Repeat("word word\n", 3100) + pemKey(50)), 3101},
	}
	s := newScanner(t, Options{ArchiveDepth: 3})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			found, err := s.Scan(t.Context(), c.data)
			if err != nil {
				t.Fatal(err)
			}
			if !rules(found)[c.rule] {
				t.Fatalf("found %v, want %s", found, c.rule)
			}
			for _, f := range found {
				if f.Rule == c.rule && f.Line != c.line && !bytes.Contains(c.data, []byte{0}) {
					t.Errorf("line %d, want %d", f.Line, c.line)
				}
				if strings.Contains(fmt.Sprintf("%v %+v", f, f), k) {
					t.Error("a finding tells the secret")
				}
			}
		})
	}
}

func TestScanPasses(t *testing.T) {
	cases := map[string]string{
		"empty":             "",
		"prose":             strings.Repeat("The quick brown fox jumps over the lazy dog.\n", 2000),
		"documentation key": "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE\n",
		"commit":            "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@example.com> 1700000000 +0000\ncommitter A <a@example.com> 1700000000 +0000\n\nFirst\n",
		"public key":        "-----BEGIN PUBLIC " + "KEY-----\nMCowBQYDK2VwAyEA\n",
		"placeholder":       "-----BEGIN PRIVATE " + "KEY-----\n...\n-----END PRIVATE " + "KEY-----\n",
		"like a zip":        "PK\x03\x04 but no zip at all",
		"like a gzip":       "\x1f\x8b\x08 but no gzip",
	}
	s := newScanner(t, Options{ArchiveDepth: 3})
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			found, err := s.Scan(t.Context(), []byte(data))
			if err != nil || len(found) > 0 {
				t.Errorf("found %v, %v; want nothing", found, err)
			}
		})
	}
}

func TestFindingEnclosesTheSecret(t *testing.T) {
	k := token(2)
	data := []byte("one\ntwo " + k + " three\n")
	found, err := newScanner(t, Options{}).Scan(t.Context(), data)
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	f := found[0]
	if got := string(data[f.Start:f.End]); got != k || f.Line != 2 || f.Offset != 4 {
		t.Errorf("span of %d bytes at %d, line %d, offset %d", f.End-f.Start, f.Start, f.Line, f.Offset)
	}
}

func TestWideFindingEnclosesTheSecret(t *testing.T) {
	k := token(2)
	data := utf16le("one\ntwo " + k + " three\n")
	found, err := newScanner(t, Options{}).Scan(t.Context(), data)
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, %v", found, err)
	}
	rest := append(append([]byte{}, data[:found[0].Start]...), data[found[0].End:]...)
	if again, _ := newScanner(t, Options{}).Scan(t.Context(), rest); len(again) > 0 {
		t.Errorf("cutting out the span leaves %v", again)
	}
}

func TestScanRefuses(t *testing.T) {
	s := newScanner(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Scan(ctx, []byte("x")); err == nil {
		t.Error("an ended context passes")
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, err := s.Scan(ctx, []byte("x")); err == nil {
		t.Error("a time-out passes")
	}
	bomb := targz("zeros", strings.Repeat("\x00", 1<<20))
	small := newScanner(t, Options{ArchiveDepth: 2, MaxInflate: 1 << 16})
	if _, err := small.Scan(t.Context(), bomb); err == nil {
		t.Error("a bomb passes")
	}
}

func TestCustomRules(t *testing.T) {
	own := "[[rules]]\nid = \"acme\"\nregex = '''acme-[0-9]{6}'''\nkeywords = [\"acme-\"]\n"
	both := newScanner(t, Options{Config: "[extend]\nuseDefault = true\n" + own})
	for range 4 { // the library would stop extending at the third
		both = newScanner(t, Options{Config: "[extend]\nuseDefault = true\n" + own})
	}
	for scanner, want := range map[*Scanner][]string{
		newScanner(t, Options{Config: own}): {"acme"},
		both:                                {"acme", "github-pat"},
		newScanner(t, Options{Config: "[extend]\nuseDefault = true\ndisabledRules = [\"github-pat\"]\n" + own}): {"acme"},
	} {
		found, err := scanner.Scan(t.Context(), []byte("acme-123456\n"+token(4)+"\n"))
		if err != nil || len(rules(found)) != len(want) {
			t.Errorf("found %v, %v; want %v", found, err, want)
		}
	}
}

func TestBadCustomRules(t *testing.T) {
	for name, toml := range map[string]string{
		"no TOML":        "[[[",
		"bad expression": "[[rules]]\nid = \"x\"\nregex = '''('''\n",
		"no rules":       "title = \"nothing\"\n",
		"path":           "[extend]\npath = \"/etc/passwd\"\n",
		"unknown key":    "[[rules]]\nid = \"x\"\nregexp = '''a'''\nregex = '''a'''\n",
	} {
		if _, err := New(Options{Config: toml}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPathAddsRules(t *testing.T) {
	s := newScanner(t, Options{})
	found, err := s.ScanFile(t.Context(), "certs/client.p12", []byte("binary"))
	if err != nil || !rules(found)["pkcs12-file"] {
		t.Errorf("%v, %v", found, err)
	}
	for _, path := range []string{"go.sum", "package-lock.json", "node_modules/x.js", "a.png", "x.bin", "gitleaks.toml", ".gitleaksignore"} {
		found, err := s.ScanFile(t.Context(), path, []byte(token(5)))
		if err != nil || len(found) == 0 {
			t.Errorf("%s excuses: %v, %v", path, found, err)
		}
	}
}

func TestKnownValues(t *testing.T) {
	value := "correct-horse/battery+staple?&\"9"
	text, err := NewDigest(value, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, value) || strings.ContainsAny(text, " \n\"'$=,") {
		t.Fatalf("not fit for the environment: %s", text)
	}
	d, err := ParseDigest(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range digestEncodings(value) {
		data := append(append([]byte("some text before "), form...), " and after"...)
		start, end, ok := d.Find(data)
		if !ok || start > 17 || end < start+len(form)-8 {
			t.Errorf("form of %d bytes: %d–%d %v", len(form), start, end, ok)
		}
	}
	s := newScanner(t, Options{Known: map[string]Digest{"EGRESS_TOKEN_0": d}})
	for offset := range 3 {
		data := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\xfe", 30+offset) + value + "\xfd"))
		found, err := s.Scan(t.Context(), []byte(data))
		if err != nil || !rules(found)["EGRESS_TOKEN_0"] {
			t.Errorf("base64 at offset %d: %v, %v", offset, found, err)
		}
	}
	if _, _, ok := d.Find([]byte(value[:len(value)-1])); ok {
		t.Error("found a cut value")
	}
}

func TestDigestRefuses(t *testing.T) {
	if _, err := NewDigest("short", "0123456789abcdef"); err == nil {
		t.Error("a short value passes")
	}
	if _, err := NewDigest("long enough", "short key"); err == nil {
		t.Error("a short key passes")
	}
	for _, text := range []string{"", "d1", "d1.x.y", "d2.MDEyMzQ1Njc4OWFiY2RlZg.8-0000-aa", "d1.MDEyMzQ1Njc4OWFiY2RlZg.8-0000-aa", "d1.MDEyMzQ1Njc4OWFiY2RlZg.-1-0000-aa"} {
		if _, err := ParseDigest(text); err == nil {
			t.Errorf("%q passes", text)
		}
	}
}

func FuzzScan(f *testing.F) {
	k := token(6)
	f.Add([]byte("a "), []byte(" b"))
	f.Add(utf16le("abcdefghijkl"), []byte("%41%42"))
	f.Add(bytes.Repeat([]byte("QUJD"), 20), []byte("\\u0041"))
	s, err := New(Options{ArchiveDepth: 2})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, before, after []byte) {
		data := slicesJoin(before, []byte("\n"+k+"\n"), after)
		found, err := s.Scan(t.Context(), data)
		if err != nil {
			t.Skip()
		}
		if !rules(found)["github-pat"] {
			t.Fatalf("missed among %q %q", before, after)
		}
		for _, x := range found {
			if x.Start < 0 || x.End < x.Start || x.End > len(data) || x.Line < 1 {
				t.Fatalf("impossible place %+v", x)
			}
		}
	})
}

func slicesJoin(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func FuzzDigest(f *testing.F) {
	f.Add("password", []byte("x"), []byte("y"))
	f.Fuzz(func(t *testing.T, value string, before, after []byte) {
		text, err := NewDigest(value, "0123456789abcdef")
		if err != nil {
			t.Skip()
		}
		d, err := ParseDigest(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range digestEncodings(value) {
			if _, _, ok := d.Find(slicesJoin(before, form, after)); !ok {
				t.Fatalf("missed a form of %d bytes", len(form))
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	var src strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&src, "\tfunc (s *server) handle%d(ctx context.Context, req *Request) error { return s.next(ctx, %d) }\n", i, i*7)
	}
	text, err := NewDigest(token(8), "0123456789abcdef")
	if err != nil {
		b.Fatal(err)
	}
	d, _ := ParseDigest(text)
	for name, data := range map[string][]byte{
		"source": []byte(src.String()),
		"random": func() []byte {
			r := rand.New(rand.NewPCG(1, 2))
			raw := make([]byte, 1<<20)
			for i := range raw {
				raw[i] = byte(r.Uint32())
			}
			return raw
		}(),
	} {
		b.Run(name, func(b *testing.B) {
			s := newScanner(b, Options{Known: map[string]Digest{"t": d}})
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := s.Scan(b.Context(), data); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/known", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				d.Find(data)
			}
		})
	}
}
