package objects

import (
	"container/heap"
	"context"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
)

// Ask is what a client wants, and what it has.
type Ask struct {
	Wants, Haves []Hash
	Client       map[Hash]bool // commits that the client has without their parents
	Border       map[Hash]bool // commits behind which nothing is wanted
	Filter       Filter
}

// Missing selects what the client lacks of everything behind its wants. Theirs is what it is known to have: not all of it, but
// enough not to send the same again, and each a base that a delta may stand upon.
func (s Set) Missing(ctx context.Context, ask Ask) (send, theirs *Objects, err error) {
	w := &walk{ctx: ctx, ask: ask, commits: map[int]*node{}, seen: map[int]int{}}
	send, theirs = s.None(), s.None()
	w.numbers, w.send, w.theirs = send.numbers, send.bits, theirs.bits
	for _, h := range ask.Haves {
		if err := w.have(h); err != nil {
			return nil, nil, err
		}
	}
	for _, h := range ask.Wants {
		if err := w.want(h); err != nil {
			return nil, nil, err
		}
	}
	if err := w.history(); err != nil {
		return nil, nil, err
	}
	return send, theirs, w.contents()
}

// walk paints commits: what the client has is dull, the rest is sent.
type walk struct {
	numbers
	ctx     context.Context
	ask     Ask
	send    bitset
	theirs  bitset
	commits map[int]*node
	order   []*node // commits as they were come by: neighbours have much in common
	queue   byTime
	open    int         // interesting commits in the queue
	given   []int       // trees and blobs that are wanted by name
	known   []int       // trees of commits that the client has, where that cannot be told from histories
	seen    map[int]int // with a filter: trees, and how far below a root they were looked into
	steps   int
}

