// Package seenset is a bounded set that forgets its oldest half when it is full; callers use it to
// skip text that they have already scanned clean. A Set may be used concurrently, and must not be
// copied after its first use.
package seenset

import "sync"

// Set keeps two generations of keys. Adding a key, or finding it with Has, puts it into the current
// generation. A full current generation becomes the previous one, and the keys of the previous one
// are forgotten.
type Set[K comparable] struct {
	Max int // keys of one generation; 0: the set stays empty

	mu                sync.Mutex
	current, previous map[K]struct{}
}

// Has reports whether k was added and has not been forgotten. If so, k moves into the current
// generation.
func (s *Set[K]) Has(k K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.current[k]; ok {
		return true
	}
	_, ok := s.previous[k]
	if ok {
		s.add(k)
	}
	return ok
}

// Add adds keys.
func (s *Set[K]) Add(keys ...K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.add(k)
	}
}

// add puts k into the current generation. The caller holds s.mu.
func (s *Set[K]) add(k K) {
	if s.Max <= 0 {
		return
	}
	if s.current == nil || len(s.current) >= s.Max {
		s.current, s.previous = map[K]struct{}{}, s.current
	}
	s.current[k] = struct{}{}
}

// Len returns the number of stored keys; a key that is in both generations counts twice.
func (s *Set[K]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.current) + len(s.previous)
}
