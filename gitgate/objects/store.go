package objects

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Set is some packs searched in order. It is immutable: whoever holds one can go on reading, whatever happens to the
// store.
type Set []*Pack

// Get reads an object from the first pack that has it.
func (s Set) Get(h Hash) (Object, error) {
	for _, p := range s {
		if at, ok := p.find(h); ok {
			typ, data, err := p.read(at)
			return Object{h, typ, data}, err
		}
	}
	return Object{}, fmt.Errorf("%w: %s", ErrNotFound, h)
}

// Has tells whether any pack has the object.
func (s Set) Has(h Hash) bool {
	return slices.ContainsFunc(s, func(p *Pack) bool { return p.Has(h) })
}

// Forget drops the objects that are kept in memory for the deltas to come: up to 32 MiB a pack.
func (s Set) Forget() {
	for _, p := range s {
		p.cache.forget()
	}
}

// Store is the objects folder of a bare repository.
type Store struct {
	dir string // objects/pack

	mu    sync.Mutex
	packs Set
}

// Open opens the packs under dir, a repository's objects folder, and removes what an interrupted write left.
func Open(dir string) (*Store, error) {
	s := &Store{dir: filepath.Join(dir, "pack")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening object store: %w", err)
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("opening object store: %w", err)
	}
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("opening object store: %w", err)
	}
	for _, n := range names {
		base, isIndex := strings.CutSuffix(n.Name(), ".idx")
		if !isIndex {
			continue
		}
		p, err := OpenPack(filepath.Join(s.dir, base))
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.packs = append(s.packs, p)
	}
	return s, nil
}

// Close closes the packs. Sets taken before can no longer be read.
func (s *Store) Close() error {
	var errs []error
	for _, p := range s.Packs() {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Packs is what the store holds now.
func (s *Store) Packs() Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.packs
}

// Many tells whether Merge has something to do.
func (s *Store) Many() bool { return len(smallOnes(s.Packs())) > 0 }

// Adopt moves a pack's files into the store: the index last, so that a pack that is seen is whole.
func (s *Store) Adopt(p *Pack) error {
	base := filepath.Join(s.dir, filepath.Base(p.base))
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.packs, func(q *Pack) bool { return q.base == base }) {
		return nil
	}
	for _, suffix := range []string{".pack", ".idx"} {
		if err := os.Rename(p.base+suffix, base+suffix); err != nil {
			return fmt.Errorf("adopting pack: %w", err)
		}
	}
	adopted, err := OpenPack(base)
	if err != nil {
		return fmt.Errorf("adopting pack: %w", err)
	}
	s.packs = append(slices.Clone(s.packs), adopted)
	return nil
}
