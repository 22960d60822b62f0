package secrets

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
)

// TestKeysInForms: a private key is found as a form has it, with anything before its lines, and cut
// off.
func TestKeysInForms(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4})
	key := pemKey(14)
	lines := strings.Split(strings.TrimSpace(key), "\n")
	cut := func(before string) string {
		var b strings.Builder
		for i, l := range lines[:10] {
			fmt.Fprintf(&b, before+"%s\n", append(make([]any, 0, 2), numbered(before, i+1, l)...)...)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"a form": "key=" + url.QueryEscape(key), "a path": "/" + url.PathEscape(key), "numbers": cut("%6d\t"), "arrows": cut("%6d→"), "grep": cut("id_rsa:%d:"),
		"comments": cut("# "), "slashes": cut("// "), "a table": cut("| "), "a list": cut("- "), "a diff": cut("+"), "whole": key,
	} {
		if found, err := s.Scan(t.Context(), []byte(text)); err != nil || !rules(found)["private-key"] {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

// numbered are the arguments for a line with a prefix that may have its number.
func numbered(before string, n int, line string) []any {
	if strings.Contains(before, "%") {
		return []any{n, line}
	}
	return []any{line}
}

// TestNamedValuesInJSON: a value with a name is found in a JSON string as it is outside of one.
func TestNamedValuesInJSON(t *testing.T) {
	s := newScanner(t, Options{})
	r := rand.New(rand.NewPCG(3, 4))
	for _, form := range []string{`aws_secret_access_key = "%s"`, `api_key = "%s"`, `const apiKey = "%s";`, `api_key: "%s"`, `api_key := "%s"`, `api_key="%s"`, `api_key = '%s'`} {
		text := fmt.Sprintf(form, alnum(r, letters, 40)) + "\n"
		inJSON, _ := json.Marshal(map[string]string{"content": text})
		for _, text := range []string{text, string(inJSON)} {
			if found, err := s.Scan(t.Context(), []byte(text)); err != nil || len(found) == 0 {
				t.Errorf("%s: %v, %v", form, found, err)
			}
		}
	}
}

// BenchmarkRecords are texts in which separators come back at equal distances although nothing is
// interleaved: tables of small numbers, binary records.
func BenchmarkRecords(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	s := newScanner(b, Options{ArchiveDepth: 6})
	for name, record := range map[string]func() string{
		"digits": func() string { return fmt.Sprintf("|%d%s", r.IntN(10), " \n"[r.IntN(2):][:1]) },
		"pairs":  func() string { return fmt.Sprintf("%d:%d%s", r.IntN(10), r.IntN(10), " \t\n"[r.IntN(3):][:1]) },
		"binary": func() string { return string([]byte{'-', byte('a' + r.IntN(26)), byte(r.IntN(4)), '0'}) },
		"tokens": func() string { return token(7) + " " },
	} {
		var text strings.Builder
		for text.Len() < 1<<20 {
			text.WriteString(record())
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			for b.Loop() {
				if _, err := s.Scan(b.Context(), []byte(text.String())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
