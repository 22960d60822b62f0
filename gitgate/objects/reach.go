package objects

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Reach remembers what can be reached from sets of objects, so that the work of one clone serves the next. It is safe for concurrent use.
type Reach struct {
	turn   chan struct{}
	recent []closure // the one used last first
}

// closure is everything that can be reached from some objects.
type closure struct {
	tips []Hash // sorted
	all  *Objects
}

// maxClosures bounds how many are remembered, at a bit for each object of the set.
const maxClosures = 6

// NewReach remembers nothing yet.
func NewReach() *Reach { return &Reach{turn: make(chan struct{}, 1)} }

// From selects everything that can be reached from the tips. The selection is shared: it must not be changed.
func (r *Reach) From(ctx context.Context, s Set, tips []Hash) (*Objects, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tips = sorted(tips)
	for _, c := range r.recent {
		if slices.Equal(c.tips, tips) && slices.Equal(c.all.set, s) {
			r.remember(c)
			return c.all, nil
		}
	}
	all, err := r.grow(ctx, s, tips)
	if err != nil {
		return nil, err
	}
	r.remember(closure{tips, all})
	return all, nil
}

// Learn notes that a pack is all that can be reached from the tips, in a set that holds nothing else.
func (r *Reach) Learn(p *Pack, tips []Hash) {
	r.turn <- struct{}{}
	defer func() { <-r.turn }()
	all := Set{p}.None()
	for i := range p.Len() {
		all.bits.add(i)
	}
	r.remember(closure{sorted(tips), all})
}

func sorted(tips []Hash) []Hash {
	tips = slices.Clone(tips)
	slices.SortFunc(tips, compare)
	return slices.Compact(tips)
}

// remember puts a closure in front; of those with the same tips the last one counts.
func (r *Reach) remember(c closure) {
	rest := slices.DeleteFunc(slices.Clone(r.recent), func(o closure) bool { return slices.Equal(o.tips, c.tips) })
	r.recent = append([]closure{c}, rest[:min(len(rest), maxClosures-1)]...)
}

// grow starts from what is remembered of the same history, if something is.
func (r *Reach) grow(ctx context.Context, s Set, tips []Hash) (*Objects, error) {
	for _, c := range r.recent {
		all := c.all.within(s)
		if all == nil {
			continue
		}
		ok, err := covers(ctx, s, tips, c.tips)
		if err != nil {
			return nil, err
		}
		if ok {
			return all, all.reach(ctx, tips)
		}
	}
	all := s.None()
	return all, all.reach(ctx, tips)
}

// covers tells whether every old tip can be reached from the new ones. A no may be wrong.
func covers(ctx context.Context, s Set, tips, old []Hash) (bool, error) {
	gone := map[Hash]bool{}
	for _, h := range old {
		if _, still := slices.BinarySearchFunc(tips, h, compare); !still {
			gone[h] = true
		}
	}
	if len(gone) == 0 {
		return true, nil
	}
	found, err := s.Behind(ctx, tips, gone)
	return len(found) == len(gone), err
}

// todo is what is still to be looked into.
type todo struct {
	number int
	typ    Type // what it must be; 0 where that is not known
}

// reach adds what can be reached from the tips. What is there already is taken to be there with everything behind it.
func (o *Objects) reach(ctx context.Context, tips []Hash) error {
	var stack []todo
	add := func(h Hash, typ Type) error {
		i, err := o.must(h)
		if err == nil && !o.bits.has(i) {
			o.bits.add(i)
			if typ != plumbing.BlobObject {
				stack = append(stack, todo{i, typ})
			}
		}
		return err
	}
	for _, h := range tips {
		if err := add(h, plumbing.InvalidObject); err != nil {
			return err
		}
	}
	for n := 0; len(stack) > 0; n++ {
		if n%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		next := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if err := o.references(next, add); err != nil {
			return fmt.Errorf("reading %.8s: %w", o.hash(next.number).String(), err)
		}
	}
	return nil
}

// references adds what an object points at; blobs are not looked into.
func (o *Objects) references(t todo, add func(Hash, Type) error) error {
	p, place := o.where(t.number)
	at, typ := p.index.offset(place), t.typ
	if typ == plumbing.InvalidObject {
		var err error
		if typ, err = p.typeAt(at); err != nil {
			return err
		}
	}
	switch typ {
	case plumbing.BlobObject:
		return nil
	case plumbing.CommitObject:
		c, err := p.commit(p.index.hash(place), at)
		for i := len(c.Parents) - 1; i >= 0 && err == nil; i-- {
			err = add(c.Parents[i], plumbing.CommitObject)
		}
		if err != nil {
			return err
		}
		return add(c.Tree, plumbing.TreeObject)
	}
	found, data, err := p.read(at)
	if err != nil {
		return err
	}
	if found != typ {
		return fmt.Errorf("%w: a %s where a %s belongs", ErrCorrupt, found, typ)
	}
	if typ == plumbing.TagObject {
		h, err := TagTarget(data)
		if err != nil {
			return err
		}
		return add(h, plumbing.InvalidObject)
	}
	return entries(data, add)
}

func entries(data []byte, add func(Hash, Type) error) error {
	for len(data) > 0 {
		mode, _, h, rest, err := nextEntry(data)
		if err != nil {
			return err
		}
		data = rest
		switch {
		case isLink(mode):
		case isTree(mode):
			err = add(h, plumbing.TreeObject)
		default:
			err = add(h, plumbing.BlobObject)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
