package objects

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// manyPacks is from how many packs on small ones become one: every look-up asks each.
const manyPacks = 20

// Merge makes one pack of the small ones once there are many, and returns how many went into it. Entries are copied as they are; the outcome is
// read as strictly as what comes from a network before it takes their place. A pack that is larger than all that are smaller together stays as it
// is, so that each byte is copied a few times at most, however many packs come. dir is a folder of the same file system for what is not ready.
// Whoever holds a Set can go on reading. Two processes never merge at a time.
func (s *Store) Merge(ctx context.Context, dir string, limits Limits) (merged int, err error) {
	small := smallOnes(s.Packs())
	if len(small) == 0 {
		return 0, nil
	}
	lock, err := s.lock()
	if err != nil || lock == nil {
		return 0, err
	}
	defer lock.Close()
	whole, err := small.copy(ctx, dir, limits)
	if err != nil {
		return 0, fmt.Errorf("merging packs: %w", err)
	}
	defer whole.Close()
	if err := s.Adopt(whole); err != nil {
		return 0, err
	}
	same := filepath.Base(whole.base) // one that had everything already keeps its name
	return len(small), s.drop(slices.DeleteFunc(small, func(p *Pack) bool { return filepath.Base(p.base) == same }))
}

// smallOnes are the packs to merge: none as long as there are few.
func smallOnes(all Set) Set {
	if len(all) < manyPacks {
		return nil
	}
	bySize := slices.SortedFunc(slices.Values(all), func(a, b *Pack) int { return cmp.Compare(a.size, b.size) })
	n, sum := 0, int64(0)
	for i, p := range bySize {
		if p.size <= sum || i < manyPacks/2 {
			n = i + 1
		}
		sum += p.size
	}
	small := slices.Clone(all) // in their order: bases never stand in a later pack than their deltas
	return slices.DeleteFunc(small, func(p *Pack) bool { return !slices.Contains(bySize[:n], p) })
}

// lock is held by who merges; nil when somebody else does.
func (s *Store) lock() (*os.File, error) {
	f, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("locking object store: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, nil
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("locking object store: %w", err)
	}
	return f, nil
}

// copy makes a pack of all that the packs have.
func (s Set) copy(ctx context.Context, dir string, limits Limits) (whole *Pack, err error) {
	all := s.None()
	for _, p := range s {
		for _, h := range p.Hashes() {
			all.Add(h)
		}
	}
	r, w := io.Pipe()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := all.WritePack(ctx, w, Form{Offsets: true})
		return errors.Join(err, w.CloseWithError(err))
	})
	group.Go(func() error {
		var err error
		whole, err = Receive(ctx, r, dir, limits)
		return errors.Join(err, r.CloseWithError(err))
	})
	return whole, group.Wait()
}

// drop takes packs out of the store: their indexes first, so that no pack is seen half. Their files stay open for those who read them.
func (s *Store) drop(gone Set) error {
	s.mu.Lock()
	s.packs = slices.DeleteFunc(slices.Clone(s.packs), func(p *Pack) bool { return slices.Contains(gone, p) })
	s.mu.Unlock()
	var errs []error
	for _, suffix := range []string{".idx", ".pack"} {
		for _, p := range gone {
			if err := os.Remove(p.base + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("removing a merged pack: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// abandoned is how old a pack without an index must be for nobody to be at work on it, not even a process that is about to end.
const abandoned = time.Hour

// sweep removes packs without an index, which an interrupted move has left.
func (s *Store) sweep() error {
	packs, err := filepath.Glob(filepath.Join(s.dir, "*.pack"))
	for _, path := range packs {
		info, statErr := os.Stat(path)
		_, idxErr := os.Stat(path[:len(path)-len(".pack")] + ".idx")
		if statErr == nil && errors.Is(idxErr, os.ErrNotExist) && time.Since(info.ModTime()) > abandoned {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}
