package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// CheckSamples loads each configuration of a testdata folder. A good one must
// load; one whose name begins with "bad-" must fail with what stands in the
// comment of its first line. Too few are an error: a corpus that loads nothing
// tests nothing.
func CheckSamples(dir string, atLeast int, load func(path string) error) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) < atLeast {
		return errors.Join(err, fmt.Errorf("%s has %d samples, not %d", dir, len(files), atLeast))
	}
	var errs []error
	for _, path := range files {
		errs = append(errs, checkSample(path, load(path)))
	}
	return errors.Join(errs...)
}

func checkSample(path string, err error) error {
	if !strings.HasPrefix(filepath.Base(path), "bad-") {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	text, readErr := os.ReadFile(path)
	if readErr != nil {
		return readErr
	}
	first, _, _ := strings.Cut(string(text), "\n")
	want, isComment := strings.CutPrefix(first, "# ")
	switch {
	case !isComment || want == "":
		return fmt.Errorf("%s does not begin with the error it must give", path)
	case err == nil:
		return fmt.Errorf("%s was accepted; %q was wanted", path, want)
	case !strings.Contains(err.Error(), want):
		return fmt.Errorf("%s: got %q, want %q", path, err, want)
	}
	return nil
}
