package objects

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"os"
	"slices"
	"strings"
)

// index is a version 2 index as it stands in the file: 20 bytes a name, 4 a checksum, 4 an offset.
type index struct {
	n     int // objects
	fan   []byte
	names []byte
	small []byte // offsets, or places in large
	large []byte
}

// readIndex reads and checks a version 2 index.
func readIndex(path string) (x index, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return x, err
	}
	if len(raw) < 8+1024+40 || !strings.HasPrefix(string(raw[:8]), "\xfftOc\x00\x00\x00\x02") {
		return x, ErrCorrupt
	}
	if sum := sha1.Sum(raw[:len(raw)-20]); !bytes.Equal(sum[:], raw[len(raw)-20:]) {
		return x, ErrCorrupt
	}
	x.fan = raw[8 : 8+1024]
	x.n = int(binary.BigEndian.Uint32(x.fan[255*4:]))
	rest := raw[8+1024 : len(raw)-40]
	if x.n < 0 || len(rest) < x.n*28 {
		return x, ErrCorrupt
	}
	x.names, x.small, x.large = rest[:x.n*20], rest[x.n*24:x.n*28], rest[x.n*28:]
	return x, x.check()
}

// check makes sure that no later look-up can leave the file.
func (x index) check() error {
	last := uint32(0)
	for i := range 256 {
		next := binary.BigEndian.Uint32(x.fan[i*4:])
		if next < last || int(next) > x.n {
			return ErrCorrupt
		}
		last = next
	}
	for i := range x.n {
		o := binary.BigEndian.Uint32(x.small[i*4:])
		if o&(1<<31) != 0 && int(o&^(1<<31))*8+8 > len(x.large) {
			return ErrCorrupt
		}
	}
	return nil
}

// find returns the place of an object among the sorted names.
func (x index) find(h Hash) (at int, ok bool) {
	if x.n == 0 {
		return 0, false
	}
	low := 0
	if h[0] > 0 {
		low = int(binary.BigEndian.Uint32(x.fan[(int(h[0])-1)*4:]))
	}
	high := int(binary.BigEndian.Uint32(x.fan[int(h[0])*4:]))
	key := binary.BigEndian.Uint64(h[:])
	for low < high {
		mid := int(uint(low+high) >> 1)
		name := x.names[mid*20 : mid*20+20]
		there := binary.BigEndian.Uint64(name)
		if there == key { // nearly always the one
			switch c := bytes.Compare(name, h[:]); {
			case c == 0:
				return mid, true
			case c > 0:
				there++
			}
		}
		if there <= key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return 0, false
}

func (x index) hash(i int) (h Hash) {
	copy(h[:], x.names[i*20:])
	return h
}

// offset is where in the pack an object begins.
func (x index) offset(i int) int64 {
	o := binary.BigEndian.Uint32(x.small[i*4:])
	if o&(1<<31) == 0 {
		return int64(o)
	}
	return int64(binary.BigEndian.Uint64(x.large[int(o&^(1<<31))*8:]))
}

// byOffset lists the objects in the order of the pack.
func (x index) byOffset() []uint32 {
	order := make([]uint32, x.n)
	keys := make([]int64, x.n)
	for i := range order {
		order[i], keys[i] = uint32(i), x.offset(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return int(min(max(keys[a]-keys[b], -1), 1)) })
	return order
}
