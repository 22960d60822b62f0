package gitgate

import (
	"encoding/binary"
	"testing"

	"airlock/gitgate/objects"
)

// What was clean is remembered under its path alone, the latest of it longest.
func TestCleared(t *testing.T) {
	name := func(i int) (h objects.Hash) {
		binary.BigEndian.PutUint64(h[:], uint64(i))
		return h
	}
	c := newCleared()
	c.note(name(1), "a.go")
	if !c.clean(name(1), "a.go") || c.clean(name(1), "b.tf") || c.clean(name(2), "a.go") {
		t.Error("another object or path is taken for it")
	}
	for i := range 2*maxVerdicts + 10 {
		c.note(name(i+10), "")
	}
	if c.Len() > 2*maxVerdicts || c.clean(name(1), "a.go") || !c.clean(name(2*maxVerdicts), "") {
		t.Errorf("%d are remembered", c.Len())
	}
}
