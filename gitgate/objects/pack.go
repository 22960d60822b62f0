package objects

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// maxDepth is how long a chain of deltas may be; git never makes more than 4095.
const maxDepth = 4095

// Pack is an indexed pack. It is immutable and safe for concurrent use.
type Pack struct {
	base   string // path without .pack; "" when it has no name
	file   *os.File
	size   int64
	index  index
	order  func() []uint32 // the objects by offset
	kinds  func() []Type   // see readKinds
	locate func(Hash) (int64, bool)
	cache  *cache
	limit  int64 // bytes of one object
	spend  func(int64) error
	cut    map[Hash]bool // commits whose parents the repository lacks
	large  bool          // it was received, and has an object of largeBytes or more
}

// Large reports whether a pack that was received has an object that takes some megabytes.
func (p *Pack) Large() bool { return p.large }

// OpenPack opens base.pack with base.idx.
func OpenPack(base string) (*Pack, error) {
	index, err := readIndex(base + ".idx")
	if err != nil {
		return nil, fmt.Errorf("reading %s.idx: %w", base, err)
	}
	f, err := os.Open(base + ".pack")
	if err != nil {
		return nil, fmt.Errorf("opening pack: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening pack: %w", err)
	}
	return newPack(base, f, info.Size(), index), nil
}

func newPack(base string, f *os.File, size int64, x index) *Pack {
	p := &Pack{base: base, file: f, size: size, index: x, cache: newCache(), limit: 1 << 31}
	p.spend = func(int64) error { return nil }
	p.locate = p.find
	p.order = sync.OnceValue(p.index.byOffset)
	p.kinds = sync.OnceValue(p.readKinds)
	return p
}

// Close closes the file.
func (p *Pack) Close() error { return p.file.Close() }

// Len is how many objects the pack has.
func (p *Pack) Len() int { return p.index.n }

// Size is that of its bytes.
func (p *Pack) Size() int64 { return p.size }

// File is the path of the pack's bytes.
func (p *Pack) File() string { return p.base + ".pack" }

// Has tells whether the pack has the object.
func (p *Pack) Has(h Hash) bool {
	_, ok := p.find(h)
	return ok
}

func (p *Pack) find(h Hash) (int64, bool) {
	i, ok := p.index.find(h)
	if !ok {
		return 0, false
	}
	return p.index.offset(i), true
}

func compare(a, b Hash) int { return bytes.Compare(a[:], b[:]) }

// Get reads an object.
func (p *Pack) Get(h Hash) (Object, error) {
	at, ok := p.find(h)
	if !ok {
		return Object{}, ErrNotFound
	}
	typ, data, err := p.read(at)
	return Object{h, typ, data}, err
}

// Hashes lists the objects in the order of the pack, so that reading them one by one meets every base before its deltas.
func (p *Pack) Hashes() []Hash {
	order := p.order()
	all := make([]Hash, len(order))
	for i, at := range order {
		all[i] = p.index.hash(int(at))
	}
	return all
}

// head is the beginning of an entry.
type head struct {
	typ      Type
	size     int64 // inflated: of the object, or of the delta
	baseAt   int64
	baseHash Hash
	data     int64 // offset of the zlib stream
}

// head reads the beginning of the entry at an offset.
func (p *Pack) head(at int64) (head, error) {
	var buf [32]byte // of a name, two numbers
	h, _, err := p.peek(at, buf[:])
	return h, err
}

// peek reads the beginning of an entry, and as much of what follows as fits.
func (p *Pack) peek(at int64, buf []byte) (h head, rest []byte, err error) {
	n, err := p.file.ReadAt(buf[:min(int64(len(buf)), max(0, p.size-at))], at)
	if n == 0 {
		return head{}, nil, fmt.Errorf("%w: no entry at %d: %v", ErrCorrupt, at, err)
	}
	r := bytes.NewReader(buf[:n])
	h, err = readHead(r, at)
	h.data = at + int64(n-r.Len())
	return h, buf[n-r.Len() : n], err
}

