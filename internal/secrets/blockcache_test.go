package secrets

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// conversation is text of which no two parts are alike.
func conversation(r *rand.Rand, n int) string {
	words := strings.Fields("the quick brown fox jumps over a lazy dog and then it says something else to all of us who listen because nobody would have thought so")
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))] + []string{" ", ", ", ".\n", " (", ") "}[r.IntN(5)])
	}
	return b.String()
}

// TestCachedBlocksHideNothing hides something in a long text all of which is known but for that. It
// is found wherever it is, each time, as if nothing were known.
func TestCachedBlocksHideNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	s := newScanner(t, Options{ArchiveDepth: 4, Remember: true})
	all := disguises()
	for i, name := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(alone, name) {
			continue
		}
		text := conversation(r, 100_000)
		for range 2 {
			if found, err := s.Scan(t.Context(), []byte(text)); err != nil || len(found) > 0 {
				t.Fatalf("%v, %v", found, err)
			}
		}
		hidden := "\n" + all[name](newToken(t, s, r, "github-pat")) + "\n"
		at := []int{0, len(text), block - 20, 2 * block, 3*block - longest, 2*block + longest - 5, r.IntN(len(text))}[i%7]
		for range 2 { // what was refused is not remembered
			found, err := s.Scan(t.Context(), []byte(text[:at]+hidden+text[at:]))
			if err != nil || !rules(found)["github-pat"] {
				t.Errorf("%s at %d: %v, %v", name, at, found, err)
				continue
			}
			if f := found[0]; f.End < at || f.Start > at+len(hidden) {
				t.Errorf("%s at %d: found at %d–%d", name, at, f.Start, f.End)
			}
		}
	}
	if n := s.cache.Len(); n == 0 || n > 2*maxBlocks {
		t.Errorf("%d blocks are remembered", n)
	}
}

// TestLongTextsAreCached has a key longer than any token over the border of a block.
func TestLongTextsAreCached(t *testing.T) {
	s := newScanner(t, Options{Remember: true})
	r := rand.New(rand.NewPCG(9, 9))
	text := conversation(r, 3*block)
	for _, at := range []int{block - 3000, block - 100, 2*block - 1, 2 * block} {
		if _, err := s.Scan(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
		found, err := s.Scan(t.Context(), []byte(text[:at]+"\n"+pemKey(50)+text[at:]))
		if err != nil || !rules(found)["private-key"] {
			t.Errorf("at %d: %v, %v", at, found, err)
		}
	}
}

// TestBlockKeyCoversSurroundings: where a text begins or ends counts.
func TestBlockKeyCoversSurroundings(t *testing.T) {
	c := newBlockCache()
	text := strings.Repeat("a", 4*block)
	if c.key(text, 0, block) == c.key(text, block, 2*block) {
		t.Error("the beginning of a text is like its middle")
	}
	if c.key(text, block, 2*block) == c.key(text, 3*block, 4*block) {
		t.Error("the end of a text is like its middle")
	}
}

// BenchmarkAgain scans a conversation that has grown by a turn.
func BenchmarkAgain(b *testing.B) {
	r := rand.New(rand.NewPCG(8, 8))
	s := newScanner(b, Options{ArchiveDepth: 4, Remember: true})
	text := []byte(conversation(r, 400_000))
	turns := bytes.SplitAfter([]byte(conversation(r, 4_000_000)), []byte(".\n"))
	n := 0
	for b.Loop() {
		n++
		text = append(text, turns[n%len(turns)]...)
		b.SetBytes(int64(len(text)))
		if _, err := s.Scan(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
