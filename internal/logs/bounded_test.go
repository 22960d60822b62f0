package logs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/logs"
)

func TestBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const limit = 4096
	w := logs.NewBounded(f, limit)
	last := ""
	for i := range 2000 {
		last = fmt.Sprintf("line %d\n", i)
		if n, err := w.Write([]byte(last)); n != len(last) || err != nil {
			t.Fatalf("expected the whole line to be taken, got %d, %v", n, err)
		}
		if info, err := f.Stat(); err != nil || info.Size() > limit {
			t.Fatalf("after line %d: expected at most %d bytes, got %d, %v", i, limit, info.Size(), err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	if !strings.Contains(lines[0], "the log was full") || lines[len(lines)-2] != last || len(text) < limit/2 {
		t.Errorf("expected a notice, whole lines, and the last one, got %d bytes: %.100q", len(text), text)
	}
	for i := 1; i < len(lines)-2; i++ {
		var n, next int
		if _, err := fmt.Sscanf(lines[i]+lines[i+1], "line %d\nline %d\n", &n, &next); err != nil || next != n+1 {
			t.Fatalf("a line is missing or cut: %q, %q", lines[i], lines[i+1])
		}
	}
	if _, err := w.Write(bytes.Repeat([]byte("x"), 3*limit)); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() > limit {
		t.Errorf("after one large write: expected at most %d bytes, got %d, %v", limit, info.Size(), err)
	}
}