// peeked is how much is read of an entry at once: most of them are smaller.
const peeked = 4 << 10

var peeks = sync.Pool{New: func() any { return new([peeked]byte) }}

// readHead parses type, size and base.
func readHead(r io.ByteReader, at int64) (h head, err error) {
	c, err := r.ReadByte()
	if err != nil {
		return h, unexpected(err)
	}
	h.typ, h.size = Type(c>>4&7), int64(c&15)
	for shift := 4; c&0x80 != 0; shift += 7 {
		if c, err = r.ReadByte(); err != nil || shift > 56 {
			return h, fmt.Errorf("%w: bad size", ErrCorrupt)
		}
		h.size |= int64(c&0x7f) << shift
	}
	switch h.typ {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		back, err := readBack(r)
		if err != nil || back <= 0 || back >= at {
			return h, fmt.Errorf("%w: bad offset of a base", ErrCorrupt)
		}
		h.baseAt = at - back
	case plumbing.REFDeltaObject:
		for i := range h.baseHash {
			if h.baseHash[i], err = r.ReadByte(); err != nil {
				return h, unexpected(err)
			}
		}
	default:
		return h, fmt.Errorf("%w: unknown type of object", ErrCorrupt)
	}
	return h, nil
}

// readBack reads the distance to a base.
func readBack(r io.ByteReader) (int64, error) {
	c, err := r.ReadByte()
	n := int64(c & 0x7f)
	for err == nil && c&0x80 != 0 {
		if n > 1<<55 {
			return 0, ErrCorrupt
		}
		c, err = r.ReadByte()
		n = (n+1)<<7 | int64(c&0x7f)
	}
	return n, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// read rebuilds the object at an offset: down the chain of deltas to a base, and up again.
func (p *Pack) read(at int64) (Type, []byte, error) {
	buf := peeks.Get().(*[peeked]byte)
	defer peeks.Put(buf)
	var chain []int64 // of offsets whose deltas are to be applied, the last first
	var typ Type
	var data []byte
	for {
		if t, d, ok := p.cache.get(at); ok {
			typ, data = t, d
			break
		}
		h, rest, err := p.peek(at, buf[:])
		if err != nil {
			return 0, nil, err
		}
		if !h.typ.IsDelta() {
			if data, err = p.inflate(h, rest); err != nil {
				return 0, nil, err
			}
			typ = h.typ
			p.cache.put(at, typ, data)
			break
		}
		if chain = append(chain, at); len(chain) > maxDepth {
			return 0, nil, fmt.Errorf("%w: chain of deltas", ErrLimit)
		}
		if at, err = p.baseOf(h); err != nil {
			return 0, nil, err
		}
	}
	var spare []byte // of a large object on the way, which nobody else has
	for _, at := range slices.Backward(chain) {
		base := data
		var err error
		if data, err = p.patch(at, base, buf[:], spare); err != nil {
			return 0, nil, err
		}
		p.cache.put(at, typ, data)
		if spare = nil; !cacheable(base) {
			spare = base
		}
	}
	return typ, data, nil
}

func (p *Pack) baseOf(h head) (int64, error) {
	if h.typ == plumbing.OFSDeltaObject {
		return h.baseAt, nil
	}
	at, ok := p.locate(h.baseHash)
	if !ok {
		return 0, fmt.Errorf("%w: a delta's base is missing", ErrCorrupt)
	}
	return at, nil
}

// patch applies the delta at an offset, into the spare buffer where that has just the room.
func (p *Pack) patch(at int64, base, buf, spare []byte) ([]byte, error) {
	h, rest, err := p.peek(at, buf)
	if err != nil {
		return nil, err
	}
	delta, err := p.inflate(h, rest)
	if err != nil {
		return nil, err
	}
	size, err := deltaTarget(delta)
	if err != nil || size > p.limit {
		return nil, fmt.Errorf("%w: object of %d bytes", ErrLimit, size)
	}
	if err := p.spend(int64(len(base) + len(delta))); err != nil {
		return nil, err
	}
	if int64(cap(spare)) < size || int64(cap(spare)) > 2*size {
		spare = make([]byte, 0, size)
	}
	return applyDeltaTo(spare[:0], base, delta)
}

// inflate reads exactly the bytes that the head announces. begun is what has been read of them as they are stored.
func (p *Pack) inflate(h head, begun []byte) ([]byte, error) {
	if h.size > p.limit {
		return nil, fmt.Errorf("%w: object of %d bytes", ErrLimit, h.size)
	}
	data := make([]byte, h.size)
	if h.size+h.size>>8+64 <= int64(len(begun)) && inflateInto(data, bytes.NewReader(begun)) == nil {
		return data, nil // nobody needs more bytes than that, but one may
	}
	r := bufio.NewReaderSize(io.NewSectionReader(p.file, h.data, p.size-h.data), int(min(h.size+64, 32<<10)))
	return data, inflateInto(data, r)
}

// inflateInto fills data from a stream that must end there.
func inflateInto(data []byte, r io.Reader) error {
	z, err := inflater(r)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	defer inflaters.Put(z)
	if _, err := io.ReadFull(z, data); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return drained(z)
}

var inflaters sync.Pool

func inflater(r io.Reader) (io.ReadCloser, error) {
	if z, ok := inflaters.Get().(io.ReadCloser); ok {
		return z, z.(zlib.Resetter).Reset(r, nil)
	}
	return zlib.NewReader(r)
}

// drained reads the end of the stream, where the checksum is compared.
func drained(z io.Reader) error {
	var one [1]byte
	if n, err := z.Read(one[:]); n != 0 || err != io.EOF {
		return fmt.Errorf("%w: object does not end where it says", ErrCorrupt)
	}
	return nil
}

// Closed checks that everything that the pack's commits, trees and tags point at is in the pack or in others. It tells whether
// all of the pack can be reached from the given objects: since no object can point at itself, not even through others, that is so when each
// is pointed at or given.
func (p *Pack) Closed(ctx context.Context, others Set, from []Hash) (all bool, err error) {
	known := newBits(p.Len())
	for _, h := range from {
		if i, ok := p.index.find(h); ok {
			known.add(i)
		}
	}
	for n, i := range p.order() {
		at := p.index.offset(int(i))
		typ, err := p.typeAt(at)
		if err != nil {
			return false, err
		}
		if typ == plumbing.BlobObject {
			continue
		}
		if err := p.closed(at, others, known); err != nil {
			return false, err
		}
		if n%256 == 0 && ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return known.count() == p.Len(), nil
}

func (p *Pack) closed(at int64, others Set, known bitset) error {
	typ, data, err := p.read(at)
	if err != nil {
		return err
	}
	return eachReference(typ, data, func(h Hash) error {
		if i, ok := p.index.find(h); ok {
			known.add(i)
			return nil
		}
		if !others.Has(h) {
			return fmt.Errorf("%w: a %s points at %.8s, which did not come along", ErrCorrupt, typ, h.String())
		}
		return nil
	})
}

// sizeAt is the size of an object, for which at most the head of a delta is inflated.
func (p *Pack) sizeAt(at int64) (int64, error) {
	h, err := p.head(at)
	if err != nil || !h.typ.IsDelta() {
		return h.size, err
	}
	z, err := inflater(bufio.NewReaderSize(io.NewSectionReader(p.file, h.data, min(1<<10, p.size-h.data)), 1<<10))
	if err != nil {
		return 0, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	defer inflaters.Put(z)
	start := make([]byte, min(24, h.size))
	if _, err := io.ReadFull(z, start); err != nil {
		return 0, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return deltaTarget(start)
}

// typeAt follows a chain of deltas without inflating anything.
func (p *Pack) typeAt(at int64) (Type, error) {
	for range maxDepth + 1 {
		h, err := p.head(at)
		if err != nil || !h.typ.IsDelta() {
			return h.typ, err
		}
		if at, err = p.baseOf(h); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: chain of deltas", ErrLimit)
}
