package logs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"airlock/internal/config"
)

func TestFormatAndLevel(t *testing.T) {
	t.Cleanup(func() { _ = SetLevel("info") }) // it is a known word
	t.Setenv(VarFormat, "json")
	t.Setenv(VarLevel, "warn")
	var b strings.Builder
	log, err := New(&b)
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not yet")
	if err := SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	log.Debug("now", "n", 1)
	var line struct {
		Level, Msg string
		N          int
	}
	if err := json.Unmarshal([]byte(b.String()), &line); err != nil || line.Level != "DEBUG" || line.Msg != "now" || line.N != 1 {
		t.Errorf("%q: %+v, %v", b.String(), line, err)
	}
}

func TestWrongVariables(t *testing.T) {
	for _, c := range [][2]string{{VarFormat, "xml"}, {VarLevel, "loud"}, {VarLevel, "INFO"}, {VarLevel, "info+1"}} {
		t.Setenv(VarFormat, "")
		t.Setenv(VarLevel, "")
		t.Setenv(c[0], c[1])
		var usage *config.Error
		if _, err := New(new(strings.Builder)); !errors.As(err, &usage) || !strings.Contains(err.Error(), c[0]) {
			t.Errorf("%s=%s: %v", c[0], c[1], err)
		}
	}
}
