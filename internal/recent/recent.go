// Package recent remembers what was met lately, in bounded room: what was read and is clean need not be read again when it is sent again.
package recent

import "sync"

// Set has two generations: what is added or asked for is in the newer one, and when that is full it becomes the older one, and what the older one
// had is forgotten. It may be used by many at once.
type Set[K comparable] struct {
	Max int // of one generation; 0: nothing is remembered

	mu       sync.Mutex
	now, old map[K]struct{}
}

// Has tells whether a key was added and is still remembered. It is then the latest.
func (s *Set[K]) Has(k K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.now[k]; ok {
		return true
	}
	_, ok := s.old[k]
	if ok {
		s.keep(k)
	}
	return ok
}

// Add remembers keys.
func (s *Set[K]) Add(keys ...K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.keep(k)
	}
}

func (s *Set[K]) keep(k K) {
	if s.Max <= 0 {
		return
	}
	if s.now == nil || len(s.now) >= s.Max {
		s.now, s.old = map[K]struct{}{}, s.now
	}
	s.now[k] = struct{}{}
}

// Len is how many keys are remembered, those twice that are in both generations.
func (s *Set[K]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.now) + len(s.old)
}
