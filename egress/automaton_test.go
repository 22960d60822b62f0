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

// replaceSlowly replaces the form that ends first, together with what is before it
// and may begin a longer text, and with the bytes that continue one.
func replaceSlowly(forms []form, text []byte) (out []byte) {
	begins := func(p []byte) bool {
		return slices.ContainsFunc(forms, func(f form) bool { return bytes.HasPrefix(f.text, p) })
	}
	from := 0
	for end := 0; end < len(text); {
		end++
		seen := text[from:end]
		for len(seen) > 0 && !begins(seen) {
			seen = seen[1:]
		}
		var longest *form
		for i := range forms {
			f := &forms[i]
			if bytes.HasSuffix(seen, f.text) && (longest == nil || len(f.text) > len(longest.text)) {
				longest = f
			}
		}
		if longest == nil {
			continue
		}
		out = append(append(out, text[from:end-len(seen)]...), longest.marker...)
		for start := end - len(seen); end < len(text) && begins(text[start:end+1]); {
			end++
		}
		from = end
	}
	return append(out, text[from:]...)
}
