package pipelock

import (
	"encoding/base64"
	"strings"
	"testing"

	"airlock/internal/lab"
	"airlock/internal/policy"
	"airlock/internal/websocket"
)

// TestFramesToAModel: findings in frames to a model are overwritten, told once, and do not spoil
// the next frame.
func TestFramesToAModel(t *testing.T) {
	s := testScanner(t, "")
	told := 0
	f := &frames{scanner: s, ctx: t.Context(), to: scanContext{host: host(t, "llm.ok.test"), action: actionRedact, llm: true, report: func(word string, v policy.Verdict) error {
		if told++; word != wordRedacted || !v.Allow {
			t.Errorf("%s: %+v", word, v)
		}
		return nil
	}}}
	k := lab.Token()
	for _, text := range []string{k, k, base64.StdEncoding.EncodeToString([]byte("my key " + k + " ok")), "nothing"} {
		payload := []byte(`{"c":"` + text + `"}`)
		if err := f.inspect(websocket.Frame{Opcode: websocket.Text, Final: true, Payload: payload}); err != nil {
			t.Errorf("%.10s…: %v", text, err)
		}
		if strings.Contains(string(payload), text) != (text == "nothing") || !strings.HasPrefix(string(payload), `{"c":"`) {
			t.Errorf("%s", payload)
		}
	}
	if told != 2 {
		t.Errorf("%d findings were told, want 2", told)
	}
}
