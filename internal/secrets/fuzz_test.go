package secrets

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// prose makes words of bytes: surroundings that hold no encoding.
func prose(choice []byte) string {
	words := strings.Fields("the quick brown fox jumps over a lazy dog; please (look) at this: it is all, \"I\" think.\n and so on - yes! 12 of 34 are not 5")
	var b strings.Builder
	for _, c := range choice[:min(len(choice), 400)] {
		b.WriteString(words[int(c)%len(words)] + " ")
	}
	return b.String()
}

// FuzzDisguises hides a token in one of the disguises, somewhere in prose: it is found.
func FuzzDisguises(f *testing.F) {
	all := disguises()
	names := slices.Sorted(maps.Keys(all))
	kinds := slices.Sorted(maps.Keys(shapes))
	for i := range names {
		f.Add(uint64(i), uint8(i), uint8(i), []byte("abc"), []byte("de"))
	}
	s := newScanner(f, Options{ArchiveDepth: 4})
	f.Fuzz(func(t *testing.T, seed uint64, disguise, kind uint8, before, after []byte) {
		name := names[int(disguise)%len(names)]
		rule := kinds[int(kind)%len(kinds)]
		value := newToken(t, s, rand.New(rand.NewPCG(seed, 1)), rule)
		text := all[name](value)
		if !slices.Contains(alone, name) {
			text = prose(before) + "\n" + text + "\n" + prose(after)
		}
		found, err := s.Scan(t.Context(), []byte(text))
		if err != nil || !rules(found)[rule] {
			t.Fatalf("%s, %s: %v, %v in %q", name, rule, found, err, text)
		}
	})
}

// FuzzViews scans anything: nothing panics, places are possible ones, and what is made of a text
// stays within its bounds.
func FuzzViews(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 5))
	for name, hide := range disguises() {
		f.Add([]byte(hide(alnum(r, letters, 40))), uint8(len(name)))
		f.Add([]byte(hide(hide(alnum(r, letters, 24)))), uint8(1))
	}
	value := alnum(r, letters, 24)
	s := knowing(f, value)
	f.Fuzz(func(t *testing.T, data []byte, times uint8) {
		data = bytes.Repeat(data, 1+int(times)%8)
		rules, err := s.rules()
		if err != nil {
			t.Fatal(err)
		}
		budget := max(minViewBudget, viewFactor*len(data))
		r := &run{ctx: t.Context(), scanner: s, rules: rules, budget: 1 << 20, viewBudget: budget, chargesLeft: minCharges}
		spans, _ := r.scan(data, 2)
		r.release()
		for _, x := range spans {
			if x.start < 0 || x.end < x.start || x.end > len(data) {
				t.Fatalf("impossible place %+v of %d", x, len(data))
			}
		}
		if _, err := s.Pieces(t.Context(), bytes.SplitAfter(data, []byte{'e'})); err != nil && strings.Contains(err.Error(), "panicked") {
			t.Fatal(err)
		}
	})
}
