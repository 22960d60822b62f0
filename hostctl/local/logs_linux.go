package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Logs writes what the sidecars and the agent have printed, each line with
// the name of its half, and with follow what they go on to print, until ctx
// ends or the pair is gone.
func (b *Backend) Logs(ctx context.Context, name string, follow bool, w io.Writer) error {
	r, err := b.load(name)
	if err != nil {
		return err
	}
	tails := []*tail{
		{path: filepath.Join(r.Plan.Logs(), sidecarsLog), prefix: "sidecars | "},
		{path: filepath.Join(r.Plan.Logs(), agentLog), prefix: "agent    | "},
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		gone := !r.Supervisor.alive() && !r.Cage.alive()
		for _, t := range tails {
			if err := t.copy(w, !follow || gone); err != nil {
				return err
			}
		}
		if !follow || gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tail remembers how far a log has been shown.
type tail struct {
	path, prefix string
	offset       int64
	rest         []byte // an unfinished line
}

// copy writes the whole lines that are new, and at the end the rest, too.
func (t *tail) copy(w io.Writer, end bool) error {
	f, err := os.Open(t.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() < t.offset {
		t.offset = 0 // it was full and started again
	}
	data, err := io.ReadAll(io.NewSectionReader(f, t.offset, 1<<40))
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	t.offset += int64(len(data))
	data = append(t.rest, data...)
	t.rest = nil
	for line := range bytes.Lines(data) {
		if line[len(line)-1] != '\n' {
			if !end {
				t.rest = bytes.Clone(line)
				break
			}
			line = append(bytes.Clone(line), '\n')
		}
		if _, err := fmt.Fprintf(w, "%s%s", t.prefix, line); err != nil {
			return err
		}
	}
	return nil
}
