package objects

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"slices"
	"sync/atomic"

	"github.com/pjbgf/sha1cd"
	"golang.org/x/sync/errgroup"
)

// spending counts inflated bytes, so that a small pack cannot buy endless work.
type spending struct{ bytes atomic.Int64 }

func (s *spending) add(n, limit int64) error {
	if s.bytes.Add(n) > limit {
		return fmt.Errorf("%w: more than %d bytes in total", ErrLimit, limit)
	}
	return nil
}

const (
	// keptBytes is how much of the bases of a chain one worker keeps; what it needs again beyond that it makes again.
	keptBytes = 24 << 20
	// largeBytes is the size from which objects are rebuilt one at a time, whatever the number of workers.
	largeBytes = 4 << 20
	// rootsAtOnce is how many whole objects a worker takes at a time.
	rootsAtOnce = 64
)

// resolver rebuilds all deltas, each after its base. Workers take whole objects and follow everything that is built on them.
type resolver struct {
	*indexer
	end      int64   // of the last entry
	child    []int32 // first delta by offset upon an object, or -1
	next     []int32 // next delta upon the same base, or -1
	started  []atomic.Bool
	root     atomic.Int64
	resolved atomic.Int64
}

// largeTurn is held by the one who rebuilds large objects: of all workers, of all packs.
var largeTurn = make(chan struct{}, 1)

func (x *indexer) resolve(end int64) error {
	n := len(x.at)
	r := &resolver{indexer: x, end: end, child: make([]int32, n), next: make([]int32, n), started: make([]atomic.Bool, len(x.byRef))}
	deltas := 0
	for i := range r.child {
		r.child[i] = -1
	}
	for i := n - 1; i >= 0; i-- {
		if x.typ[i].IsDelta() {
			deltas++
		}
		if b := x.base[i]; b >= 0 {
			r.next[i], r.child[b] = r.child[b], int32(i)
		}
	}
	slices.SortFunc(x.byRef, func(a, b byRef) int { return compare(a.base, b.base) })
	whole := newBits(n)
	for i, t := range x.typ {
		if !t.IsDelta() && (x.over == nil || !x.over.skip[int32(i)]) {
			whole.add(i)
		}
	}
	group, ctx := errgroup.WithContext(x.ctx)
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error { return (&worker{resolver: r, ctx: ctx, sha: newSHA()}).run(whole) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if r.resolved.Load() != int64(deltas) {
		return fmt.Errorf("%w: a delta's base is missing", ErrCorrupt)
	}
	return nil
}

func newSHA() sha1cd.CollisionResistantHash { return sha1cd.New().(sha1cd.CollisionResistantHash) }

// worker goes down the trees of deltas.
type worker struct {
	*resolver
	ctx   context.Context
	sha   sha1cd.CollisionResistantHash
	z     flate
	in    []byte // compressed
	delta []byte
	chain []link
	kept  int
	free  [32][][]byte // buffers by the power of two that they hold
	large [][]byte     // buffers that are larger than those, while this one holds the turn
	alone bool         // this one holds the turn for large objects
}

// link is an object on the way down, with the deltas upon it that are still to do.
type link struct {
	i       int32
	typ     Type
	data    []byte // nil: given up, to be made again
	offsets int32  // next delta by offset, or -1
	refs    int    // next delta by name
	refsEnd int
}

// run takes roots until there are none left.
func (w *worker) run(whole bitset) (err error) {
	defer w.unlock()
	defer func() {
		if recover() != nil { // it would end the process, and its value may quote the pack
			err = fmt.Errorf("%w: rebuilding a delta panicked", ErrCorrupt)
		}
	}()
	for {
		from := int(w.root.Add(rootsAtOnce)) - rootsAtOnce
		if from >= len(w.at) {
			return nil
		}
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		for i := from; i < min(from+rootsAtOnce, len(w.at)); i++ {
			if whole.has(i) {
				if err := w.tree(int32(i)); err != nil {
					return err
				}
			}
		}
	}
}

// tree rebuilds everything upon one whole object.
func (w *worker) tree(root int32) error {
	w.push(root, w.typ[root], nil)
	for len(w.chain) > 0 {
		top := &w.chain[len(w.chain)-1]
		d, ok := w.take(top)
		if !ok {
			w.pop()
			continue
		}
		if err := w.step(d); err != nil {
			return err
		}
	}
	w.unlock()
	return nil
}

// take is the next delta upon an object. One by name may be met twice, where an object stands in the pack twice.
func (w *worker) take(l *link) (d int32, ok bool) {
	if l.offsets >= 0 {
		d, l.offsets = l.offsets, w.next[l.offsets]
		return d, true
	}
	for l.refs < l.refsEnd {
		r := l.refs
		l.refs++
		if w.started[r].CompareAndSwap(false, true) {
			return w.byRef[r].delta, true
		}
	}
	return 0, false
}

func (l *link) last() bool { return l.offsets < 0 && l.refs == l.refsEnd }

// step rebuilds one delta upon the top of the chain and goes on with it.
func (w *worker) step(d int32) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	if len(w.chain) > maxDepth {
		return fmt.Errorf("%w: chain of deltas", ErrLimit)
	}
	if err := w.restore(len(w.chain) - 1); err != nil {
		return err
	}
	top := &w.chain[len(w.chain)-1]
	data, err := w.apply(top.data, d)
	if err != nil {
		return err
	}
	if err := w.spent.add(int64(len(data)), w.limits.TotalBytes); err != nil {
		return err
	}
	w.sha.Reset()
	startHash(w.sha, top.typ, int64(len(data)))
	_, _ = w.sha.Write(data) // never fails
	if err := sumInto(&w.hash[d], w.sha); err != nil {
		return err
	}
	w.typ[d] = top.typ
	w.resolved.Add(1)
	if top.last() {
		w.forget(top) // nobody else needs it: long chains take no room
	}
	w.push(d, w.chain[len(w.chain)-1].typ, data)
	return nil
}

