package objects

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Limits bound a pack from the wire; each must be set.
type Limits struct {
	PackBytes   int64 // as it comes
	ObjectBytes int64 // one object, inflated
	TotalBytes  int64 // all objects, inflated; rebuilding one again for its deltas counts again
	Objects     int
}

// Receive reads exactly one pack from r, verifies everything in it, and stores it with its index in dir. It never reads
// beyond the pack's own end for want of more. On error nothing but temporary files in dir may be left.
func Receive(ctx context.Context, r io.Reader, dir string, limits Limits) (*Pack, error) {
	f, err := os.CreateTemp(dir, "incoming-*.pack")
	if err != nil {
		return nil, fmt.Errorf("receiving pack: %w", err)
	}
	x := &indexer{ctx: ctx, file: f, limits: limits}
	x.in = newTee(r, f, limits.PackBytes)
	pack, err := x.run(dir)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("receiving pack: %w", err)
	}
	return pack, nil
}

// entry is what the indexer knows of one object.
type entry struct {
	hash  Hash
	typ   Type
	crc   uint32
	at    int64
	child int32 // first delta upon it, by offset; 0 is none (entry 0 is never a delta by offset)
	next  int32 // next delta upon the same base
	done  bool
}

type indexer struct {
	ctx     context.Context
	file    *os.File
	in      *tee
	limits  Limits
	entries []entry
	byRef   map[Hash][]int32 // deltas by the name of their base
	byHash  map[Hash]int32
	spent   int64 // bytes inflated so far
}

func (x *indexer) run(dir string) (*Pack, error) {
	n, err := x.header()
	if err != nil {
		return nil, err
	}
	x.byRef, x.byHash = map[Hash][]int32{}, map[Hash]int32{}
	for i := range n {
		if err := x.ctx.Err(); err != nil {
			return nil, err
		}
		if err := x.entry(int32(i)); err != nil {
			return nil, fmt.Errorf("object %d of %d: %w", i+1, n, err)
		}
	}
	sum, err := x.in.trailer()
	if err != nil {
		return nil, err
	}
	if err := x.resolve(); err != nil {
		return nil, err
	}
	return x.store(dir, sum)
}

func (x *indexer) header() (int, error) {
	var h [12]byte
	if err := x.in.full(h[:]); err != nil {
		return 0, fmt.Errorf("reading header: %w", err)
	}
	if string(h[:4]) != "PACK" || binary.BigEndian.Uint32(h[4:]) != 2 {
		return 0, fmt.Errorf("%w: no pack of version 2", ErrCorrupt)
	}
	n := int(binary.BigEndian.Uint32(h[8:]))
	if n > x.limits.Objects {
		return 0, fmt.Errorf("%w: %d objects, at most %d", ErrLimit, n, x.limits.Objects)
	}
	_, err := x.in.checksum()
	return n, err
}

// entry reads one object off the wire: whole ones are hashed at once, deltas wait for their base.
func (x *indexer) entry(i int32) error {
	at := x.in.offset()
	h, err := readHead(x.in, at)
	if err != nil {
		return err
	}
	if h.size > x.limits.ObjectBytes {
		return fmt.Errorf("%w: object of %d bytes", ErrLimit, h.size)
	}
	if err := x.spend(h.size); err != nil {
		return err
	}
	e := entry{at: at, typ: h.typ}
	if h.typ.IsDelta() {
		err = x.delta(h, i, &e)
	} else {
		err = x.whole(h, &e)
	}
	if err != nil {
		return err
	}
	if e.crc, err = x.in.checksum(); err != nil {
		return err
	}
	x.entries = append(x.entries, e)
	if e.done {
		return x.name(i)
	}
	return nil
}

// spend counts inflated bytes, so that a small pack cannot buy endless work.
func (x *indexer) spend(n int64) error {
	if x.spent += n; x.spent > x.limits.TotalBytes {
		return fmt.Errorf("%w: more than %d bytes in total", ErrLimit, x.limits.TotalBytes)
	}
	return nil
}

