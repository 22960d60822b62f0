package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"airlock/internal/lab"
)

const secret = `to"ken/with\odd` + "\tch<ars>é-0123456789"

// printThrough writes what a child prints through the output and returns the lines.
func printThrough(t *testing.T, o *output, printed string) []string {
	t.Helper()
	o.now = func() time.Time { return time.Unix(0, 0) }
	o.copy("egress", "stdout", io.NopCloser(strings.NewReader(printed)))
	o.close()
	var b bytes.Buffer
	o.write(&b)
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func printAsText(t *testing.T, printed string) []string {
	t.Helper()
	return printThrough(t, newOutput(false, newMasker([][]byte{[]byte(secret)})), printed)
}

func TestOutputAsText(t *testing.T) {
	for _, c := range [][2]string{
		{"one\ntwo\n", "[egress] one|[egress] two"},
		{"the last has no end", "[egress] the last has no end"},
		{"\n\r\n", "[egress] |[egress] "},
		{"red \x1b[31m bell \a nul \x00 csi \u009b del \x7f", `[egress] red \x1b[31m bell \a nul \x00 csi \u009b del \x7f`},
		{"turned \u202e round, tab\there, ümlaut 漢字", "[egress] turned \\u202e round, tab\there, ümlaut 漢字"},
		{"broken \xff\xc3", `[egress] broken \xff\xc3`},
		{"over\rwritten", `[egress] over\rwritten`},
	} {
		if got := strings.Join(printAsText(t, c[0]), "|"); got != c[1] {
			t.Errorf("%q became %q, want %q", c[0], got, c[1])
		}
	}
}

func TestLongLinesAreCut(t *testing.T) {
	lines := printAsText(t, strings.Repeat("x", maxLine)+"\n"+strings.Repeat("y", 3*maxLine)+"\nnext")
	if len(lines) != 3 || len(lines[0]) != len("[egress] ")+maxLine || lines[2] != "[egress] next" {
		t.Fatalf("%d lines, the first of %d bytes", len(lines), len(lines[0]))
	}
	if want := "[egress] " + strings.Repeat("y", maxLine) + cutMark; lines[1] != want {
		t.Errorf("a long line became one of %d bytes that ends in %q", len(lines[1]), lines[1][len(lines[1])-20:])
	}
}

func TestSecretsAreMasked(t *testing.T) {
	asJSON, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	var long strings.Builder
	for _, r := range secret {
		fmt.Fprintf(&long, `\u%04x`, r)
	}
	for _, form := range []string{secret, string(asJSON[1 : len(asJSON)-1]), strings.Trim(fmt.Sprintf("%q", secret), `"`), strings.Trim(fmt.Sprintf("%+q", secret), `"`), long.String()} {
		if got := printAsText(t, "a "+form+" b "+form); got[0] != "[egress] a [masked] b [masked]" {
			t.Errorf("%q became %q", form, got[0])
		}
		// At every place where the line may be cut.
		for n := minPart * 6; n < len(form); n++ {
			got := printAsText(t, strings.Repeat(".", maxLine-n)+form)
			if !strings.HasSuffix(got[0], "[masked]"+cutMark) {
				t.Fatalf("%d bytes of %q before the cut: %q", n, form, got[0][maxLine-n:])
			}
		}
	}
	multi := newMasker([][]byte{[]byte("-----BEGIN KEY-----\nAAAABBBBCCCC\n-----END KEY-----\n"), []byte("short")})
	if got := printThrough(t, newOutput(false, multi), "AAAABBBBCCCC short\n"); got[0] != "[egress] [masked] short" {
		t.Errorf("a line of a secret became %q", got[0])
	}
	if got := printAsText(t, `a \ \u \u00 \uzzzz \x \ud800 `+secret[:minSecret]+` \`); strings.Contains(got[0], "[masked]") {
		t.Errorf("%q", got[0])
	}
}

func TestOutputAsJSON(t *testing.T) {
	printed := strings.Join([]string{
		`plain "text"` + " \x1b[0m\x00\xff",
		`{"time":"T","level":"DEBUG","msg":"m","n":12345678901234567890,"daemon":"pipelock","Stream":"x","DAEMON":1,"deep":{"daemon":"kept"}}`,
		`{"msg":"` + strings.ReplaceAll(strings.ReplaceAll(secret, `\`, `\\`), `"`, `\"`) + `"}`,
		`{"half":`, `[1]`, `{"a":1} {"b":2}`, `{"daemon":"a","msg":null}`,
	}, "\n")
	printed = strings.ReplaceAll(printed, "\tch", `\tch`)
	want := []string{
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":"plain \"text\" \u001b[0m\u0000�"}`,
		`{"time":"T","level":"DEBUG","daemon":"egress","stream":"stdout","msg":"m","deep":{"daemon":"kept"},"n":12345678901234567890}`,
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":"[masked]"}`,
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":"{\"half\":"}`,
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":"[1]"}`,
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":"{\"a\":1} {\"b\":2}"}`,
		`{"time":"1970-01-01T00:00:00Z","level":"INFO","daemon":"egress","stream":"stdout","msg":null}`,
	}
	got := printThrough(t, newOutput(true, newMasker([][]byte{[]byte(secret)})), printed)
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Errorf("line %d: %s\nwant     %s", i, got[i], want[i])
		}
	}
	long := printThrough(t, newOutput(true, nil), strings.Repeat("z", 2*maxLine))
	if !json.Valid([]byte(long[0])) || !strings.HasSuffix(long[0], cutMark+`"}`) {
		t.Error("a line that was cut is no JSON")
	}
}

// TestStalledReaderDropsLines fills a pipe that is not read, then reads it and counts the lines.
func TestStalledReaderDropsLines(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines int
		long  int
	}{{"many lines", 3 * ringLines, 20}, {"many bytes", 300, maxLine}} {
		t.Run(c.name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			o := newOutput(false, nil)
			written := make(chan struct{})
			go func() { defer close(written); o.write(w); w.Close() }()
			for range c.lines {
				o.add("egress", "stdout", bytes.Repeat([]byte("x"), c.long), false) // would hang if it waited
			}
			if o.bytes > ringBytes || len(o.ring) > ringLines {
				t.Errorf("%d lines of %d bytes wait", len(o.ring), o.bytes)
			}
			o.add("egress", "stdout", []byte("one that is lost, or not"), false)
			go func() { o.close() }()
			all, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			lab.Receive(t, written, "the writer ends")
			r.Close()
			var lost uint64
			n := uint64(strings.Count(string(all), "[egress] "))
			for _, m := range regexp.MustCompile(`(?m)^\[supervisor\] (\d+) lines were lost`).FindAllStringSubmatch(string(all), -1) {
				var k uint64
				fmt.Sscan(m[1], &k)
				lost += k
			}
			if lost == 0 || lost != o.droppedLines() || n+lost != uint64(c.lines)+1 {
				t.Errorf("%d came, %d were lost as they say, %d as it was counted, of %d", n, lost, o.droppedLines(), c.lines+1)
			}
		})
	}
}

