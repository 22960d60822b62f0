package secrets

import (
	"testing"
	"unicode/utf8"

	"airlock/internal/lab"
)

// TestBenignTexts: of what has no secret in it nothing is found, as a request and as a file of a
// push.
func TestBenignTexts(t *testing.T) {
	request, file := newScanner(t, Options{ArchiveDepth: 6, Remember: true}), newScanner(t, Options{ArchiveDepth: 4})
	alarms := map[string]int{}
	texts := lab.BenignTexts(1, 400)
	kinds := map[string]bool{}
	for _, b := range texts {
		kinds[b.Kind] = true
		found, err := request.Scan(t.Context(), b.Data)
		if err != nil || len(found) > 0 {
			t.Logf("%s: %v, %v", b.Kind, found, err)
			if len(found) > 0 {
				t.Logf("%.150q", b.Data[found[0].Start:found[0].End])
			}
			alarms[b.Kind]++
		}
		if utf8.Valid(b.Data) { // as a tool result in a conversation
			text := []byte(asMessage(string(b.Data)))
			if found, err := request.Scan(t.Context(), text); err != nil || len(found) > 0 {
				if len(found) > 0 {
					t.Logf("%s: %.150q", b.Kind, text[found[0].Start:found[0].End])
				}
				alarms[b.Kind+", in a message"]++
			}
		}
		if found, err := file.ScanFile(t.Context(), b.Path, b.Data); err != nil || len(found) > 0 {
			alarms[b.Kind+", pushed"]++
		}
	}
	if len(texts) < 400 || len(kinds) < 40 {
		t.Errorf("%d texts of %d kinds are too few", len(texts), len(kinds))
	}
	if len(alarms) > 0 {
		t.Errorf("alarms: %v", alarms)
	}
}
