package secrets

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// BenchmarkEncodings scans 1 MB of text in each encoding. The aim is at most five times the time of
// plain text for the same number of bytes; the slowest encodings take 20 to 40 times as long.
func BenchmarkEncodings(b *testing.B) {
	r := rand.New(rand.NewPCG(8, 8))
	all := encodings()
	all["plain"] = func(s string) string { return s }
	all["in a message"] = asMessage
	all["UTF-16 in base64"] = func(s string) string { return std64(string(utf16le(s))) }
	all["commas"] = spacedBy(1, ", ")
	all["full width"] = fullwidth
	all["rot13"] = rot13
	s := newScanner(b, Options{ArchiveDepth: 6})
	const size = 1 << 20
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text := []byte(all[name](conversation(r, size)))
		text = text[:min(len(text), size)]
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if found, err := s.Scan(b.Context(), text); err != nil || len(found) > 0 {
					b.Fatal(found, err)
				}
			}
		})
	}
}
