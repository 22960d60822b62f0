package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"airlock/internal/lab"
)

// wrapped is a text in lines of that many characters.
func wrapped(text string, columns int, end string) string {
	var b strings.Builder
	for len(text) > columns {
		b.WriteString(text[:columns] + end)
		text = text[columns:]
	}
	return b.String() + text
}

// longestPiece is how many of the characters of a form, one after the other, are left in
// a text, line ends left aside.
func longestPiece(text, form string) int {
	text = strings.NewReplacer("\r", "", "\n", "", `\r`, "", `\n`, "").Replace(text)
	for n := len(form); n > 0; n-- {
		for i := 0; i+n <= len(form); i++ {
			if strings.Contains(text, form[i:i+n]) {
				return n
			}
		}
	}
	return 0
}

// TestRedactWrapped: a credential that comes back in lines, at every column that it may
// begin in, is redacted except for fewer than minHeldWrapped characters of its encoding.
func TestRedactWrapped(t *testing.T) {
	secret := lab.Token() + "+/" + lab.Token()[4:]
	r := newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": secret}, nil))
	for _, end := range []string{"\n", "\r\n", `\n`, `\r\n`} {
		for _, columns := range []int{16, 64, 76} {
			for before := 0; before < 76; before += 1 + columns/8 {
				around := strings.Repeat("Some other words. ", 8)
				for name, encode := range map[string]func([]byte) string{"base64": base64.StdEncoding.EncodeToString, "base64url": base64.RawURLEncoding.EncodeToString, "hex": hex.EncodeToString} {
					whole := encode([]byte(around[:before] + secret + around))
					text := "head " + wrapped(whole, columns, end) + " tail"
					form := encode([]byte(secret)) // the form at offset 0, without its last characters
					form = form[:len(form)-4]
					for way, src := range map[string]io.Reader{"whole": strings.NewReader(text), "bytewise": iotest.OneByteReader(strings.NewReader(text)), "halves": iotest.HalfReader(strings.NewReader(text))} {
						got, err := io.ReadAll(newReader(io.NopCloser(src), r, false))
						if err != nil || !bytes.Contains(got, []byte("[redacted:EGRESS_TOKEN_0]")) || !bytes.HasPrefix(got, []byte("head ")) || !bytes.HasSuffix(got, []byte(" tail")) {
							t.Fatalf("%s in lines of %d that end with %q, after %d bytes, %s: %q, %v", name, columns, end, before, way, got, err)
						}
						if before%3 != 0 || way != "whole" {
							continue
						}
						if n := longestPiece(string(got), form); n >= minHeldWrapped {
							t.Fatalf("%s in lines of %d that end with %q, after %d bytes, %s: %d characters are left", name, columns, end, before, way, n)
						}
					}
				}
			}
		}
	}
}

// TestRedactReferences: HTML escapes of the characters of base64, all of them or some.
func TestRedactReferences(t *testing.T) {
	const secret = "a+b/c+d/e=f+0123456789=="
	r := newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": secret}, nil))
	for _, pairs := range [][]string{{"+", "&#x2b;"}, {"+", "&#x2B;"}, {"+", "&#43;"}, {"/", "&#x2f;"}, {"/", "&#47;", "=", "&#61;"}, {"+", "&#x2b;", "/", "&#x2f;", "=", "&#x3d;"}} {
		for _, plain := range []string{secret, base64.StdEncoding.EncodeToString([]byte("\xfb\xff" + secret + "\xff\xfe"))} {
			text := strings.NewReplacer(pairs...).Replace(plain)
			if html.UnescapeString(text) != plain {
				t.Fatalf("%q is not %q", text, plain)
			}
			if got := string(r.all([]byte("x " + text + " y"))); !strings.Contains(got, "[redacted:") {
				t.Errorf("%v: %q", pairs, got)
			}
		}
	}
}

// TestLineEndsHoldNothingBack: a line that ends with a few bytes of a form goes on at
// once, because its reader may wait for it; one that ends with more waits.
func TestLineEndsHoldNothingBack(t *testing.T) {
	r := newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": "0123456789abcdef-the-rest"}, nil))
	for n := range 16 {
		for _, end := range []string{"\n\n", "\r\n\r\n", `\n`} {
			s := stream{r: r}
			event := "data: x " + strings.Repeat("word ", 10) + "0123456789abcdef"[:n] + end
			got := string(s.feed(nil, []byte(event)))
			if all := n < minHeldWrapped; all != (got == event) || !strings.HasPrefix(event, got) {
				t.Errorf("of %q went on %q", event, got)
			}
			rest := string(s.flush(s.feed(nil, []byte("other"))))
			if got+rest != event+"other" {
				t.Errorf("%q became %q", event+"other", got+rest)
			}
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte("0123456\n789abc\\ndef-the\r\n-rest"), uint8(3))
	f.Add([]byte("01234567\\\n89\\\\nabcdef"), uint8(1))
	r := newRedactor(formsOf(map[string]string{"EGRESS_TOKEN_0": "0123456789abcdef-the-rest"}, nil))
	f.Fuzz(func(t *testing.T, text []byte, cut uint8) {
		whole := stream{r: r}
		want := whole.flush(whole.feed(nil, text))
		parts := stream{r: r}
		var got []byte
		for rest := text; len(rest) > 0; {
			n := min(len(rest), int(cut)+1)
			got = parts.feed(got, rest[:n])
			rest = rest[n:]
		}
		if got = parts.flush(got); !bytes.Equal(got, want) {
			t.Errorf("%q in parts of %d: %q, whole %q", text, int(cut)+1, got, want)
		}
		if !bytes.Contains(want, []byte("[redacted:")) && !bytes.Equal(want, text) {
			t.Errorf("%q became %q", text, want)
		}
		if read, err := io.ReadAll(newReader(io.NopCloser(iotest.HalfReader(bytes.NewReader(text))), r, false)); err != nil || !bytes.Equal(read, want) {
			t.Errorf("%s", fmt.Sprintf("%q was read as %q, %v", text, read, err))
		}
	})
}