func (x *indexer) whole(h head, e *entry) error {
	hasher := plumbing.NewHasher(h.typ, h.size)
	if err := x.inflate(hasher, h.size); err != nil {
		return err
	}
	e.hash, e.done = hasher.Sum(), true
	return nil
}

func (x *indexer) delta(h head, i int32, e *entry) error {
	head := &prefix{}
	if err := x.inflate(head, h.size); err != nil {
		return err
	}
	size, err := deltaTarget(head.buf)
	if err != nil {
		return err
	}
	if size > x.limits.ObjectBytes {
		return fmt.Errorf("%w: object of %d bytes", ErrLimit, size)
	}
	if h.typ == plumbing.REFDeltaObject {
		x.byRef[h.baseHash] = append(x.byRef[h.baseHash], i)
		return nil
	}
	base, ok := slices.BinarySearchFunc(x.entries, h.baseAt, func(e entry, at int64) int {
		return int(min(max(e.at-at, -1), 1))
	})
	if !ok {
		return fmt.Errorf("%w: no object where a delta's base should be", ErrCorrupt)
	}
	e.next, x.entries[base].child = x.entries[base].child, i
	return nil
}

// prefix keeps the first bytes written to it.
type prefix struct{ buf []byte }

func (p *prefix) Write(b []byte) (int, error) {
	if room := 24 - len(p.buf); room > 0 {
		p.buf = append(p.buf, b[:min(room, len(b))]...)
	}
	return len(b), nil
}

// inflate copies exactly size bytes of the next zlib stream to w.
func (x *indexer) inflate(w io.Writer, size int64) error {
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

// name files an object under its name. The same object twice would make the index ambiguous.
func (x *indexer) name(i int32) error {
	h := x.entries[i].hash
	if _, twice := x.byHash[h]; twice {
		return fmt.Errorf("%w: an object stands there twice", ErrCorrupt)
	}
	x.byHash[h] = i
	return nil
}

// resolve rebuilds the deltas, each after its base and near to it, so that the base is still cached.
func (x *indexer) resolve() error {
	p := x.pack()
	var stack []int32
	for i := range x.entries {
		if !x.entries[i].done {
			continue
		}
		stack = x.children(int32(i), stack)
		for len(stack) > 0 {
			last := len(stack) - 1
			j := stack[last]
			stack = stack[:last]
			if x.entries[j].done {
				continue
			}
			if err := x.rebuild(p, j); err != nil {
				return err
			}
			stack = x.children(j, stack)
		}
	}
	for i := range x.entries {
		if !x.entries[i].done {
			return fmt.Errorf("%w: a delta's base is missing", ErrCorrupt)
		}
	}
	return nil
}

func (x *indexer) children(i int32, stack []int32) []int32 {
	for c := x.entries[i].child; c != 0; c = x.entries[c].next {
		stack = append(stack, c)
	}
	return append(stack, x.byRef[x.entries[i].hash]...)
}

func (x *indexer) rebuild(p *Pack, i int32) error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	typ, data, err := p.read(x.entries[i].at)
	if err != nil {
		return err
	}
	x.entries[i].typ, x.entries[i].hash, x.entries[i].done = typ, plumbing.ComputeHash(typ, data), true
	return x.name(i)
}

// pack is a view of the unfinished file.
func (x *indexer) pack() *Pack {
	p := &Pack{file: x.file, size: x.in.offset(), cache: newCache(), limit: x.limits.ObjectBytes, spend: x.spend}
	p.locate = func(h Hash) (int64, bool) {
		i, ok := x.byHash[h]
		if !ok {
			return 0, false
		}
		return x.entries[i].at, true
	}
	return p
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
	if err := writeIndex(base+".idx", x.entries, sum); err != nil {
		return nil, err
	}
	if err := os.Rename(x.file.Name(), base+".pack"); err != nil {
		return nil, err
	}
	x.file.Close()
	return OpenPack(base)
}

