package secrets

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"mime/quotedprintable"
	"slices"
	"strings"
	"testing"
)

// encodings turn a whole text into another one, each byte by what stands near it alone.
func encodings() map[string]func(string) string {
	quoted := func(s string) string {
		var b strings.Builder
		w := quotedprintable.NewWriter(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
	return map[string]func(string) string{
		"base64":           std64,
		"base64url":        func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"base64, wrapped":  func(s string) string { return wrap(76, "\r\n")(std64(s)) },
		"base64, twice":    twice(std64),
		"base32":           func(s string) string { return base32.StdEncoding.EncodeToString([]byte(s)) },
		"hex":              func(s string) string { return hex.EncodeToString([]byte(s)) },
		"Ascii85":          ascii85Of,
		"decimal":          eachByte("%d", ","),
		"quoted-printable": quoted,
		"all quoted":       eachByte("=%02X", ""),
		"dashes":           spacedBy(1, "-"),
		"UTF-16":           func(s string) string { return string(utf16le(s)) },
		"percent":          eachByte("%%%02X", ""),
		"JSON escapes":     eachByte(`\u%04x`, ""),
		"entities":         eachByte("&#%d;", ""),
		"gzip in base64":   func(s string) string { return std64(compressors["gzip"](s)) },
	}
}

func asMessage(s string) string {
	b, _ := json.Marshal(map[string]any{"model": "m", "messages": []any{map[string]any{"role": "user", "content": s}}})
	return string(b)
}

// TestMemoryHidesNothing: whatever was scanned before, a scanner that remembers finds what one
// without memory finds.
func TestMemoryHidesNothing(t *testing.T) {
	sizes := []int{40 << 10}
	if !testing.Short() {
		sizes = []int{20 << 10, 64 << 10, 300 << 10, 1500 << 10}
	}
	for _, size := range sizes {
		for _, name := range slices.Sorted(maps.Keys(encodings())) {
			if size > 1<<20 && name != "base64" && name != "hex" && name != "base64, wrapped" {
				continue // the others are slower
			}
			r := rand.New(rand.NewPCG(12, uint64(size)))
			texts := map[string]string{"words": conversation(r, size), "repeated": strings.Repeat("hello world, ", size/13)}
			for kind, text := range texts {
				memoryHidesNothing(t, r, name+", "+kind, text, encodings()[name])
				if name != "Ascii85" || kind != "repeated" { // with JSON's escapes in it, it is refused as nested, clean or not
					carry := func(s string) string { return asMessage(encodings()[name](s)) }
					memoryHidesNothing(t, r, name+", "+kind+", in a message", text, carry)
				}
			}
		}
	}
}

// memoryHidesNothing hides a token at several places of an encoded text that was scanned before.
func memoryHidesNothing(t *testing.T, r *rand.Rand, id, text string, encode func(string) string) {
	t.Helper()
	without, with := newScanner(t, Options{ArchiveDepth: 4}), newScanner(t, Options{ArchiveDepth: 4, Remember: true})
	if found, err := with.Scan(t.Context(), []byte(encode(text))); err != nil || len(found) > 0 {
		t.Errorf("%s, %d bytes: clean text: %v, %v", id, len(text), found, err)
		return
	}
	key := newToken(t, without, r, "github-pat")
	places, lengths := []int{0, len(text) / 2, len(text)}, []int{0, len(key) + 2}
	if testing.Short() || len(text) > 100<<10 {
		places, lengths = places[1:], lengths[1:]
	}
	for _, at := range places {
		for _, replaced := range lengths {
			hidden := []byte(encode(text[:at] + " " + key + " " + text[min(len(text), at+replaced):]))
			for name, s := range map[string]*Scanner{"without": without, "with": with} {
				if found, err := s.Scan(t.Context(), hidden); err != nil || !rules(found)["github-pat"] {
					t.Errorf("%s, %d bytes, token at %d in the place of %d: %s memory: %v, %v", id, len(text), at, replaced, name, found, err)
				}
			}
		}
	}
}

// TestPeriodicRuns: a run that repeats itself from start to end is decoded as far as it differs.
func TestPeriodicRuns(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4})
	for name, encode := range map[string]func(string) string{"base64": std64, "hex": encodings()["hex"], "base32": encodings()["base32"], "Ascii85": ascii85Of} {
		for _, after := range []string{"\n ", "\n", "\n  "} {
			for _, times := range []int{3, 5, 12, 100} {
				text := "x: " + encode(strings.Repeat(token(3)+after, times))
				again := "x: " + strings.Repeat(encode(token(3)+after), times)
				for _, text := range []string{text, again} {
					if found, err := s.Scan(t.Context(), []byte(text)); err != nil || !rules(found)["github-pat"] {
						t.Errorf("%s, %d times, with %q between: %v, %v", name, times, after, found, err)
					}
				}
			}
		}
	}
}