func FuzzOutput(f *testing.F) {
	f.Add(`{"daemon":"x","msg":"y"}`, true)
	f.Add("a\x1b[31m\xff"+secret, false)
	f.Fuzz(func(t *testing.T, line string, asJSON bool) {
		for _, got := range printThrough(t, newOutput(asJSON, newMasker([][]byte{[]byte(secret)})), line) {
			if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' && r != '\t' }) {
				t.Errorf("%q became %q", line, got)
			}
			if strings.Contains(got, secret) {
				t.Errorf("a secret passed in %q", got)
			}
			var object struct{ Daemon, Stream string }
			if asJSON && line != "" && (json.Unmarshal([]byte(got), &object) != nil || object.Daemon != "egress" || object.Stream != "stdout") {
				t.Errorf("%q became %q", line, got)
			}
		}
	})
}

// BenchmarkOutput writes one line of a daemon's log, with a dozen secrets to mask.
func BenchmarkOutput(b *testing.B) {
	line := `time=2026-01-02T03:04:05.678Z level=INFO msg=refused host=evil.test:443 method=GET rule=allow why="no line of the allowlist names it"`
	object := `{"time":"2026-01-02T03:04:05.678Z","level":"INFO","msg":"refused","host":"evil.test:443","method":"GET","rule":"allow","why":"no line names it"}`
	var secrets [][]byte
	for i := range 12 {
		secrets = append(secrets, fmt.Appendf(nil, "%c-secret-of-the-benchmark", 'a'+i))
	}
	for name, c := range map[string]struct {
		json bool
		line string
	}{"text": {false, line}, "json": {true, object}} {
		b.Run(name, func(b *testing.B) {
			o := newOutput(c.json, newMasker(secrets))
			b.SetBytes(int64(len(c.line)))
			b.ReportAllocs()
			for b.Loop() {
				o.format("egress", "stderr", o.mask.mask([]byte(c.line), false), false)
			}
		})
	}
}