// writeIndex writes a version 2 index.
func writeIndex(path string, entries []entry, pack Hash) error {
	slices.SortFunc(entries, func(a, b entry) int { return compare(a.hash, b.hash) })
	be := binary.BigEndian
	b := []byte("\xfftOc\x00\x00\x00\x02")
	next := 0
	for first := range 256 {
		for next < len(entries) && int(entries[next].hash[0]) <= first {
			next++
		}
		b = be.AppendUint32(b, uint32(next))
	}
	for _, e := range entries {
		b = append(b, e.hash[:]...)
	}
	for _, e := range entries {
		b = be.AppendUint32(b, e.crc)
	}
	var large []byte
	for _, e := range entries {
		if e.at < 1<<31 {
			b = be.AppendUint32(b, uint32(e.at))
			continue
		}
		b = be.AppendUint32(b, 1<<31|uint32(len(large)/8))
		large = be.AppendUint64(large, uint64(e.at))
	}
	b = append(append(b, large...), pack[:]...)
	sum := sha1.Sum(b)
	return writeFile(path, append(b, sum[:]...), 0o444)
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

// tee reads the wire byte by byte where it must, and copies what was consumed, and no more, to the file and the checksums.
type tee struct {
	src        io.Reader
	out        io.Writer
	sum        hash.Hash
	crc        uint32
	buf        []byte
	mark, r, w int // consumed but not yet copied: [mark,r); read ahead: [r,w)
	copied     int64
	limit      int64
	err        error
}

func newTee(src io.Reader, out io.Writer, limit int64) *tee {
	return &tee{src: src, out: out, limit: limit, sum: sha1.New(), buf: make([]byte, 64<<10)}
}

func (t *tee) offset() int64 { return t.copied + int64(t.r-t.mark) }

// flush copies what was consumed.
func (t *tee) flush() error {
	part := t.buf[t.mark:t.r]
	t.mark = t.r
	t.copied += int64(len(part))
	if t.copied > t.limit {
		return fmt.Errorf("%w: pack has more than %d bytes", ErrLimit, t.limit)
	}
	t.sum.Write(part)
	t.crc = crc32.Update(t.crc, crc32.IEEETable, part)
	_, err := t.out.Write(part)
	return err
}

func (t *tee) fill() error {
	if t.err == nil {
		t.err = t.flush()
	}
	if t.err != nil {
		return t.err
	}
	n, err := io.ReadAtLeast(t.src, t.buf, 1)
	t.mark, t.r, t.w = 0, 0, n
	if n == 0 {
		t.err = unexpected(err)
	}
	return t.err
}

// ReadByte makes the inflater stop exactly behind a stream.
func (t *tee) ReadByte() (byte, error) {
	if t.r == t.w {
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
	c := t.buf[t.r]
	t.r++
	return c, nil
}

func (t *tee) Read(p []byte) (int, error) {
	if t.r == t.w {
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.buf[t.r:t.w])
	t.r += n
	return n, nil
}

func (t *tee) full(p []byte) error {
	_, err := io.ReadFull(t, p)
	return err
}

// blame prefers the wire's own error to what the inflater made of it.
func (t *tee) blame(err error) error {
	if t.err != nil {
		return t.err
	}
	if err != nil && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return err
}

// checksum ends an entry and returns its CRC.
func (t *tee) checksum() (uint32, error) {
	err := t.flush()
	crc := t.crc
	t.crc = 0
	return crc, err
}

// trailer compares the pack's checksum.
func (t *tee) trailer() (Hash, error) {
	if err := t.flush(); err != nil {
		return Hash{}, err
	}
	want := t.sum.Sum(nil)
	var got Hash
	if err := t.full(got[:]); err != nil {
		return Hash{}, fmt.Errorf("reading checksum: %w", err)
	}
	if !bytes.Equal(got[:], want) {
		return Hash{}, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	return got, t.flush()
}
