package seenset

import (
	"sync"
	"testing"
)

func TestSetForgetsTheLeastRecentlyUsed(t *testing.T) {
	s := Set[int]{Max: 10}
	s.Add(1, 2)
	if !s.Has(1) || !s.Has(2) || s.Has(3) {
		t.Error("expected the set to have 1 and 2, and not 3")
	}
	for i := range 100 {
		s.Add(1000 + i)
		if !s.Has(1) {
			t.Fatalf("expected a key that is looked up after each addition to stay, but it was forgotten after %d", i)
		}
	}
	if s.Has(2) || s.Has(1000) || !s.Has(1099) || s.Len() > 2*s.Max {
		t.Errorf("expected the oldest keys to be forgotten and the last to stay, at most %d; got %d", 2*s.Max, s.Len())
	}
}

func TestZeroSetStaysEmpty(t *testing.T) {
	var s Set[int]
	s.Add(1)
	if s.Has(1) || s.Len() != 0 {
		t.Errorf("expected an empty set, got %d keys", s.Len())
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	s := Set[int]{Max: 4}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 1000 {
				s.Add(k % (i + 2))
				s.Has(k % 3)
			}
		})
	}
	all.Wait()
	if s.Len() > 2*s.Max {
		t.Errorf("expected at most %d keys, got %d", 2*s.Max, s.Len())
	}
}
