package pipelock

import (
	"bytes"
	"errors"
	"testing"

	"airlock/internal/lab"
)

func TestConfigSamples(t *testing.T) {
	load := func(path string) error { return (Config{File: path}).Validate() }
	if err := lab.CheckSamples("testdata/config", 4, load); err != nil {
		t.Error(err)
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
