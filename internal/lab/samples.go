package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Sample is a configuration in a testdata folder. The first line of one whose
// name begins with "bad-" is a comment with a part of the error it must give.
type Sample struct {
	Path string
	Want string // empty: it is good
}

// Samples lists the samples of a folder; too few are an error, for a corpus
// that loads nothing tests nothing.
func Samples(dir string, atLeast int) ([]Sample, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) < atLeast {
		return nil, errors.Join(err, fmt.Errorf("%s has %d samples, not %d", dir, len(files), atLeast))
	}
	var all []Sample
	for _, path := range files {
		s := Sample{Path: path}
		if strings.HasPrefix(filepath.Base(path), "bad-") {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			first, _, _ := strings.Cut(string(text), "\n")
			if s.Want = strings.TrimPrefix(first, "# "); s.Want == first {
				return nil, fmt.Errorf("%s does not begin with the error it must give", path)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// Check compares the outcome of loading the sample with what it must be.
func (s Sample) Check(err error) error {
	switch {
	case s.Want == "" && err != nil:
		return fmt.Errorf("%s: %w", s.Path, err)
	case s.Want != "" && err == nil:
		return fmt.Errorf("%s was accepted; %q was wanted", s.Path, s.Want)
	case s.Want != "" && !strings.Contains(err.Error(), s.Want):
		return fmt.Errorf("%s: got %q, want %q", s.Path, err, s.Want)
	}
	return nil
}
