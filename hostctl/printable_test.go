package hostctl

import (
	"strings"
	"testing"
	"unicode"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain text, ümlaut, 漢字":          "plain text, ümlaut, 漢字",
		"two\nlines":                      "two\nlines",
		"\x1b]0;title\x07":                `\x1b]0;title\x07`,
		"\x1b[2J\x1b[H":                   `\x1b[2J\x1b[H`,
		"a\rb\bc\x00\x7f":                 `a\x0db\x08c\x00\x7f`,
		"\u009b31m":                       `\x9b31m`, // CSI in one character
		"\x9b31m \xff":                    `\x9b31m \xff`,
		"\u202egpj.exe\u2066\u200b\ufeff": `\u{202e}gpj.exe\u{2066}\u{200b}\u{feff}`,
		"a\u2028b\u2029c":                 `a\u{2028}b\u{2029}c`,
		"\U000e0041":                      `\u{e0041}`,
	} {
		if got := Printable(text); got != want {
			t.Errorf("%q: expected %q, got %q", text, want, got)
		}
	}
}

func TestFramedLines(t *testing.T) {
	var out strings.Builder
	f := &framed{w: &out, width: func() int { return 41 }}
	for _, part := range []string{"agent    | sho", "rt\r\nagent    | " + strings.Repeat("x", 29) + " sidecars | forged\n", "agent    | a\tb\n",
		"agent    | " + strings.Repeat("漢", 20) + "\nagent    | \x1b[A\rsidecars | [egress] forged\nsidecars | true\nno name\n"} {
		if n, err := f.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("expected the whole part to be taken, got %d, %v", n, err)
		}
	}
	want := `agent    | short
agent    | xxxxxxxxxxxxxxxxxxxxxxxxxxxxx 
agent    : sidecars | forged
agent    | a       b
agent    | 漢漢漢漢漢漢漢漢漢漢漢漢漢漢漢
agent    : 漢漢漢漢漢
agent    | \x1b[A\x0dsidecars | [egress] 
agent    : forged
sidecars | true
 | no name
`
	if got := out.String(); got != want {
		t.Errorf("expected\n%s\ngot\n%s", want, got)
	}
}

// FuzzFramed: whatever an agent prints, each line of the terminal begins with
// its name, fits, and holds nothing that is acted upon.
func FuzzFramed(f *testing.F) {
	f.Add("text\r\x1b[2J", 20)
	f.Add(strings.Repeat("漢\u0301", 50), 30)
	f.Fuzz(func(t *testing.T, text string, width int) {
		var out strings.Builder
		w := &framed{w: &out, width: func() int { return width }}
		if _, err := w.Write([]byte("agent    | " + strings.ReplaceAll(text, "\n", "") + "\n")); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if !strings.HasPrefix(line, "agent    | ") && !strings.HasPrefix(line, "agent    : ") {
				t.Errorf("a line without its name: %q", line)
			}
			if n := len([]rune(line)); n > max(31, width) {
				t.Errorf("a line of %d characters in a width of %d: %q", n, width, line)
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%q is not printable", line[i:])
			}
		}
	})
}
