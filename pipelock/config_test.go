package pipelock

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"airlock/internal/lab"
)

func TestConfigSamples(t *testing.T) {
	load := func(path string) error { return (Config{File: path}).Validate() }
	if err := lab.CheckSamples("testdata/config", 4, load); err != nil {
		t.Error(err)
	}
}

// TestEveryFaultAtOnce: a pattern that is refused hides nothing behind it.
func TestEveryFaultAtOnce(t *testing.T) {
	err := (Config{File: "testdata/config/bad-several.yaml"}).Validate()
	for _, want := range []string{`bad-several.yaml:4: pattern "*.com": too wide`, "bad-several.yaml:6: ", "bad-several.yaml:7: secrets.action"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if err != nil && strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three faults were wanted: %v", err)
	}
}

func TestMainRefusesBadArguments(t *testing.T) {
	for _, args := range [][]string{{"-nope"}, {"extra"}, {"-config", "testdata/config/absent.yaml"}} {
		err := Main(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{})
		var coded interface{ ExitCode() int }
		if !errors.As(err, &coded) || coded.ExitCode() != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}
