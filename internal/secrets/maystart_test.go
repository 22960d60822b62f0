package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"testing"

	"airlock/internal/lab"
)

func TestMayStart(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		k := lab.Token()
		for name, piece := range map[string]string{
			"half": k[:20], "behind other things": "abc" + k[:12], "most of the keyword": "id=" + k[:3],
			"base64": base64.StdEncoding.EncodeToString([]byte("x " + k))[:24], "hex": hex.EncodeToString([]byte("x" + k))[:32], "hex, odd": "a" + hex.EncodeToString([]byte(k))[:31],
		} {
			if !s.MayStart(piece) {
				t.Errorf("%s: nothing is awaited behind it", name)
			}
		}
	}
	opens := 0
	for range 1000 {
		b := make([]byte, 16)
		_, _ = rand.Read(b) // it never fails
		for _, text := range []string{hex.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b)} {
			if s.MayStart(text) {
				opens++
			}
		}
	}
	if opens > 300 {
		t.Errorf("%d of 2000 runs that are drawn by chance", opens)
	}
	t.Logf("%d of 2000", opens)
}

func BenchmarkOpens(b *testing.B) {
	s, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.MayStart("8f14e45fceea167a5a36dedd4bea2543")
	}
}
