package objects

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"
)

// Limits bound a pack from the wire; each number must be set.
type Limits struct {
	PackBytes   int64 // as it comes
	ObjectBytes int64 // one object, inflated
	TotalBytes  int64 // all objects, inflated; rebuilding one again for its deltas counts again
	Objects     int
	// Alone tells that nothing may follow the pack, as far as that has come.
	Alone bool
	// Room is asked before more of a pack, or its index, goes to the disk, which others use too; nil: there is always enough.
	Room func(bytes int) error
}

func (l Limits) room(bytes int) error {
	if l.Room == nil {
		return nil
	}
	return l.Room(bytes)
}

// ErrCollision says that somebody has prepared an object for a collision of SHA-1.
var ErrCollision = fmt.Errorf("%w: an object was made for a collision of SHA-1", ErrCorrupt)

// Receive reads exactly one pack from r, verifies everything in it, and stores it with its index in dir. It never reads
// beyond the pack's own end for want of more. On error nothing but temporary files in dir may be left.
func Receive(ctx context.Context, r io.Reader, dir string, limits Limits) (*Pack, error) {
	f, err := os.CreateTemp(dir, "incoming-*.pack")
	if err != nil {
		return nil, fmt.Errorf("receiving pack: %w", err)
	}
	x := &indexer{ctx: ctx, file: f, limits: limits, in: newWire(ctx, r, f, limits), names: newNaming()}
	pack, err := x.run(dir)
	if err = errors.Join(err, x.in.close(), x.names.close()); err != nil {
		if pack != nil {
			pack.Close()
		}
		f.Close()
		return nil, fmt.Errorf("receiving pack: %w", err)
	}
	return pack, nil
}

// ErrTrailing is a pack with something behind its checksum: a part of it that nobody would look at.
var ErrTrailing = fmt.Errorf("%w: something follows its checksum", ErrCorrupt)

// indexer knows of each object where it begins, and what becomes known later. All lists have the objects in the order of the pack.
type indexer struct {
	ctx    context.Context
	file   *os.File
	in     *wire
	limits Limits
	spent  spending
	names  *naming
	z      flate
	buf    []byte

	at    []int64
	data  []uint8  // from the beginning of the entry to its zlib stream
	crc   []uint32 // of the entry as it stands in the pack
	size  []uint32 // inflated: of a delta, of the delta; what is larger is maxUint32
	typ   []Type   // of a delta, that of a delta until it is resolved
	hash  []Hash
	base  []int32 // of a delta by offset, its base; else -1
	byRef []byRef
	large atomic.Bool // there is an object of largeBytes or more

	over    *overLimit // nil: no object is over the limit
	partial bool       // the last object did not come to its end
}

// byRef is a delta that names its base.
type byRef struct {
	base  Hash
	delta int32
}

// inMemory is the largest object that is inflated at once, in bytes. It must fit the wire's buffer several times.
const inMemory = 128 << 10

func (x *indexer) run(dir string) (*Pack, error) {
	if err := x.refused(x.entries()); err != nil {
		return nil, err
	}
	end := x.in.offset()
	sum, err := x.in.trailer()
	if err != nil {
		return nil, x.refused(err)
	}
	if x.limits.Alone && x.in.followed() {
		return nil, ErrTrailing
	}
	if err := x.names.finish(x.hash); err != nil {
		return nil, err
	}
	x.in.release()
	if err := x.resolve(end); err != nil {
		return nil, err
	}
	return x.store(dir, sum)
}

