package gitgate

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"airlock/internal/bundle"
)

// Good samples load; bad ones fail with the message in their first comment line.
func TestConfigSamples(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d samples, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			file, digest, err := bundle.Load[bundle.GitGateFile](path)
			if !strings.HasPrefix(filepath.Base(path), "bad-") {
				if err != nil || digest == "" || len(file.Repos) == 0 {
					t.Fatalf("%v", err)
				}
				return
			}
			text, readErr := os.ReadFile(path)
			if readErr != nil {
				t.Fatal(readErr)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			if want := strings.TrimPrefix(first, "# "); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
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
