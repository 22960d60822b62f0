package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Version int       `yaml:"version"`
	Name    string    `yaml:"name"`
	Wait    Duration  `yaml:"wait"`
	Size    Bytes     `yaml:"size"`
	List    []string  `yaml:"list"`
	When    time.Time `yaml:"when"`
	Deep    struct {
		Key string `yaml:"key"`
	} `yaml:"deep"`
}

func (s *sample) Validate() error {
	var errs []error
	if s.Name == "bad" {
		errs = append(errs, At("name", "%q is not a name", s.Name))
	}
	if s.Deep.Key == "bad" {
		errs = append(errs, At("deep.key", "%q is not a key", s.Deep.Key))
	}
	return errors.Join(errs...)
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"good", "version: 1\nname: x\nwait: 30s\nsize: 4KiB\nwhen: 2026-12-01T00:00:00Z\n", ""},
		{"unknown key", "version: 1\nnmae: x\n", "f:2: unknown key nmae"},
		{"wrong type", "version: one\n", "f:1: a text where a number was wanted"},
		{"a text for a list", "list: x\n", "f:1: a text where a list was wanted"},
		{"two documents", "version: 1\n---\nversion: 1\n", "f: a second document"},
		{"nothing", "", "f: the file is empty"},
		{"not YAML", "version: [1\n", "f:"},
		{"a doubled key", "version: 1\nversion: 2\n", "f:2:"},
		{"a bad duration", "version: 1\n\nwait: soon\n", `f:3: duration "soon"`},
		{"a bad size", "size: -4\n", "f:1: size"},
		{"a bad time", "version: 1\nwhen: tomorrow\n", "f:2:"},
		{"a bad size behind a bad duration", "wait: soon\nsize: 'lots'\n", `f:2: size "lots"`},
		{"an unknown key behind a bad duration", "wait: \"soon\"\nnmae: x\n", "f:2: unknown key nmae"},
		{"a bad name before a bad duration", "name: bad\nwait: soon\n", "f:1: name"},
		{"the same fault twice", "# ü\nwait: soon\nsize: soon\n", `f:3: size "soon"`},
		{"two faults, each with its place", "name: bad\ndeep:\n  key: bad\n", "f:3: deep.key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Decode("f", []byte(c.text), new(sample))
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var coded interface{ ExitCode() int }
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &coded) || coded.ExitCode() != 2 {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "absent"), new(sample)); err == nil || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("an absent file: %v", err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big, new(sample)); err == nil {
		t.Error("a huge file was read")
	}
}

func TestBytes(t *testing.T) {
	for in, want := range map[string]Bytes{"0": 0, "512": 512, "4KiB": 4096, "100 MiB": 100 << 20, "1GiB": 1 << 30, "2KB": 2000, "7B": 7} {
		var b Bytes
		if err := b.UnmarshalText([]byte(in)); err != nil || b != want {
			t.Errorf("%s: %d, %v", in, b, err)
		}
		text, err := b.MarshalText()
		var again Bytes
		if err != nil || again.UnmarshalText(text) != nil || again != b {
			t.Errorf("%s → %s → %d", in, text, again)
		}
	}
}
