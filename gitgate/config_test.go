package gitgate

import (
	"bytes"
	"errors"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// Good samples load; bad ones fail with the message in their first comment line.
func TestConfigSamples(t *testing.T) {
	load := func(path string) error {
		file, digest, err := bundle.Load[bundle.GitGateFile](path)
		if err == nil && (digest == "" || len(file.Repos) == 0) {
			return errors.New("nothing was loaded")
		}
		return err
	}
	if err := lab.CheckSamples("testdata/config", 5, load); err != nil {
		t.Error(err)
	}
}

func TestMainRefusesBadArguments(t *testing.T) {
	for _, args := range [][]string{{"-nope"}, {"extra"}, {"-config", "testdata/config/bad-file.yaml"}, {"-config", "testdata/config/absent.yaml"}} {
		err := Main(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{})
		var code interface{ ExitCode() int }
		if !errors.As(err, &code) || code.ExitCode() != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := (Config{}).Validate(); err == nil {
		t.Error("the zero Config is accepted")
	}
}
