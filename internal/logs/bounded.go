package logs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
)

// Bounded writes to a file that stays below a limit: when it would grow
// beyond it, its younger half is kept, from the beginning of a line, behind a
// line that says so. The file must be open for appending and for reading. It
// is safe for concurrent use; each file should have one.
type Bounded struct {
	mu    sync.Mutex
	f     *os.File
	limit int64
}

// NewBounded returns a writer for f that keeps it below limit bytes.
func NewBounded(f *os.File, limit int64) *Bounded { return &Bounded{f: f, limit: limit} }

// Write appends p, of which a part beyond half the limit is left out.
func (b *Bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	info, err := b.f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size()+int64(len(p)) > b.limit {
		if err := b.shorten(info.Size()); err != nil {
			return 0, fmt.Errorf("shortening the log: %w", err)
		}
	}
	if _, err := b.f.Write(p[max(0, len(p)-int(b.limit/2)):]); err != nil {
		return 0, err
	}
	return len(p), nil
}

const shortened = "[airlock: the log was full, what was older is gone]\n"

func (b *Bounded) shorten(size int64) error {
	keep := make([]byte, min(size, b.limit/2-int64(len(shortened))))
	n, err := b.f.ReadAt(keep, size-int64(len(keep)))
	if err != nil && err != io.EOF {
		return err
	}
	keep = keep[:n]
	if i := bytes.IndexByte(keep, '\n'); i >= 0 {
		keep = keep[i+1:]
	}
	if err := b.f.Truncate(0); err != nil {
		return err
	}
	_, err = b.f.Write(append([]byte(shortened), keep...))
	return err
}
