package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"airlock/hostctl/pair"
)

// record is what the pair's folder says about its processes. It is there from
// before the first of them until after the last.
type record struct {
	Plan       pair.Plan // without its secrets
	Created    time.Time
	Cage       identity
	Supervisor identity
	Ready      bool // Create came to its end
	Missing    []string
}

const recordName = "local.json"

// claim writes the first record of a pair, unless there is one.
func claim(r record) error {
	f, err := os.OpenFile(recordPath(r.Plan.Dir), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("pair %s: %w", r.Plan.Name, pair.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("writing down the pair: %w", err)
	}
	f.Close()
	return r.save()
}

func recordPath(dir string) string { return filepath.Join(dir, recordName) }

// save replaces the record as a whole: it is never seen half written.
func (r record) save() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing down the pair: %w", err)
	}
	temp := recordPath(r.Plan.Dir) + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("writing down the pair: %w", err)
	}
	if err := os.Rename(temp, recordPath(r.Plan.Dir)); err != nil {
		return fmt.Errorf("writing down the pair: %w", err)
	}
	return nil
}

// load reads the record of a pair. An empty one is left of a start that was
// killed at once: nothing had been made.
func (b *Backend) load(name string) (record, error) {
	if err := pair.CheckName(name); err != nil {
		return record{}, err
	}
	dir := filepath.Join(b.root, name)
	data, err := os.ReadFile(recordPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, fmt.Errorf("pair %s: %w", name, pair.ErrAbsent)
	}
	if err != nil {
		return record{}, fmt.Errorf("reading about the pair: %w", err)
	}
	r := record{Plan: pair.Plan{Name: name}}
	if len(data) > 0 {
		if err := json.Unmarshal(data, &r); err != nil {
			return record{}, fmt.Errorf("reading %s: %w", recordPath(dir), err)
		}
	}
	r.Plan.Dir = dir // the folder may have been moved since
	return r, nil
}

// loadReady is for what needs a pair that came up.
func (b *Backend) loadReady(name string) (record, error) {
	r, err := b.load(name)
	if err == nil && !r.Ready {
		err = fmt.Errorf("pair %s: its start did not come to an end; stop it and start it again", name)
	}
	return r, err
}
