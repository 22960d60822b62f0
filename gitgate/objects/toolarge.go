package objects

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Culprit is the object for which a pack was refused, as far as it is known.
type Culprit struct {
	Size   int64
	Hash   Hash   // zero: it is not known, as of a delta
	Path   string // of its file, in Commit; empty: no tree of the pack names it
	Commit Hash
}

// TooLargeError is an object that is over the limit of one object.
type TooLargeError struct {
	Culprit
	Limit int64
	More  int // how many other objects are over it, as far as the pack was read
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%v: an object of %d bytes, at most %d are taken", ErrLimit, e.Size, e.Limit)
}

// Unwrap lets callers treat it as ErrLimit.
func (e *TooLargeError) Unwrap() error { return ErrLimit }

// PackTooLargeError is a pack that has too many bytes. Its culprit is the largest object that had come.
type PackTooLargeError struct {
	Culprit
	Limit int64
}

func (e *PackTooLargeError) Error() string {
	return fmt.Sprintf("%v: pack has more than %d bytes", ErrLimit, e.Limit)
}

// Unwrap lets callers treat it as ErrLimit.
func (e *PackTooLargeError) Unwrap() error { return ErrLimit }

// overLimit is what is noted of the objects that are over the limit, while the rest of the pack is read to find their names.
type overLimit struct {
	first TooLargeError
	at    int32 // of the first, in the order of the pack; -1: its name cannot be known
	skip  map[int32]bool
}

// tooLarge notes an object that is over the limit. A delta is left out of what is rebuilt.
func (x *indexer) tooLarge(i int32, size int64, delta bool) {
	if x.over == nil {
		x.over = &overLimit{first: TooLargeError{Culprit: Culprit{Size: size}, Limit: x.limits.ObjectBytes}, at: i, skip: map[int32]bool{}}
		if delta {
			x.over.at = -1
		}
	} else {
		x.over.first.More++
		if x.over.at < 0 && !delta { // one that can be named is of more use
			x.over.at, x.over.first.Size = i, size
		}
	}
	if len(x.over.skip) < maxSkipped {
		x.over.skip[i] = true
	}
}

// maxSkipped bounds what is remembered of objects over the limit. A pack with more of them is not rebuilt to find a file.
const maxSkipped = 1000

// refused completes the error of a pack that was read as far as possible: with the name of the object, and the file.
func (x *indexer) refused(err error) error {
	var pack *PackTooLargeError
	whole := err == nil || errors.As(err, &pack)
	if x.over == nil && pack == nil {
		return err
	}
	if whole && x.ctx.Err() == nil {
		x.in.hand()
		whole = x.in.failed == nil && x.names.finish(x.hash) == nil
	}
	if x.over != nil {
		e := &x.over.first
		if whole && x.over.at >= 0 && len(x.over.skip) < maxSkipped {
			x.locate(&e.Culprit, x.over.at)
		}
		return e
	}
	at := int32(-1)
	for i := range x.at {
		if x.typ[i].IsDelta() {
			continue
		}
		if at < 0 || x.size[i] > x.size[at] {
			at = int32(i)
		}
	}
	if at >= 0 {
		pack.Size = int64(x.size[at])
		if whole {
			x.locate(&pack.Culprit, at)
		}
	}
	return pack
}

// locate finds the name of an object and the file that it is, in the trees of what has come of the pack. What it reads counts
// towards the limit of all objects. Where something is wrong, less is known.
func (x *indexer) locate(c *Culprit, at int32) {
	end := x.in.offset()
	if n := len(x.at); x.partial {
		if int(at) == n-1 {
			return
		}
		end = x.at[n-1]
		x.drop(n - 1)
	}
	x.in.release()
	c.Hash = x.hash[at]
	_ = x.resolve(end) // deltas upon what is over the limit stay as they are
	if x.typ[at] != plumbing.BlobObject || x.ctx.Err() != nil {
		return
	}
	var known []gathered
	var commits []Hash
	for i, h := range x.hash {
		if h.IsZero() || x.typ[i] != plumbing.TreeObject && x.typ[i] != plumbing.CommitObject {
			continue
		}
		known = append(known, gathered{h, x.at[i]})
		if x.typ[i] == plumbing.CommitObject {
			commits = append(commits, h)
		}
	}
	p := newPack("", x.file, end, makeIndex(known))
	p.limit = min(x.limits.ObjectBytes, maxLocated)
	p.spend = func(n int64) error { return x.spent.add(n, x.limits.TotalBytes) }
	s := &fileSearch{pack: p, want: c.Hash, seen: newBits(p.Len()), alive: func() bool { return x.ctx.Err() == nil }}
	c.Path, c.Commit = s.find(commits)
}

// maxLocated bounds a tree that is read to find a file, in bytes.
const maxLocated = 16 << 20

// maxPath bounds a path that is told, in bytes: of a longer one the end is.
const maxPath = 4096

// drop forgets the objects from the n-th on.
func (x *indexer) drop(n int) {
	x.at, x.data, x.size, x.typ, x.hash, x.base = x.at[:n], x.data[:n], x.size[:n], x.typ[:n], x.hash[:n], x.base[:n]
	x.byRef = slices.DeleteFunc(x.byRef, func(r byRef) bool { return int(r.delta) >= n })
}

// fileSearch looks for the file that an object is. It reads each tree once.
type fileSearch struct {
	pack  *Pack
	want  Hash
	seen  bitset
	alive func() bool
}

// find goes through the commits, parents before their children: the first is the one which brought the file.
func (s *fileSearch) find(commits []Hash) (path string, commit Hash) {
	all := map[Hash]Commit{}
	for _, h := range commits {
		o, err := s.pack.Get(h)
		if err != nil || s.pack.spend(int64(len(o.Data))) != nil || !s.alive() {
			continue
		}
		if c, err := ParseCommit(o.Data); err == nil {
			all[h] = c
		}
	}
	// A commit that is reached on the stack for the second time comes after its parents.
	done, begun := map[Hash]bool{}, map[Hash]bool{}
	for stack := slices.Clone(commits); len(stack) > 0; {
		h := stack[len(stack)-1]
		c, there := all[h]
		if there && !begun[h] {
			begun[h] = true
			for _, parent := range c.Parents {
				if _, ours := all[parent]; ours && !begun[parent] {
					stack = append(stack, parent)
				}
			}
			continue
		}
		stack = stack[:len(stack)-1]
		if !there || done[h] {
			continue
		}
		done[h] = true
		if path, ok := s.within(c.Tree, 0); ok {
			return path, h
		}
	}
	return "", Hash{}
}

// within looks through a tree and those below it that the pack has.
func (s *fileSearch) within(tree Hash, depth int) (path string, ok bool) {
	i, there := s.pack.index.find(tree)
	if !there || s.seen.has(i) || depth > maxTreeDepth || !s.alive() {
		return "", false
	}
	s.seen.add(i)
	typ, data, err := s.pack.read(s.pack.index.offset(i))
	if err != nil || typ != plumbing.TreeObject || s.pack.spend(int64(len(data))) != nil {
		return "", false
	}
	for len(data) > 0 {
		mode, name, h, rest, err := nextEntry(data)
		if err != nil {
			return "", false
		}
		data = rest
		switch {
		case isTree(mode):
			if below, ok := s.within(h, depth+1); ok {
				if len(name)+len(below) > maxPath {
					return below, true
				}
				return string(name) + "/" + below, true
			}
		case h == s.want && !isLink(mode) && len(name) <= maxPath:
			return string(name), true
		}
	}
	return "", false
}
