package secrets

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"airlock/internal/unpack"
)

// sevenZip begins archives of 7-Zip. Their list of files is at the end; what they hold is in
// folders: one or several files that are compressed as one, in steps (7zFormat.txt).
const sevenZip = "7z\xbc\xaf\x27\x1c"

const (
	// maxList bounds the list of files, in bytes.
	maxList = 8 << 20
	// maxLists is how often a list may be compressed.
	maxLists = 4
	// maxSteps bounds the steps of a folder.
	maxSteps = 32
)

var errList = errors.New("a list of files that cannot be followed")

// sevenZipMembers calls fn for the list of files, with their names in UTF-16, and for each folder.
// A list that cannot be followed counts as what cannot be read, where the mark has proved to be
// one.
func sevenZipMembers(data []byte, fn memberFunc) error {
	const header = 32
	le := binary.LittleEndian
	if len(data) < header || crc32.ChecksumIEEE(data[12:header]) != le.Uint32(data[8:]) {
		return nil
	}
	at, size, content := le.Uint64(data[12:]), le.Uint64(data[20:]), data[header:]
	if size == 0 {
		return nil
	}
	if at > uint64(len(content)) || size > uint64(len(content))-at {
		return fn("", truncatedSevenZip(content))
	}
	list := content[at : at+size]
	for range maxLists {
		p := &listing{rest: list}
		kind := p.byte()
		folders := p.folders(kind)
		if p.bad {
			return fn("", unreadable)
		}
		if kind == idHeader {
			if err := fn("", func(*run) ([]byte, error) { return list, nil }); err != nil {
				return err
			}
			for _, f := range folders {
				if err := f.members(content, fn); err != nil {
					return err
				}
			}
			return nil
		}
		if len(folders) != 1 || len(folders[0].steps) != 1 {
			return fn("", unreadable)
		}
		next, err := folders[0].list(content)
		if err != nil {
			return fn("", unreadable)
		}
		list = next
	}
	return fn("", unreadable)
}

// truncatedSevenZip reads the first folder of an archive whose list is missing, as 7-Zip codes it
// unless it was asked for something else.
func truncatedSevenZip(content []byte) memberReader {
	return unpacked(models, func(room unpack.Room) (out []byte, err error) {
		if len(content) > 0 && content[0] == 0 {
			out, err = unpack.LZMA([]byte{usual, 0, 0, 0, 0}, content, -1, 0, room)
		} else {
			out, err = unpack.LZMA2(content, 0, room)
		}
		if err == nil || errors.Is(err, unpack.ErrCorrupt) || errors.Is(err, unpack.ErrUnknown) {
			err = io.ErrUnexpectedEOF
		}
		return out, err
	})
}

// Properties of a list.
const (
	idEnd, idHeader, idArchive, idAdditional, idStreams, idPack, idUnpack, idSize, idDigest, idFolder, idUnpackSize, idEncoded = 0, 1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 0x17
)

// listing reads a list of files. Once it is bad all that it gives is zero.
type listing struct {
	rest []byte
	bad  bool
}