// push goes down to an object. Without a delta upon it the way leads up again at once.
func (w *worker) push(i int32, typ Type, data []byte) {
	l := link{i: i, typ: typ, data: data, offsets: w.child[i]}
	if len(w.byRef) > 0 {
		l.refs, _ = slices.BinarySearchFunc(w.byRef, w.hash[i], func(r byRef, h Hash) int { return compare(r.base, h) })
		for l.refsEnd = l.refs; l.refsEnd < len(w.byRef) && w.byRef[l.refsEnd].base == w.hash[i]; l.refsEnd++ {
		}
	}
	w.kept += len(data)
	w.chain = append(w.chain, l)
	if l.last() {
		w.forget(&w.chain[len(w.chain)-1])
		return
	}
	for k := 0; w.kept > keptBytes && k < len(w.chain)-1; k++ {
		w.forget(&w.chain[k])
	}
}

func (w *worker) pop() {
	w.forget(&w.chain[len(w.chain)-1])
	w.chain = w.chain[:len(w.chain)-1]
}

// forget gives a buffer back.
func (w *worker) forget(l *link) {
	w.kept -= len(l.data)
	w.put(l.data)
	l.data = nil
}

// restore makes an object of the chain again when it was given up, from the nearest one above that is still there.
func (w *worker) restore(k int) error {
	from := k
	for from > 0 && w.chain[from].data == nil {
		from--
	}
	if l := &w.chain[from]; l.data == nil {
		data, err := w.whole(l.i)
		if err != nil {
			return err
		}
		l.data = data
		w.kept += len(data)
	}
	for ; from < k; from++ {
		data, err := w.apply(w.chain[from].data, w.chain[from+1].i)
		if err != nil {
			return err
		}
		if err := w.spent.add(int64(len(data)), w.limits.TotalBytes); err != nil {
			return err
		}
		w.chain[from+1].data = data
		w.kept += len(data)
		if w.kept > keptBytes {
			w.forget(&w.chain[from])
		}
	}
	return nil
}

// whole inflates the object at the root of a chain.
func (w *worker) whole(i int32) ([]byte, error) {
	h, err := w.headOf(i)
	if err != nil {
		return nil, err
	}
	if err := w.lock(h.size); err != nil {
		return nil, err
	}
	if err := w.spent.add(h.size, w.limits.TotalBytes); err != nil {
		return nil, err
	}
	data := w.get(int(h.size))
	return data, w.inflate(i, h, data)
}