type node struct {
	number int
	commit Commit
	hash   Hash
	dull   bool
	given  bool // wanted by name
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

// alive ends the walk with its context. Asking each time would cost more than the steps do.
func (w *walk) alive() error {
	if w.steps++; w.steps%64 == 0 {
		return w.ctx.Err()
	}
	return nil
}

// have marks the commit behind h; tags on the way are marked too.
func (w *walk) have(h Hash) error {
	for range 100 {
		i, err := w.must(h)
		if err != nil {
			return err
		}
		w.theirs.add(i)
		p, at := w.where(i)
		if typ, err := p.typeAt(p.index.offset(at)); err != nil || typ != plumbing.TagObject && typ != plumbing.CommitObject {
			return err
		}
		typ, data, err := w.read(i)
		if err != nil {
			return err
		}
		if typ == plumbing.TagObject {
			if h, err = TagTarget(data); err != nil {
				return err
			}
			continue
		}
		if len(w.ask.Border)+len(w.ask.Client) > 0 {
			// Where histories are cut, what the client has may be nobody's parent.
			c, err := ParseCommit(data)
			if err != nil {
				return err
			}
			tree, err := w.must(c.Tree)
			if err != nil {
				return err
			}
			w.known = append(w.known, tree)
		}
		_, err = w.visit(h, true)
		return err
	}
	return fmt.Errorf("%w: tags upon tags", ErrLimit)
}

// want queues the commit behind h, and notes trees and blobs that are wanted by name.
func (w *walk) want(h Hash) error {
	for range 100 {
		i, err := w.must(h)
		if err != nil {
			return err
		}
		p, at := w.where(i)
		typ, err := p.typeAt(p.index.offset(at))
		if err != nil {
			return err
		}
		switch typ {
		case plumbing.CommitObject:
			n, err := w.visit(h, false)
			if err != nil {
				return err
			}
			n.given = true
			return nil
		case plumbing.TagObject:
			if !w.theirs.has(i) {
				w.send.add(i)
			}
			_, data, err := w.read(i)
			if err != nil {
				return err
			}
			if h, err = TagTarget(data); err != nil {
				return err
			}
		default:
			w.given = append(w.given, i)
			return nil
		}
	}
	return fmt.Errorf("%w: tags upon tags", ErrLimit)
}

// visit queues a commit; one that turns out to be dull later goes through the queue again.
func (w *walk) visit(h Hash, dull bool) (*node, error) {
	i, err := w.must(h)
	if err != nil {
		return nil, err
	}
	n, ok := w.commits[i]
	if !ok {
		p, at := w.where(i)
		c, err := p.commit(h, p.index.offset(at))
		if err != nil {
			return nil, err
		}
		n = &node{number: i, hash: h, commit: c, dull: dull}
		w.commits[i] = n
		w.order = append(w.order, n)
		w.push(n)
		return n, nil
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
	return n, nil
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
		if err := w.alive(); err != nil {
			return err
		}
		n := heap.Pop(&w.queue).(*node)
		n.queued = false
		if !n.dull {
			w.open--
		}
		for _, p := range w.parents(n) {
			if _, err := w.visit(p, n.dull); err != nil {
				return err
			}
		}
	}
	return nil
}

// parents leaves out those behind a cut.
func (w *walk) parents(n *node) []Hash {
	if n.dull && w.ask.Client[n.hash] || !n.dull && w.ask.Border[n.hash] {
		return nil
	}
	return n.commit.Parents
}

// contents collects what the interesting commits hold, without what the client has.
func (w *walk) contents() error {
	if err := w.border(); err != nil {
		return err
	}
	for _, n := range w.order {
		if n.dull {
			continue
		}
		if n.given || !w.ask.Filter.drops(plumbing.CommitObject) {
			w.send.add(n.number)
		}
		tree, err := w.must(n.commit.Tree)
		if err != nil {
			return err
		}
		if err := w.tree(tree, 0); err != nil {
			return err
		}
	}
	for _, i := range w.given {
		if err := w.wanted(i); err != nil {
			return err
		}
	}
	return nil
}

// border marks what the client has in trees beside those that are sent.
func (w *walk) border() error {
	dull, fresh := w.known, []int(nil)
	for _, n := range w.order {
		if n.dull {
			continue
		}
		tree, err := w.must(n.commit.Tree)
		if err != nil {
			return err
		}
		before := len(dull)
		for _, p := range n.commit.Parents {
			i, ok := w.of(p)
			if b := w.commits[i]; ok && b != nil && b.dull {
				old, err := w.must(b.commit.Tree)
				if err != nil {
					return err
				}
				dull = append(dull, old)
			}
		}
		if len(dull) > before || len(w.known) > 0 {
			fresh = append(fresh, tree)
		}
	}
	if len(dull) == 0 {
		return nil
	}
	return w.beside(dull, fresh)
}

// beside marks what trees that the client has hold, and goes down only where trees of the same path differ.
func (w *walk) beside(dull, fresh []int) error {
	for _, i := range dull {
		w.theirs.add(i)
	}
	old, err := w.kids(dull, true)
	if err != nil {
		return err
	}
	young, err := w.kids(fresh, false)
	if err != nil {
		return err
	}
	for name, trees := range young {
		if older := old[name]; len(older) > 0 {
			if err := w.beside(older, trees); err != nil {
				return err
			}
		}
	}
	return nil
}

// kids lists the folders in some trees by name. Of the client's own trees, all is marked.
func (w *walk) kids(trees []int, own bool) (map[string][]int, error) {
	kids := map[string][]int{}
	seen := map[int]bool{}
	for _, t := range trees {
		if seen[t] || !own && w.theirs.has(t) {
			continue
		}
		seen[t] = true
		if err := w.alive(); err != nil {
			return nil, err
		}
		typ, data, err := w.read(t)
		if err != nil {
			return nil, err
		}
		if typ != plumbing.TreeObject {
			return nil, fmt.Errorf("%w: %s where a tree belongs", ErrCorrupt, typ)
		}
		for len(data) > 0 {
			mode, name, h, rest, err := nextEntry(data)
			if err != nil {
				return nil, err
			}
			data = rest
			i, ok := w.of(h)
			if !ok || isLink(mode) {
				continue
			}
			if isTree(mode) && !seen[i] {
				seen[i] = true
				kids[string(name)] = append(kids[string(name)], i)
			}
			if own {
				w.theirs.add(i)
			}
		}
	}
	return kids, nil
}

// wanted adds what was asked for by its own name, and what is below it.
func (w *walk) wanted(i int) error {
	w.send.add(i)
	typ, data, err := w.read(i)
	if err != nil || typ != plumbing.TreeObject {
		return err
	}
	return w.entries(data, 0)
}

// tree adds a tree and everything below, except what the client has.
func (w *walk) tree(i, depth int) error {
	if w.theirs.has(i) || w.ask.Filter.below(depth) {
		return nil
	}
	if w.ask.Filter.On() {
		if before, ok := w.seen[i]; ok && before <= depth {
			return nil
		}
		w.seen[i] = depth
		if !w.ask.Filter.drops(plumbing.TreeObject) {
			w.send.add(i)
		}
	} else {
		if w.send.has(i) {
			return nil
		}
		w.send.add(i)
	}
	if err := w.alive(); err != nil {
		return err
	}
	typ, data, err := w.read(i)
	if err != nil {
		return err
	}
	if typ != plumbing.TreeObject {
		return fmt.Errorf("%w: %s where a tree belongs", ErrCorrupt, typ)
	}
	if depth > maxTreeDepth {
		return fmt.Errorf("%w: folders in folders", ErrLimit)
	}
	return w.entries(data, depth+1)
}

// maxTreeDepth bounds the folders inside each other; git's own bound is 2048.
const maxTreeDepth = 2048

func (w *walk) entries(data []byte, depth int) error {
	if w.ask.Filter.below(depth) {
		return nil
	}
	for len(data) > 0 {
		mode, _, h, rest, err := nextEntry(data)
		if err != nil {
			return err
		}
		data = rest
		if isLink(mode) {
			continue
		}
		i, err := w.must(h)
		if err != nil {
			return err
		}
		if isTree(mode) {
			err = w.tree(i, depth)
		} else {
			err = w.blob(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) blob(i int) error {
	if w.theirs.has(i) || w.send.has(i) {
		return nil
	}
	out, err := w.ask.Filter.blob(func() (int64, error) {
		p, at := w.where(i)
		return p.sizeAt(p.index.offset(at))
	})
	if !out && err == nil {
		w.send.add(i)
	}
	return err
}