func (p *listing) next(n uint64) []byte {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *listing) byte() byte {
	if b := p.next(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (p *listing) want(id byte) {
	if p.byte() != id {
		p.bad = true
	}
}

// number is written like UTF-8: the first byte says how many follow.
func (p *listing) number() (value uint64) {
	first, mask := p.byte(), byte(0x80)
	for i := range 8 {
		if first&mask == 0 {
			return value + uint64(first&(mask-1))<<(8*i)
		}
		value |= uint64(p.byte()) << (8 * i)
		mask >>= 1
	}
	return value
}

// count is a number that cannot be larger than most.
func (p *listing) count(most int) int {
	n := p.number()
	if n > uint64(most) {
		p.bad = true
		return 0
	}
	return int(n)
}

// digests passes over those of n streams.
func (p *listing) digests(n int) {
	defined := n
	if p.byte() == 0 {
		defined = 0
		for _, b := range p.next(uint64(n+7) / 8) {
			for ; b != 0; b &= b - 1 {
				defined++
			}
		}
	}
	p.next(4 * uint64(defined))
}

// step is how a folder is coded: a method, and what it needs to know.
type step struct {
	method  string
	props   []byte
	in, out int // how many streams it takes and gives
	size    uint64
}

// folder has steps; packed are the stretches of the archive that its unbound inputs take, by the
// number of the input.
type folder struct {
	steps  []step
	bound  map[int]bool
	inputs []int
	packed map[int][2]uint64 // from, to
}

// folders reads the streams of a list.
func (p *listing) folders(kind byte) (all []folder) {
	if kind == idHeader {
		id := p.byte()
		if id == idArchive {
			for p.byte() != idEnd && !p.bad {
				p.next(p.number())
			}
			id = p.byte()
		}
		if id == idEnd || id == 5 { // files without content
			return nil
		}
		if id != idStreams {
			p.bad = true
		}
	} else if kind != idEncoded {
		p.bad = true
	}
	p.want(idPack)
	at, sizes := p.number(), make([]uint64, p.count(maxMembers))
	p.want(idSize)
	for i := range sizes {
		sizes[i] = p.number()
	}
	id := p.byte()
	if id == idDigest {
		p.digests(len(sizes))
		id = p.byte()
	}
	if id != idEnd {
		p.bad = true
	}
	p.want(idUnpack)
	p.want(idFolder)
	all = make([]folder, p.count(maxMembers))
	p.want(0) // the folders are here
	for i := range all {
		if all[i] = p.folder(); p.bad {
			return nil
		}
		for _, in := range all[i].inputs {
			if len(sizes) == 0 || at+sizes[0] < at {
				p.bad = true
				return nil
			}
			all[i].packed[in] = [2]uint64{at, at + sizes[0]}
			at, sizes = at+sizes[0], sizes[1:]
		}
	}
	p.want(idUnpackSize)
	for i := range all {
		for j := range all[i].steps {
			for k := range all[i].steps[j].out {
				if n := p.number(); k == 0 {
					all[i].steps[j].size = n
				}
			}
		}
	}
	return all
}

func (p *listing) folder() folder {
	f := folder{bound: map[int]bool{}, packed: map[int][2]uint64{}}
	ins, outs := 0, 0
	for range p.count(maxSteps) {
		flags := p.byte()
		s := step{method: string(p.next(uint64(flags & 15))), in: 1, out: 1}
		if flags&0x10 != 0 {
			s.in, s.out = p.count(maxSteps), p.count(maxSteps)
		}
		if flags&0x20 != 0 {
			s.props = p.next(p.number())
		}
		if flags&0xc0 != 0 {
			p.bad = true
		}
		ins, outs = ins+s.in, outs+s.out
		f.steps = append(f.steps, s)
	}
	for range max(0, outs-1) {
		f.bound[p.count(ins)] = true
		p.number()
	}
	switch n := ins - max(0, outs-1); {
	case n < 1:
		p.bad = true
	case n == 1:
		for in := range ins {
			if !f.bound[in] {
				f.inputs = append(f.inputs, in)
			}
		}
	default:
		for range n {
			f.inputs = append(f.inputs, p.count(ins))
		}
	}
	return f
}

// Methods of steps (Methods.txt).
const (
	sevenCopy    = "\x00"
	sevenLZMA    = "\x03\x01\x01"
	sevenLZMA2   = "\x21"
	sevenDelta   = "\x03"
	sevenDeflate = "\x04\x01\x08"
	sevenBzip2   = "\x04\x02\x02"
	sevenZstd    = "\x04\xf7\x11\x01"
)

// codeFilters change addresses in the code of x86 and ARM, and no ASCII. The streams beside the
// first that one of them takes hold such addresses.
var codeFilters = map[string]bool{"\x03\x03\x01\x03": true, "\x03\x03\x01\x1b": true, "\x03\x03\x05\x01": true, "\x03\x03\x07\x01": true, "\x04": true, "\x07": true, "\x08": true, "\x0a": true}

// list is a list of files that was compressed.
func (f folder) list(content []byte) ([]byte, error) {
	packed, ok := f.stretch(content, 0)
	if !ok || f.steps[0].size > maxList {
		return nil, errList
	}
	room := func(n int) (int, error) {
		if n > maxList {
			return 0, errList
		}
		return maxList, nil
	}
	switch s := f.steps[0]; {
	case s.method == sevenCopy:
		return packed, nil
	case s.method == sevenLZMA && len(s.props) == 5:
		return unpack.LZMA(s.props, packed, int64(s.size), 0, room)
	case s.method == sevenLZMA2:
		return unpack.LZMA2(packed, 0, room)
	}
	return nil, errList
}

// stretch is what an input takes of the archive.
func (f folder) stretch(content []byte, in int) ([]byte, bool) {
	at, ok := f.packed[in]
	if !ok || at[1] > uint64(len(content)) {
		return nil, false
	}
	return content[at[0]:at[1]], true
}

// members calls fn for what each step gives that takes a stretch of the archive, and once more when
// there is something that cannot be read: an unknown method, encryption, or a step upon another one
// that both compress.
func (f folder) members(content []byte, fn memberFunc) error {
	delta, whole := f.delta()
	in := 0
	for _, s := range f.steps {
		first := in
		in += s.in
		if codeFilters[s.method] || s.method == sevenDelta {
			continue
		}
		packed, ok := f.stretch(content, first)
		inside := s.contents(packed, delta)
		if !ok || s.in != 1 || inside == nil {
			whole = false
			continue
		}
		if err := fn("", inside); err != nil {
			return err
		}
	}
	if !whole {
		return fn("", unreadable)
	}
	return nil
}

// delta is the distance of a filter over the only other step; whole is false where there are more.
func (f folder) delta() (distance int, whole bool) {
	for _, s := range f.steps {
		if s.method == sevenDelta {
			if len(s.props) != 1 || len(f.steps) != 2 {
				return 0, false
			}
			distance = int(s.props[0]) + 1
		}
	}
	return distance, true
}

// contents returns the output of a step; nil: unsupported.
func (s step) contents(packed []byte, delta int) memberReader {
	switch {
	case s.method == sevenLZMA && len(s.props) == 5 && s.size < 1<<62:
		return unpacked(modelsOf(s.props[0]), func(room unpack.Room) ([]byte, error) {
			return unpack.LZMA(s.props, packed, int64(s.size), delta, room)
		})
	case s.method == sevenLZMA2:
		return unpacked(models, func(room unpack.Room) ([]byte, error) { return unpack.LZMA2(packed, delta, room) })
	case delta != 0:
		return nil
	case s.method == sevenCopy:
		return streamed(bytes.NewReader(packed))
	case s.method == sevenDeflate:
		return streamed(flate.NewReader(bytes.NewReader(packed)))
	case s.method == sevenBzip2:
		return withCost(largeDecoder, bzip2Body(packed))
	case s.method == sevenZstd:
		return withCost(largeDecoder, zstdBody(packed))
	}
	return nil
}