// entries reads all objects. One that is over the limit does not end it: its name, and the trees behind it, say which file it is.
func (x *indexer) entries() error {
	n, err := x.header()
	if err != nil {
		return err
	}
	for i := range n {
		if i&255 == 0 && x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		if err := x.entry(); err != nil {
			return fmt.Errorf("object %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}

func (x *indexer) header() (int, error) {
	var h [12]byte
	if _, err := io.ReadFull(x.in, h[:]); err != nil {
		return 0, fmt.Errorf("reading header: %w", unexpected(err))
	}
	if string(h[:4]) != "PACK" || binary.BigEndian.Uint32(h[4:]) != 2 {
		return 0, fmt.Errorf("%w: no pack of version 2", ErrCorrupt)
	}
	n := binary.BigEndian.Uint32(h[8:])
	if int64(n) > int64(x.limits.Objects) {
		return 0, fmt.Errorf("%w: %d objects, at most %d", ErrLimit, n, x.limits.Objects)
	}
	x.in.sum()
	return int(n), nil
}

// entry reads one object off the wire: whole ones are named, deltas wait for their base.
func (x *indexer) entry() error {
	at := x.in.offset()
	h, err := readHead(x.in, at)
	if err != nil {
		return x.in.blame(err)
	}
	if h.size > x.limits.ObjectBytes && !h.typ.IsDelta() {
		x.tooLarge(int32(len(x.at)), h.size, false)
	}
	if err := x.spent.add(h.size, x.limits.TotalBytes); err != nil {
		return err
	}
	if h.size >= largeBytes {
		x.large.Store(true)
	}
	x.at, x.typ = append(x.at, at), append(x.typ, h.typ)
	x.data = append(x.data, uint8(x.in.offset()-at))
	x.size = append(x.size, uint32(min(h.size, 1<<32-1)))
	x.hash, x.base = append(x.hash, Hash{}), append(x.base, -1)
	if h.typ.IsDelta() {
		err = x.delta(h)
	} else {
		err = x.whole(h)
	}
	x.partial = err != nil
	x.crc = append(x.crc, x.in.sum())
	return err
}

func (x *indexer) whole(h head) error {
	i := int32(len(x.at) - 1)
	if h.size <= inMemory {
		data := x.names.room(int(h.size))
		done, err := x.inflate(data)
		if done {
			return x.names.add(i, h.typ, data)
		}
		if err != nil {
			return err
		}
	}
	hasher := newHasher(h.typ, h.size)
	if err := x.stream(hasher, h.size); err != nil {
		return err
	}
	return sumInto(&x.hash[i], hasher)
}

func (x *indexer) delta(h head) error {
	i := int32(len(x.at) - 1)
	head, err := x.deltaHead(h.size)
	if err != nil {
		return err
	}
	size, err := deltaTarget(head)
	if err != nil {
		return err
	}
	if size = max(size, h.size); size > x.limits.ObjectBytes {
		x.tooLarge(i, size, true)
		return nil
	}
	if h.typ == plumbing.REFDeltaObject {
		x.byRef = append(x.byRef, byRef{h.baseHash, i})
		return nil
	}
	base, ok := find(x.at[:i], h.baseAt)
	if !ok {
		return fmt.Errorf("%w: no object where a delta's base should be", ErrCorrupt)
	}
	x.base[i] = int32(base)
	return nil
}

// deltaHead reads a delta and returns what it begins with.
func (x *indexer) deltaHead(size int64) ([]byte, error) {
	if size <= inMemory {
		if int(size) > len(x.buf) {
			x.buf = make([]byte, max(int(size), 16<<10))
		}
		done, err := x.inflate(x.buf[:size])
		if done || err != nil {
			return x.buf[:size], err
		}
	}
	head := &prefix{}
	err := x.stream(head, size)
	return head.buf, err
}

// prefix keeps the first bytes written to it.
type prefix struct{ buf []byte }

func (p *prefix) Write(b []byte) (int, error) {
	if room := 24 - len(p.buf); room > 0 {
		p.buf = append(p.buf, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

// inflate fills data from the wire if the whole stream has come already; else it is not done.
func (x *indexer) inflate(data []byte) (done bool, err error) {
	n, err := x.z.inflate(data, x.in.ahead())
	if errors.Is(err, errShort) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	x.in.skip(n)
	return true, nil
}

// stream copies exactly size bytes of the next zlib stream to w.
func (x *indexer) stream(w io.Writer, size int64) error {
	z, err := inflater(x.in)
	if err != nil {
		return x.in.blame(err)
	}
	defer inflaters.Put(z)
	if n, err := io.CopyN(w, z, size); err != nil || n != size {
		return x.in.blame(err)
	}
	return x.in.blame(drained(z))
}

// find is a binary search that is small enough for its callers.
func find(sorted []int64, want int64) (int, bool) {
	low, high := 0, len(sorted)
	for low < high {
		if mid := int(uint(low+high) >> 1); sorted[mid] < want {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(sorted) && sorted[low] == want
}

// newHasher names objects; it notices the known ways to make two objects of one name.
func newHasher(typ Type, size int64) sha1cd.CollisionResistantHash {
	h := sha1cd.New().(sha1cd.CollisionResistantHash)
	startHash(h, typ, size)
	return h
}

func startHash(h sha1cd.CollisionResistantHash, typ Type, size int64) {
	var b [32]byte
	head := append(append(b[:0], typ.Bytes()...), ' ')
	_, _ = h.Write(append(strconv.AppendInt(head, size, 10), 0)) // never fails
}

func sumInto(into *Hash, h sha1cd.CollisionResistantHash) error {
	sum, collision := h.CollisionResistantSum(nil)
	if collision {
		return ErrCollision
	}
	copy(into[:], sum)
	return nil
}

// store writes the index and gives both files their names, the pack's own checksum.
func (x *indexer) store(dir string, sum Hash) (*Pack, error) {
	base := filepath.Join(dir, "pack-"+sum.String())
	if err := x.file.Sync(); err != nil {
		return nil, err
	}
	if err := x.file.Chmod(0o444); err != nil {
		return nil, err
	}
	index, err := packIndex(x.hash, x.crc, x.at, sum)
	if err != nil {
		return nil, err
	}
	if err := x.limits.room(len(index)); err != nil {
		return nil, err
	}
	if err := writeFile(base+".idx", index, 0o444); err != nil {
		return nil, err
	}
	if err := os.Rename(x.file.Name(), base+".pack"); err != nil {
		return nil, err
	}
	x.file.Close()
	pack, err := OpenPack(base)
	if err == nil {
		pack.large = x.large.Load()
	}
	return pack, err
}

// writeFile writes, syncs, and gives the name last.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "incoming-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

var errTwice = fmt.Errorf("%w: an object stands there twice", ErrCorrupt)

// packIndex makes a version 2 index (gitformat-pack). The same object twice would make it ambiguous.
func packIndex(hashes []Hash, crcs []uint32, offsets []int64, pack Hash) ([]byte, error) {
	order := byName(hashes)
	be := binary.BigEndian
	b := make([]byte, 0, 8+1024+28*len(order)+40)
	b = append(b, "\xfftOc\x00\x00\x00\x02"...)
	next := 0
	for first := range 256 {
		for next < len(order) && int(hashes[order[next]][0]) <= first {
			next++
		}
		b = be.AppendUint32(b, uint32(next))
	}
	for i, o := range order {
		if i > 0 && hashes[o] == hashes[order[i-1]] {
			return nil, errTwice
		}
		b = append(b, hashes[o][:]...)
	}
	for _, o := range order {
		b = be.AppendUint32(b, crcs[o])
	}
	var large []byte
	for _, o := range order {
		if at := offsets[o]; at < 1<<31 {
			b = be.AppendUint32(b, uint32(at))
			continue
		}
		b = be.AppendUint32(b, 1<<31|uint32(len(large)/8))
		large = be.AppendUint64(large, uint64(offsets[o]))
	}
	b = append(append(b, large...), pack[:]...)
	return append(b, plainSum(b)...), nil
}

// byName lists objects by their names: sorted by two bytes first, then within each of these heaps, which are small.
func byName(hashes []Hash) []uint32 {
	var starts [1<<16 + 1]uint32
	for i := range hashes {
		starts[(int(hashes[i][0])<<8|int(hashes[i][1]))+1]++
	}
	for i := range 1 << 16 {
		starts[i+1] += starts[i]
	}
	order, next := make([]uint32, len(hashes)), starts
	for i := range hashes {
		heap := int(hashes[i][0])<<8 | int(hashes[i][1])
		order[next[heap]] = uint32(i)
		next[heap]++
	}
	for heap := range 1 << 16 {
		sortHeap(hashes, order[starts[heap]:starts[heap+1]])
	}
	return order
}

func sortHeap(hashes []Hash, heap []uint32) {
	for i := 1; i < len(heap); i++ {
		for j := i; j > 0 && bytes.Compare(hashes[heap[j]][2:], hashes[heap[j-1]][2:]) < 0; j-- {
			heap[j], heap[j-1] = heap[j-1], heap[j]
		}
	}
}
