package objects

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// Form is how a pack is written.
type Form struct {
	Offsets bool     // deltas may name their base by offset (the client's ofs-delta)
	Theirs  *Objects // what the client has: deltas may stand upon it (thin-pack); nil: the pack stands on its own
}

// WritePack writes the named objects as one pack that stands on its own.
func (s Set) WritePack(ctx context.Context, w io.Writer, wanted map[Hash]bool, offsets bool) error {
	o := s.None()
	for h := range wanted {
		if !o.Add(h) {
			return fmt.Errorf("writing pack: %w: %s", ErrNotFound, h)
		}
	}
	_, err := o.WritePack(ctx, w, Form{Offsets: offsets})
	return err
}

// Written counts what a pack holds.
type Written struct{ Objects, Deltas, Reused int }

// WritePack writes the objects as one pack. Entries are copied as they are stored; a delta whose base neither goes along nor
// is the client's is rebuilt.
func (o *Objects) WritePack(ctx context.Context, w io.Writer, form Form) (Written, error) {
	if pack := o.whole(); pack != nil && form.Offsets {
		_, err := io.Copy(w, io.NewSectionReader(pack.file, 0, pack.size))
		return Written{Objects: pack.Len(), Reused: pack.Len()}, err
	}
	k := &packer{ctx: ctx, Objects: o, form: form, sum: sha1.New(), out: w, written: make([][]int64, len(o.set))}
	if err := k.run(); err != nil {
		return k.count, fmt.Errorf("writing pack: %w", err)
	}
	_, err := w.Write(k.sum.Sum(nil))
	return k.count, err
}

// whole returns the pack that holds these objects and no others.
func (o *Objects) whole() *Pack {
	n := o.Len()
	for i, p := range o.set {
		if p.Len() != n || p.base == "" {
			continue
		}
		inside := true
		for at := o.base[i]; at < o.base[i+1] && inside; at++ {
			inside = o.bits.has(at)
		}
		if inside {
			return p
		}
	}
	return nil
}

// packer copies objects pack by pack, each in the pack's own order. Since every object comes from the first pack that has it, and a base stands
// in the same pack as its delta or an earlier one, deltas can never form a ring.
type packer struct {
	*Objects
	ctx     context.Context
	form    Form
	out     io.Writer
	sum     hash.Hash
	n       int64     // bytes written
	written [][]int64 // by pack and place in its index: where the object begins in what is written; 0 is not there
	window  window
	count   Written
}

func (k *packer) write(b []byte) error {
	k.sum.Write(b)
	n, err := k.out.Write(b)
	k.n += int64(n)
	return err
}

func (k *packer) run() error {
	header := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(k.Len()))
	if err := k.write(header); err != nil {
		return err
	}
	for i := range k.set {
		if err := k.pack(i); err != nil {
			return err
		}
	}
	return nil
}

// pack writes the objects that come from one pack.
func (k *packer) pack(i int) error {
	p := k.set[i]
	order := p.order()
	k.written[i] = make([]int64, len(order))
	k.window = window{file: p.file, size: p.size}
	for n, at := range order {
		if !k.bits.has(k.base[i] + int(at)) {
			continue
		}
		if n%256 == 0 {
			if err := k.ctx.Err(); err != nil {
				return err
			}
		}
		end := p.size - sha1.Size
		if n+1 < len(order) {
			end = p.index.offset(int(order[n+1]))
		}
		k.written[i][at] = k.n
		if err := k.object(i, p.index.offset(int(at)), end); err != nil {
			return err
		}
	}
	return nil
}

