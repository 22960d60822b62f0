package objects

import (
	"context"
	"fmt"
	"math"
	"sort"

	"github.com/go-git/go-git/v5/plumbing"
)

// readKinds lists the types of a pack's objects by their place in the index, from the heads of entries alone; 0 where they do not tell.
func (p *Pack) readKinds() []Type {
	order := p.order()
	kinds := make([]Type, len(order))
	w := window{file: p.file, size: p.size}
	for _, at := range order {
		h, err := w.head(p.index.offset(int(at)))
		if err != nil {
			continue
		}
		switch h.typ {
		case plumbing.OFSDeltaObject:
			if base, ok := p.placeOf(h.baseAt); ok {
				kinds[at] = kinds[base]
			}
		case plumbing.REFDeltaObject:
			if base, ok := p.index.find(h.baseHash); ok {
				kinds[at] = kinds[base] // perhaps not yet known
			}
		default:
			kinds[at] = h.typ
		}
	}
	return kinds
}

// placeOf finds the place in the index of the object that begins at an offset.
func (p *Pack) placeOf(at int64) (int, bool) {
	order := p.order()
	i := sort.Search(len(order), func(i int) bool { return p.index.offset(int(order[i])) >= at })
	if i == len(order) || p.index.offset(int(order[i])) != at {
		return 0, false
	}
	return int(order[i]), true
}

// kind is the type of the object at a place in the index.
func (p *Pack) kind(place int) (Type, error) {
	if k := p.kinds()[place]; k != 0 {
		return k, nil
	}
	return p.typeAt(p.index.offset(place))
}

// TypeOf is the type of an object of the pack. All types are found out at once, by the first who asks.
func (p *Pack) TypeOf(h Hash) (Type, error) {
	place, ok := p.index.find(h)
	if !ok {
		return 0, fmt.Errorf("%w: %s", ErrNotFound, h)
	}
	return p.kind(place)
}

// TypeOf is the type of one object, for which no more than the heads of its deltas are read.
func (s Set) TypeOf(h Hash) (Type, error) {
	for _, p := range s {
		if at, ok := p.find(h); ok {
			return p.typeAt(at)
		}
	}
	return 0, fmt.Errorf("%w: %s", ErrNotFound, h)
}

// BlobsOnly tells whether a filter is about blobs by their size, and nothing else.
func (f Filter) BlobsOnly() bool { return f.on && f.depth == math.MaxInt && f.types == [8]bool{} }

// Without leaves out what a filter does that is about blobs only. What is wanted by its own name stays.
func (o *Objects) Without(ctx context.Context, f Filter, wants []Hash) (*Objects, error) {
	rest := o.Clone()
	for i, p := range o.set {
		for place := range p.Len() {
			number := o.base[i] + place
			if place%1024 == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !o.bits.has(number) {
				continue
			}
			kind, err := p.kind(place)
			if err != nil {
				return nil, err
			}
			if kind != plumbing.BlobObject {
				continue
			}
			out, err := f.blob(func() (int64, error) { return p.sizeAt(p.index.offset(place)) })
			if err != nil {
				return nil, err
			}
			if out {
				rest.bits.drop(number)
			}
		}
	}
	for _, h := range wants {
		end, _, err := o.set.end(h)
		if err != nil {
			return nil, err
		}
		rest.Add(end)
	}
	return rest, nil
}
