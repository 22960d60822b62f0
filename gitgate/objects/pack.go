package objects

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// maxDepth is how long a chain of deltas may be; git never makes more than 4095.
const maxDepth = 4095

// Pack is an indexed pack. It is immutable and safe for concurrent use.
type Pack struct {
	base    string // path without .pack
	file    *os.File
	size    int64
	hashes  []Hash  // sorted
	offsets []int64 // of hashes
	order   func() []int64
	locate  func(Hash) (int64, bool)
	cache   *cache
	limit   int64 // bytes of one object
	spend   func(int64) error
}

// OpenPack opens base.pack with base.idx.
func OpenPack(base string) (*Pack, error) {
	hashes, offsets, err := readIndex(base + ".idx")
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
	p := &Pack{base: base, file: f, size: info.Size(), hashes: hashes, offsets: offsets, cache: newCache(), limit: 1 << 31}
	p.spend = func(int64) error { return nil }
	p.locate = p.find
	p.order = sync.OnceValue(func() []int64 { return slices.Sorted(slices.Values(p.offsets)) })
	return p, nil
}

// Close closes the file.
func (p *Pack) Close() error { return p.file.Close() }

// Len is how many objects the pack has.
func (p *Pack) Len() int { return len(p.hashes) }

// File is the path of the pack's bytes.
func (p *Pack) File() string { return p.base + ".pack" }

// Has tells whether the pack has the object.
func (p *Pack) Has(h Hash) bool {
	_, ok := p.find(h)
	return ok
}

func (p *Pack) find(h Hash) (int64, bool) {
	i, ok := slices.BinarySearchFunc(p.hashes, h, compare)
	if !ok {
		return 0, false
	}
	return p.offsets[i], true
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
	all := slices.Clone(p.hashes)
	at := make(map[Hash]int64, len(all))
	for i, h := range p.hashes {
		at[h] = p.offsets[i]
	}
	slices.SortFunc(all, func(a, b Hash) int { return int(min(max(at[a]-at[b], -1), 1)) })
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

// head reads the entry at an offset.
func (p *Pack) head(at int64) (head, error) {
	var buf [64]byte
	n, err := p.file.ReadAt(buf[:min(64, max(0, p.size-at))], at)
	if n == 0 {
		return head{}, fmt.Errorf("%w: no entry at %d: %v", ErrCorrupt, at, err)
	}
	r := bytes.NewReader(buf[:n])
	h, err := readHead(r, at)
	h.data = at + int64(n-r.Len())
	return h, err
}

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
	var chain []int64 // of offsets whose deltas are to be applied, the last first
	var typ Type
	var data []byte
	for {
		if t, d, ok := p.cache.get(at); ok {
			typ, data = t, d
			break
		}
		h, err := p.head(at)
		if err != nil {
			return 0, nil, err
		}
		if !h.typ.IsDelta() {
			if data, err = p.inflate(h); err != nil {
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
	for _, at := range slices.Backward(chain) {
		var err error
		if data, err = p.patch(at, data); err != nil {
			return 0, nil, err
		}
		p.cache.put(at, typ, data)
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

func (p *Pack) patch(at int64, base []byte) ([]byte, error) {
	h, err := p.head(at)
	if err != nil {
		return nil, err
	}
	delta, err := p.inflate(h)
	if err != nil {
		return nil, err
	}
	if size, err := deltaTarget(delta); err != nil || size > p.limit {
		return nil, fmt.Errorf("%w: object of %d bytes", ErrLimit, size)
	}
	if err := p.spend(int64(len(base) + len(delta))); err != nil {
		return nil, err
	}
	return applyDelta(base, delta)
}

// inflate reads exactly the bytes that the head announces.
func (p *Pack) inflate(h head) ([]byte, error) {
	if h.size > p.limit {
		return nil, fmt.Errorf("%w: object of %d bytes", ErrLimit, h.size)
	}
	z, err := inflater(bufio.NewReaderSize(io.NewSectionReader(p.file, h.data, p.size-h.data), int(min(h.size+64, 32<<10))))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	defer inflaters.Put(z)
	data := make([]byte, h.size)
	if _, err := io.ReadFull(z, data); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if err := drained(z); err != nil {
		return nil, err
	}
	return data, nil
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

// raw returns the compressed bytes of the entry at an offset, without its head.
func (p *Pack) raw(h head, at int64) *io.SectionReader {
	order := p.order()
	i := sort.Search(len(order), func(i int) bool { return order[i] > at })
	end := p.size - sha1.Size
	if i < len(order) {
		end = order[i]
	}
	return io.NewSectionReader(p.file, h.data, end-h.data)
}

// Closed checks that everything that the pack's commits, trees and tags point at is in the pack or in others.
func (p *Pack) Closed(ctx context.Context, others Set) error {
	for _, h := range p.Hashes() {
		at, _ := p.find(h)
		typ, err := p.typeAt(at)
		if err != nil {
			return err
		}
		if typ == plumbing.BlobObject {
			continue
		}
		if err := p.closed(h, others); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Pack) closed(h Hash, others Set) error {
	o, err := p.Get(h)
	if err != nil {
		return err
	}
	refs, err := References(o)
	if err != nil {
		return err
	}
	for _, r := range refs {
		if !p.Has(r) && !others.Has(r) {
			return fmt.Errorf("%w: %s %.8s points at an object that did not come along", ErrCorrupt, o.Type, h.String())
		}
	}
	return nil
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

// readIndex reads a version 2 index.
func readIndex(path string) ([]Hash, []int64, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) < 8+1024+40 || !strings.HasPrefix(string(raw), "\xfftOc\x00\x00\x00\x02") {
		return nil, nil, ErrCorrupt
	}
	if sum := sha1.Sum(raw[:len(raw)-20]); !bytes.Equal(sum[:], raw[len(raw)-20:]) {
		return nil, nil, ErrCorrupt
	}
	be := binary.BigEndian
	n := int(be.Uint32(raw[8+255*4:]))
	names := raw[8+1024:]
	if len(names) < n*28+40 {
		return nil, nil, ErrCorrupt
	}
	small, large := names[n*24:], names[n*28:]
	hashes, offsets := make([]Hash, n), make([]int64, n)
	for i := range n {
		copy(hashes[i][:], names[i*20:])
		o := be.Uint32(small[i*4:])
		offsets[i] = int64(o)
		if o&(1<<31) != 0 {
			at := int(o&^(1<<31)) * 8
			if at+8 > len(large)-40 {
				return nil, nil, ErrCorrupt
			}
			offsets[i] = int64(be.Uint64(large[at:]))
		}
	}
	return hashes, offsets, nil
}
