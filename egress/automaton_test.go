package egress

import (
	"bytes"
	"slices"
	"testing"
)

// FuzzAutomaton compares with looking for each text at each place.
func FuzzAutomaton(f *testing.F) {
	f.Add([]byte("he,she,hers,his,abcdabce"), []byte("ushers abcdabcdabce hishe"), uint8(3))
	f.Fuzz(func(t *testing.T, list, text []byte, size uint8) {
		var forms []form
		for i, one := range bytes.Split(list, []byte(",")) {
			if len(one) > 0 {
				forms = append(forms, form{one, []byte{'<', byte('a' + i%26), '>'}})
			}
		}
		s := stream{r: newAutomaton(forms, func() {})}
		var got []byte
		for piece := range slices.Chunk(text, int(size%7)+1) {
			got = s.feed(got, piece)
		}
		if got, want := s.flush(got), replaceSlowly(forms, text); !bytes.Equal(got, want) {
			t.Errorf("%q in %q: %q, want %q", list, text, got, want)
		}
	})
}

// replaceSlowly replaces what ends first, and of that the longest.
func replaceSlowly(forms []form, text []byte) (out []byte) {
	from := 0
	for end := range len(text) + 1 {
		var longest *form
		for i := range forms {
			f := &forms[i]
			if bytes.HasSuffix(text[from:end], f.text) && (longest == nil || len(f.text) > len(longest.text)) {
				longest = f
			}
		}
		if longest != nil {
			out = append(append(out, text[from:end-len(longest.text)]...), longest.marker...)
			from = end
		}
	}
	return append(out, text[from:]...)
}

func TestNothingToLookFor(t *testing.T) {
	s := stream{r: newAutomaton(nil, func() {})}
	if got := s.flush(s.feed(nil, []byte("hello"))); string(got) != "hello" || !s.r.empty() {
		t.Errorf("%q", got)
	}
}