// object writes the entry that stands between two offsets of a pack.
func (k *packer) object(pack int, at, end int64) error {
	h, err := k.window.head(at)
	if err != nil {
		return err
	}
	start, ok := k.start(pack, h)
	k.count.Objects++
	if !ok {
		return k.rebuilt(k.set[pack], at)
	}
	if k.count.Reused++; h.typ.IsDelta() {
		k.count.Deltas++
	}
	if err := k.write(start); err != nil {
		return err
	}
	for from := h.data; from < end; {
		part, err := k.window.bytes(from, end-from)
		if err != nil {
			return err
		}
		if err := k.write(part); err != nil {
			return err
		}
		from += int64(len(part))
	}
	return nil
}

// start makes the new head of an entry, if what it stands upon will be there.
func (k *packer) start(pack int, h head) ([]byte, bool) {
	if !h.typ.IsDelta() {
		return entryHead(h.typ, h.size), true
	}
	p := k.set[pack]
	base := h.baseHash
	if h.typ == plumbing.OFSDeltaObject {
		place, ok := p.placeOf(h.baseAt)
		if !ok {
			return nil, false
		}
		if at := k.written[pack][place]; at > 0 && k.form.Offsets {
			return append(entryHead(plumbing.OFSDeltaObject, h.size), backwards(k.n-at)...), true
		}
		base = p.index.hash(place)
	}
	if !k.Has(base) && (k.form.Theirs == nil || !k.form.Theirs.Has(base)) {
		return nil, false
	}
	return append(entryHead(plumbing.REFDeltaObject, h.size), base[:]...), true
}

func (k *packer) rebuilt(pack *Pack, at int64) error {
	typ, data, err := pack.read(at)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return k.write(append(entryHead(typ, int64(len(data))), b.Bytes()...))
}

// window is the part of a pack that is being copied.
type window struct {
	file io.ReaderAt
	size int64
	buf  []byte
	from int64 // where buf stands in the file
}

// Sizes of a window: what follows the one before is worth reading ahead, what does not is most often one small object.
const (
	nearWindow = 256 << 10
	farWindow  = 4 << 10
)

// bytes returns what stands at an offset: at least one byte, at most n.
func (w *window) bytes(at, n int64) ([]byte, error) {
	if at < w.from || at >= w.from+int64(len(w.buf)) {
		if err := w.move(at); err != nil {
			return nil, err
		}
	}
	part := w.buf[at-w.from:]
	return part[:min(int64(len(part)), n)], nil
}

func (w *window) move(at int64) error {
	length := int64(farWindow)
	if at >= w.from && at <= w.from+int64(len(w.buf))+farWindow {
		length = nearWindow
	}
	if length = min(length, w.size-at); length <= 0 {
		return fmt.Errorf("%w: no entry at %d", ErrCorrupt, at)
	}
	w.buf = slices.Grow(w.buf[:0], int(length))[:length]
	w.from = at
	n, err := w.file.ReadAt(w.buf, at)
	w.buf = w.buf[:n]
	if n == 0 {
		return fmt.Errorf("reading pack: %w", err)
	}
	return nil
}

// head reads the beginning of an entry.
func (w *window) head(at int64) (head, error) {
	const longest = 64
	if at < w.from || at+longest > w.from+int64(len(w.buf)) && w.from+int64(len(w.buf)) < w.size {
		if err := w.move(at); err != nil {
			return head{}, err
		}
	}
	part, err := w.bytes(at, longest)
	if err != nil {
		return head{}, err
	}
	r := bytes.NewReader(part)
	h, err := readHead(r, at)
	h.data = at + int64(len(part)-r.Len())
	return h, err
}

// entryHead is the type and size in front of an entry.
func entryHead(typ Type, size int64) []byte {
	b := append(make([]byte, 0, 32), byte(typ)<<4|byte(size&15))
	for size >>= 4; size > 0; size >>= 7 {
		b[len(b)-1] |= 0x80
		b = append(b, byte(size&0x7f))
	}
	return b
}

// backwards is the distance to a base as git writes it.
func backwards(n int64) []byte {
	b := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		b = append(b, byte(n&0x7f)|0x80)
	}
	slices.Reverse(b)
	return b
}
