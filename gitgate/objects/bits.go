package objects

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// bitset is a set of small numbers.
type bitset []uint64

func newBits(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bitset) add(i int)      { b[i>>6] |= 1 << (i & 63) }
func (b bitset) drop(i int)     { b[i>>6] &^= 1 << (i & 63) }

func (b bitset) count() (n int) {
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// numbers gives each object of a set a number: its place in the first pack that has it, behind the packs before. A set that
// grows at its end keeps the numbers that it gave.
type numbers struct {
	set  Set
	base []int // the first number of each pack; one more for the end
}

func (s Set) numbers() numbers {
	n := numbers{set: s, base: make([]int, len(s)+1)}
	for i, p := range s {
		n.base[i+1] = n.base[i] + p.Len()
	}
	return n
}

func (n numbers) len() int { return n.base[len(n.set)] }

// of numbers an object.
func (n numbers) of(h Hash) (int, bool) {
	for i, p := range n.set {
		if at, ok := p.index.find(h); ok {
			return n.base[i] + at, true
		}
	}
	return 0, false
}

// must is of for what has to be there.
func (n numbers) must(h Hash) (int, error) {
	i, ok := n.of(h)
	if !ok {
		return 0, fmt.Errorf("%w: %s", ErrNotFound, h)
	}
	return i, nil
}

// where takes a number apart.
func (n numbers) where(i int) (p *Pack, at int) {
	k, exact := slices.BinarySearch(n.base, i)
	if !exact {
		k--
	}
	for n.base[k+1] == n.base[k] { // empty packs
		k++
	}
	return n.set[k], i - n.base[k]
}

func (n numbers) hash(i int) Hash {
	p, at := n.where(i)
	return p.index.hash(at)
}

// read rebuilds an object.
func (n numbers) read(i int) (Type, []byte, error) {
	p, at := n.where(i)
	return p.read(p.index.offset(at))
}

// Objects is some of the objects of one Set.
type Objects struct {
	numbers
	bits bitset
}

// None is the empty selection.
func (s Set) None() *Objects {
	n := s.numbers()
	return &Objects{n, newBits(n.len())}
}

// Clone is a copy that may be changed.
func (o *Objects) Clone() *Objects { return &Objects{o.numbers, slices.Clone(o.bits)} }

// Add adds an object; false says that the set has no such object.
func (o *Objects) Add(h Hash) bool {
	i, ok := o.of(h)
	if ok {
		o.bits.add(i)
	}
	return ok
}

// Has tells whether an object is among them.
func (o *Objects) Has(h Hash) bool {
	i, ok := o.of(h)
	return ok && o.bits.has(i)
}

// Len counts them.
func (o *Objects) Len() int { return o.bits.count() }

// All lists them in no useful order.
func (o *Objects) All() iter.Seq[Hash] {
	return func(yield func(Hash) bool) {
		for i := range o.len() {
			if o.bits.has(i) && !yield(o.hash(i)) {
				return
			}
		}
	}
}

// within is the same selection of a set that begins with this one's packs; nil when it does not.
func (o *Objects) within(s Set) *Objects {
	if len(s) < len(o.set) || !slices.Equal(s[:len(o.set)], o.set) {
		return nil
	}
	grown := s.None()
	copy(grown.bits, o.bits)
	return grown
}