// apply rebuilds a delta upon its base.
func (w *worker) apply(base []byte, d int32) ([]byte, error) {
	h, err := w.headOf(d)
	if err != nil {
		return nil, err
	}
	if int(h.size) > cap(w.delta) {
		w.delta = make([]byte, max(int(h.size), 16<<10))
	}
	delta := w.delta[:h.size]
	if err := w.inflate(d, h, delta); err != nil {
		return nil, err
	}
	size, err := deltaTarget(delta)
	if err != nil {
		return nil, err
	}
	if size > w.limits.ObjectBytes {
		return nil, &TooLargeError{Culprit: Culprit{Size: size}, Limit: w.limits.ObjectBytes}
	}
	if err := w.lock(size); err != nil {
		return nil, err
	}
	return applyDeltaTo(w.get(int(size))[:0], base, delta)
}

// headOf reads the size of an entry, which the index has unless it is large.
func (w *worker) headOf(i int32) (head, error) {
	if w.size[i] < 1<<32-1 {
		return head{size: int64(w.size[i]), data: w.at[i] + int64(w.data[i])}, nil
	}
	var buf [64]byte
	n, err := w.file.ReadAt(buf[:], w.at[i])
	if n == 0 {
		return head{}, fmt.Errorf("reading an entry again: %w", err)
	}
	r := bytes.NewReader(buf[:n])
	h, err := readHead(r, w.at[i])
	h.data = w.at[i] + int64(n-r.Len())
	return h, err
}

// inflate reads an entry's stream again.
func (w *worker) inflate(i int32, h head, into []byte) error {
	end := w.end
	if int(i)+1 < len(w.at) {
		end = w.at[i+1]
	}
	n := int(end - h.data)
	if n > largeBytes {
		return w.stream(h, end, into)
	}
	if n > len(w.in) {
		w.in = make([]byte, max(n, 16<<10))
	}
	if _, err := w.file.ReadAt(w.in[:n], h.data); err != nil {
		return fmt.Errorf("reading an entry again: %w", err)
	}
	_, err := w.z.inflate(into, w.in[:n])
	if err != nil {
		return fmt.Errorf("%w: an entry reads differently now: %v", ErrCorrupt, err)
	}
	return nil
}

// stream is for what is too large to be read at once.
func (w *worker) stream(h head, end int64, into []byte) error {
	z, err := inflater(bufio.NewReaderSize(io.NewSectionReader(w.file, h.data, end-h.data), 64<<10))
	if err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	defer inflaters.Put(z)
	if _, err := io.ReadFull(z, into); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return nil
}

// lock makes the workers of all packs take turns over large objects, until the tree is done.
func (w *worker) lock(size int64) error {
	if size < largeBytes {
		return nil
	}
	if w.indexer.large.Store(true); w.alone {
		return nil
	}
	select {
	case largeTurn <- struct{}{}:
		w.alone = true
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

func (w *worker) unlock() {
	if w.alone {
		w.alone, w.large = false, nil
		<-largeTurn
	}
}

// get is a buffer of that size, with anything in it.
func (w *worker) get(size int) []byte {
	class := bits.Len(uint(max(size, 512) - 1))
	if class >= len(w.free) || 1<<class > largeBytes {
		return w.getLarge(size)
	}
	if list := w.free[class]; len(list) > 0 {
		b := list[len(list)-1]
		w.free[class] = list[:len(list)-1]
		return b[:size]
	}
	return make([]byte, size, 1<<class)
}

// maxLarge is how many large buffers wait for use: a base and what is made of it are the most that are needed at once.
const maxLarge = 2

// getLarge takes a buffer that fits without wasting half of it.
func (w *worker) getLarge(size int) []byte {
	for i, b := range w.large {
		if cap(b) >= size && cap(b) <= 2*size {
			w.large = slices.Delete(w.large, i, i+1)
			return b[:size]
		}
	}
	return make([]byte, size, size+size/64) // the next one is often a little longer
}

// maxFree bounds the buffers of one size that wait for use.
const maxFree = 8

func (w *worker) put(b []byte) {
	if w.alone && cap(b) > largeBytes {
		if w.large = append(w.large, b); len(w.large) > maxLarge {
			w.large = slices.Delete(w.large, 0, 1)
		}
		return
	}
	class := bits.Len(uint(cap(b))) - 1
	if cap(b) < 512 || cap(b) > largeBytes || cap(b) != 1<<class || len(w.free[class]) >= maxFree {
		return
	}
	w.free[class] = append(w.free[class], b[:cap(b)])
}
