package recent

import (
	"sync"
	"testing"
)

func TestSet(t *testing.T) {
	s := Set[int]{Max: 10}
	s.Add(1, 2)
	if !s.Has(1) || !s.Has(2) || s.Has(3) {
		t.Error("it does not tell what was added from what was not")
	}
	for i := range 100 {
		s.Add(1000 + i)
		if !s.Has(1) {
			t.Fatalf("what is asked for all the time is forgotten after %d", i)
		}
	}
	if s.Has(2) || s.Has(1000) || !s.Has(1099) || s.Len() > 2*s.Max {
		t.Errorf("the wrong ones are forgotten, %d remain", s.Len())
	}
}

func TestNothingIsRemembered(t *testing.T) {
	var s Set[int]
	s.Add(1)
	if s.Has(1) || s.Len() != 0 {
		t.Error("something is remembered")
	}
}

// With the race detector on, it is seen that it guards itself.
func TestManyAtOnce(t *testing.T) {
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
		t.Errorf("%d are remembered", s.Len())
	}
}
