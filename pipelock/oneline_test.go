package pipelock

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"airlock/internal/policy"
)

// TestOneLine: no reason is more than a line.
func TestOneLine(t *testing.T) {
	for _, c := range []struct{ why, want string }{
		{"as it is", "as it is"},
		{"two\nlines\r\n\x1b[1m", "two lines   [1m"},
		{"a\u2028b\xffc", "a b c"},
	} {
		if got := oneLine(c.why); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for _, text := range []string{strings.Repeat("ä", 299) + "x", "x" + strings.Repeat("ä", 5000), strings.Repeat("€\n", 5000)} {
		if got := oneLine(text); len(got) > maxReason || len(got) < maxReason-4 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
			t.Errorf("%d bytes, %q", len(got), got[max(0, len(got)-8):])
		}
	}
}

// TestRefusalReasonsAreOneShortLine checks reasons of every origin: texts of clients, origins and the
// operating system.
func TestRefusalReasonsAreOneShortLine(t *testing.T) {
	hostile := errors.Join(errors.New(strings.Repeat("no\n", 20_000)))
	w := httptest.NewRecorder()
	new(server).refuse(w, false, 403, policy.Denied("scan", hostile.Error()), "https://a.ok.test/")
	if n := w.Body.Len(); n > 3*maxReason {
		t.Errorf("%d bytes", n)
	}
}
