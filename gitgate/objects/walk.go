package objects

import (
	"container/heap"
	"context"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
)

// Peel follows tags to what they mean in the end.
func (s Set) Peel(h Hash) (Object, error) {
	for range 100 {
		o, err := s.Get(h)
		if err != nil || o.Type != plumbing.TagObject {
			return o, err
		}
		if h, err = TagTarget(o.Data); err != nil {
			return o, err
		}
	}
	return Object{}, fmt.Errorf("%w: tags upon tags", ErrLimit)
}

func (s Set) commit(h Hash) (Commit, error) {
	o, err := s.Get(h)
	if err != nil {
		return Commit{}, err
	}
	if o.Type != plumbing.CommitObject {
		return Commit{}, fmt.Errorf("%w: %s is a %s where a commit belongs", ErrCorrupt, h, o.Type)
	}
	return ParseCommit(o.Data)
}

// IsAncestor tells whether old can be reached from new.
func (s Set) IsAncestor(ctx context.Context, old, new Hash) (bool, error) {
	return s.search(ctx, new, func(h Hash) bool { return h == old })
}

// search walks the history of a commit, newest first, until found says yes.
func (s Set) search(ctx context.Context, from Hash, found func(Hash) bool) (bool, error) {
	seen := map[Hash]bool{from: true}
	for todo := []Hash{from}; len(todo) > 0; {
		h := todo[0]
		todo = todo[1:]
		if found(h) {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		c, err := s.commit(h)
		if err != nil {
			return false, err
		}
		for _, p := range c.Parents {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return false, nil
}

// Reaches tells whether every want has one of the haves in its history.
func (s Set) Reaches(ctx context.Context, wants []Hash, haves map[Hash]bool) (bool, error) {
	for _, w := range wants {
		ok, err := s.reaches(ctx, w, haves)
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (s Set) reaches(ctx context.Context, want Hash, haves map[Hash]bool) (bool, error) {
	o, err := s.Peel(want)
	if err != nil || o.Type != plumbing.CommitObject {
		return false, err
	}
	return s.search(ctx, o.Hash, func(h Hash) bool { return haves[h] })
}

// Shallow says where histories end: commits whose parents the client lacks, and commits whose parents it does not want.
type Shallow struct {
	Client map[Hash]bool
	Border map[Hash]bool
}

// Border lists the commits that stand depth steps behind the wants (the wants themselves are the first step), and the commits before
// them.
func (s Set) Border(ctx context.Context, wants []Hash, depth int) (border, within map[Hash]bool, err error) {
	border, within = map[Hash]bool{}, map[Hash]bool{}
	var level []Hash
	for _, h := range wants {
		o, err := s.Peel(h)
		if err != nil {
			return nil, nil, err
		}
		if o.Type == plumbing.CommitObject {
			level = append(level, o.Hash)
		}
	}
	for ; len(level) > 0; depth-- {
		var next []Hash
		for _, h := range level {
			if border[h] || within[h] {
				continue
			}
			if depth <= 1 {
				border[h] = true
				continue
			}
			within[h] = true
			c, err := s.commit(h)
			if err != nil {
				return nil, nil, err
			}
			next = append(next, c.Parents...)
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		level = next
	}
	return border, within, nil
}

// Parents lists the parents of some commits.
func (s Set) Parents(commits []Hash) (parents []Hash, err error) {
	for _, h := range commits {
		c, err := s.commit(h)
		if err != nil {
			return nil, err
		}
		parents = append(parents, c.Parents...)
	}
	return parents, nil
}

// Missing lists what somebody who has everything behind haves lacks of everything behind wants.
func (s Set) Missing(ctx context.Context, wants, haves []Hash, shallow Shallow) (map[Hash]bool, error) {
	w := &walk{ctx: ctx, set: s, shallow: shallow, send: map[Hash]bool{}, skip: map[Hash]bool{}, commits: map[Hash]*node{}}
	for _, h := range haves {
		if err := w.have(h); err != nil {
			return nil, err
		}
	}
	var others []Hash
	for _, h := range wants {
		other, err := w.want(h)
		if err != nil {
			return nil, err
		}
		others = append(others, other...)
	}
	if err := w.history(); err != nil {
		return nil, err
	}
	return w.send, w.contents(others)
}

// walk paints commits: what the client has is uninteresting, the rest is sent.
type walk struct {
	ctx     context.Context
	set     Set
	shallow Shallow
	send    map[Hash]bool
	skip    map[Hash]bool // trees and blobs at the border
	commits map[Hash]*node
	queue   byTime
	open    int // interesting commits in the queue
}

type node struct {
	hash   Hash
	commit Commit
	dull   bool
	queued bool
}

// byTime is a heap, the youngest first.
type byTime []*node

func (q byTime) Len() int           { return len(q) }
func (q byTime) Less(i, j int) bool { return q[i].commit.Time > q[j].commit.Time }
func (q byTime) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byTime) Push(x any)        { *q = append(*q, x.(*node)) }
func (q *byTime) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// have marks the commit behind h; a tag is marked too.
func (w *walk) have(h Hash) error {
	w.skip[h] = true
	o, err := w.set.Peel(h)
	if err != nil || o.Type != plumbing.CommitObject {
		return err
	}
	if len(w.shallow.Border)+len(w.shallow.Client) > 0 {
		// Where histories are cut, what the client has may be nobody's parent.
		c, err := ParseCommit(o.Data)
		if err != nil {
			return err
		}
		if err := w.tree(c.Tree, w.skip, nil); err != nil {
			return err
		}
	}
	return w.visit(o.Hash, true)
}

// want queues the commit behind h and returns trees and blobs that are wanted by name.
func (w *walk) want(h Hash) (others []Hash, err error) {
	for range 100 {
		o, err := w.set.Get(h)
		if err != nil {
			return nil, err
		}
		switch o.Type {
		case plumbing.CommitObject:
			return nil, w.visit(h, false)
		case plumbing.TagObject:
			if !w.skip[h] {
				w.send[h] = true
			}
			if h, err = TagTarget(o.Data); err != nil {
				return nil, err
			}
		default:
			return []Hash{h}, nil
		}
	}
	return nil, fmt.Errorf("%w: tags upon tags", ErrLimit)
}

// visit queues a commit; one that turns out to be dull later goes through the queue again.
func (w *walk) visit(h Hash, dull bool) error {
	n, ok := w.commits[h]
	if !ok {
		c, err := w.set.commit(h)
		if err != nil {
			return err
		}
		n = &node{hash: h, commit: c, dull: dull}
		w.commits[h] = n
		w.push(n)
		return nil
	}
	if dull && !n.dull {
		if n.queued {
			w.open--
		}
		n.dull = true
		if !n.queued {
			w.push(n)
		}
	}
	return nil
}

func (w *walk) push(n *node) {
	n.queued = true
	if !n.dull {
		w.open++
	}
	heap.Push(&w.queue, n)
}

// history runs until nothing interesting is left to follow.
func (w *walk) history() error {
	for w.open > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		n := heap.Pop(&w.queue).(*node)
		n.queued = false
		if !n.dull {
			w.open--
		}
		for _, p := range w.parents(n) {
			if err := w.visit(p, n.dull); err != nil {
				return err
			}
		}
	}
	return nil
}

// parents leaves out those behind a cut.
func (w *walk) parents(n *node) []Hash {
	if n.dull && w.shallow.Client[n.hash] || !n.dull && w.shallow.Border[n.hash] {
		return nil
	}
	return n.commit.Parents
}

// contents collects the trees of the interesting commits, without what the border has.
func (w *walk) contents(others []Hash) error {
	for _, n := range w.commits {
		if n.dull {
			continue
		}
		for _, p := range n.commit.Parents {
			if b := w.commits[p]; b != nil && b.dull {
				if err := w.tree(b.commit.Tree, w.skip, nil); err != nil {
					return err
				}
			}
		}
	}
	for _, n := range w.commits {
		if n.dull {
			continue
		}
		w.send[n.hash] = true
		if err := w.tree(n.commit.Tree, w.send, w.skip); err != nil {
			return err
		}
	}
	for _, h := range others {
		if err := w.other(h); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) other(h Hash) error {
	o, err := w.set.Get(h)
	if err != nil {
		return err
	}
	if o.Type == plumbing.TreeObject {
		return w.tree(h, w.send, w.skip)
	}
	w.send[h] = true
	return nil
}

// tree adds a tree and everything below to into, except what is in without.
func (w *walk) tree(h Hash, into, without map[Hash]bool) error {
	for todo := []Hash{h}; len(todo) > 0; {
		h := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if into[h] || without[h] {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		into[h] = true
		o, err := w.set.Get(h)
		if err != nil {
			return err
		}
		entries, err := ParseTree(o.Data)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch {
			case e.IsTree():
				todo = append(todo, e.Hash)
			case !e.IsLink() && !without[e.Hash]:
				into[e.Hash] = true
			}
		}
	}
	return nil
}
