package objects

import (
	"bytes"
	"cmp"
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

// WritePack writes the named objects as one pack. Entries are copied as they are stored; a delta whose base does not
// go along is rebuilt. With offsets, deltas name their base by offset (the client's ofs-delta).
func (s Set) WritePack(ctx context.Context, w io.Writer, wanted map[Hash]bool, offsets bool) error {
	o := &packer{ctx: ctx, set: s, offsets: offsets, sum: sha1.New(), written: make(map[Hash]int64, len(wanted)), names: map[placeKey]Hash{}}
	o.out = io.MultiWriter(w, o.sum)
	plan, err := s.places(wanted)
	if err != nil {
		return err
	}
	for _, p := range plan {
		o.names[placeKey{p.pack, p.at}] = p.hash
	}
	header := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(plan)))
	if err := o.write(header); err != nil {
		return err
	}
	for _, p := range plan {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := o.object(p, wanted); err != nil {
			return fmt.Errorf("writing pack: %w", err)
		}
	}
	_, err = w.Write(o.sum.Sum(nil))
	return err
}

// place is where an object is copied from.
type place struct {
	hash Hash
	pack int
	at   int64
}

type placeKey struct {
	pack int
	at   int64
}

// places orders the objects by pack and offset. Since every object comes from the first pack that has it, and a base
// stands in the same pack as its delta or an earlier one, deltas can never form a ring.
func (s Set) places(wanted map[Hash]bool) ([]place, error) {
	plan := make([]place, 0, len(wanted))
	for h := range wanted {
		found := false
		for i, p := range s {
			if at, ok := p.find(h); ok {
				plan = append(plan, place{h, i, at})
				found = true
				break
			}
		}
		if !found {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, h)
		}
	}
	slices.SortFunc(plan, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.at, b.at))
	})
	return plan, nil
}

type packer struct {
	ctx     context.Context
	set     Set
	offsets bool
	out     io.Writer
	sum     hash.Hash
	n       int64
	written map[Hash]int64
	names   map[placeKey]Hash
}

func (o *packer) write(b []byte) error {
	n, err := o.out.Write(b)
	o.n += int64(n)
	return err
}

func (o *packer) object(p place, wanted map[Hash]bool) error {
	pack := o.set[p.pack]
	h, err := pack.head(p.at)
	if err != nil {
		return err
	}
	start := o.n
	o.written[p.hash] = start
	if !h.typ.IsDelta() {
		return o.copy(pack, p.at, h, entryHead(h.typ, h.size))
	}
	base, ok := o.base(p.pack, h)
	if !ok || !wanted[base] {
		return o.rebuilt(pack, p)
	}
	if at, ok := o.written[base]; ok && o.offsets {
		return o.copy(pack, p.at, h, append(entryHead(plumbing.OFSDeltaObject, h.size), backwards(start-at)...))
	}
	return o.copy(pack, p.at, h, append(entryHead(plumbing.REFDeltaObject, h.size), base[:]...))
}

// base names a delta's base, if it is among the objects that are sent from the same pack, or named by the delta itself.
func (o *packer) base(pack int, h head) (Hash, bool) {
	if h.typ == plumbing.REFDeltaObject {
		return h.baseHash, true
	}
	if name, ok := o.names[placeKey{pack, h.baseAt}]; ok {
		return name, true
	}
	return Hash{}, false
}

func (o *packer) copy(pack *Pack, at int64, h head, start []byte) error {
	if err := o.write(start); err != nil {
		return err
	}
	n, err := io.Copy(o.out, pack.raw(h, at))
	o.n += n
	return err
}

func (o *packer) rebuilt(pack *Pack, p place) error {
	typ, data, err := pack.read(p.at)
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
	return o.write(append(entryHead(typ, int64(len(data))), b.Bytes()...))
}

// entryHead is the type and size in front of an entry.
func entryHead(typ Type, size int64) []byte {
	b := []byte{byte(typ)<<4 | byte(size&15)}
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
