package secrets

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"airlock/internal/inflate"
	"airlock/internal/unpack"
)

// Unreadable is the rule of archives that cannot be read: encrypted ones, and those in an
// unsupported format.
const Unreadable = "unreadable-archive"

// Says is what a finding by a rule is called in a sentence.
func Says(rule string) string {
	if rule == Unreadable {
		return "an archive that cannot be read (" + rule + ")"
	}
	return "what looks like a secret (" + rule + ")"
}

// archive scans what data holds when it is an archive, to depth, and returns the rules that were
// hit. What only looks like one is no archive: its raw bytes have been seen already.
func (r *run) archive(data []byte, depth int) ([]inner, error) {
	if r.scanner.opts.ArchiveDepth == 0 {
		return nil, nil
	}
	var found []inner
	err := members(data, true, r.member(&found, data, depth))
	return found, err
}

// inner is a rule that matched inside an archive, and the member: a path, with "!" before a file of
// a further archive. The member is empty where its name may hold the secret, or where it has none.
type inner struct{ rule, member string }

// maxMember bounds the name of a member in a finding, in bytes.
const maxMember = 200

// printableName is a member's name for a finding: empty unless it is printable ASCII and short.
func printableName(name string) string {
	name, _, _ = strings.Cut(name, "\n") // after it comes a link's target or a comment
	if len(name) > maxMember || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' }) {
		return ""
	}
	return name
}

// memberPath is the path of a member of a member.
func memberPath(outer, member string) string {
	if outer == "" || member == "" || len(outer)+len(member) > maxMember {
		return outer + member
	}
	return outer + "!" + member
}

// member scans the name and the content of a file in data, and adds what was found.
func (r *run) member(found *[]inner, data []byte, depth int) memberFunc {
	return func(name string, content memberReader) error {
		if depth == 0 {
			inner, _, err := r.inflate(content)
			r.nested = r.nested || !bytes.Contains(data, inner) // what is stored as it is has been seen
			return err
		}
		text, unreadable, err := r.inflate(content)
		if err != nil {
			return err
		}
		if unreadable {
			*found = append(*found, inner{Unreadable, printableName(name)})
		}
		shown := printableName(name)
		for _, part := range [][]byte{[]byte(name), text} {
			spans, err := r.scan(part, depth-1)
			if err != nil {
				return err
			}
			if len(spans) > 0 && len(part) == len(name) && string(part) == name {
				shown = ""
			}
			for _, s := range spans {
				*found = append(*found, inner{s.rule, memberPath(shown, s.member)})
			}
		}
		return nil
	}
}

// inflate reads one member within the budget, and reports whether something in it cannot be read. A
// truncated member gives what could be read, and leaves the run open.
func (r *run) inflate(content memberReader) (inner []byte, unreadable bool, err error) {
	inner, broken := content(r)
	r.open = r.open || errors.Is(broken, io.ErrUnexpectedEOF)
	if int64(len(inner)) > r.budget || errors.Is(broken, ErrTooLarge) {
		return nil, false, ErrTooLarge
	}
	r.budget -= int64(len(inner))
	r.viewBudget += viewFactor * len(inner)
	r.chargesLeft += len(inner) / bytesPerCharge
	return inner, errors.Is(broken, unpack.ErrUnknown), r.ctx.Err()
}

// memberReader returns the content of a member, up to a byte more than the budget of the run, or
// ErrTooLarge. Any other error is about the data, of which there is what could be read.
type memberReader func(r *run) ([]byte, error)

// streamed reads the output of a decoder.
func streamed(from io.Reader) memberReader {
	return func(r *run) ([]byte, error) {
		inner, broken := io.ReadAll(io.LimitReader(from, min(r.budget+1, smallMember)))
		if len(inner) == smallMember {
			if err := r.reserve(); err != nil {
				return nil, err
			}
			rest := io.LimitReader(from, r.budget+1-smallMember)
			inner, broken = io.ReadAll(io.MultiReader(bytes.NewReader(inner), rest)) // grown once, not joined
		}
		return inner, broken
	}
}

// largeDecoder is the cost of a decoder that needs megabytes for itself, in files of a zip.
const largeDecoder = 256

// largeStream reads a stream whose decoder needs megabytes for itself.
func largeStream(open func() (io.ReadCloser, error)) memberReader {
	return func(r *run) ([]byte, error) {
		if err := r.reserve(); err != nil {
			return nil, err
		}
		from, err := open()
		if err != nil {
			return nil, nil
		}
		defer from.Close()
		return streamed(from)(r)
	}
}

// withCost charges the run before it reads a member; cost is in files of a zip.
func withCost(cost int, content memberReader) memberReader {
	return func(r *run) ([]byte, error) {
		if !r.charge(cost) {
			return nil, nil
		}
		return content(r)
	}
}

// unpacked reads with package unpack, whose models have that cost.
func unpacked(models int, read func(unpack.Room) ([]byte, error)) memberReader {
	return withCost(models, func(r *run) ([]byte, error) { return read(r.room) })
}

// room lets a member grow to the budget of the run.
func (r *run) room(n int) (most int, err error) {
	switch {
	case int64(n) > r.budget:
		return 0, ErrTooLarge
	case n <= smallMember:
		return int(min(smallMember, r.budget)), nil
	}
	return int(r.budget), r.reserve()
}

// unreadable is the memberReader of what cannot be read.
func unreadable(*run) ([]byte, error) { return nil, unpack.ErrUnknown }

const (
	// smallMember is up to which length a member is inflated at once.
	smallMember = 1 << 20
	// manyInflate is how many scans may inflate more at the same time: each may take MaxInflate,
	// and again while it grows.
	manyInflate = 2
)

var inflating = semaphore.NewWeighted(manyInflate)

// reserve waits until this scan may inflate much. It may until it ends.
func (r *run) reserve() error {
	if r.reserved {
		return nil
	}
	if err := inflating.Acquire(r.ctx, 1); err != nil {
		return err
	}
	r.reserved = true
	return nil
}

// release lets another scan inflate.
func (r *run) release() {
	if r.reserved {
		inflating.Release(1)
	}
}

type memberFunc func(name string, content memberReader) error

// maxMembers bounds the files of one archive.
const maxMembers = 10_000

// packing is a form of compression that package unpack reads.
type packing struct {
	mark string
	read func(data []byte, all bool, room unpack.Room) ([]byte, error)
}

var packings = []packing{{unpack.MarkXZ, unpack.XZ}, {unpack.MarkLzip + "\x01", unpack.Lzip}, {unpack.MarkLZ4, unpack.LZ4}, {unpack.MarkLZ4Old, unpack.LZ4}}

// models is what the smallest models of LZMA cost, in files of a zip; bytesPerModel is how many
// bytes of them cost one.
const (
	models        = 8
	bytesPerModel = 4 << 10
)

// members calls fn for each file in data; of consecutive streams it reads all as one, or the first
// alone. It returns only errors of fn.
func members(data []byte, all bool, fn memberFunc) error {
	for _, p := range packings {
		if bytes.HasPrefix(data, []byte(p.mark)) {
			return fn("", unpacked(models, func(room unpack.Room) ([]byte, error) { return p.read(data, all, room) }))
		}
	}
	switch {
	case bytes.HasPrefix(data, []byte(localHeader)) && !all:
		return localFile(data, fn)
	case bytes.HasPrefix(data, []byte(localHeader)):
		return zipMembers(data, fn)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return gzipMember(data, all, fn)
	case bytes.HasPrefix(data, []byte("BZh")):
		return fn("", bzip2Body(data))
	case bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")):
		return fn("", zstdBody(data))
	case bytes.HasPrefix(data, []byte(sevenZip)):
		return sevenZipMembers(data, fn)
	case bytes.HasPrefix(data, []byte(rar)):
		if isRar(data) {
			return fn("", unreadable)
		}
		return nil
	case len(data) > 512 && bytes.HasPrefix(data[257:], []byte("ustar")):
		return tarMembers(data, fn)
	}
	if unpack.IsAlone(data) && (data[0] == usual || beginsAlone(data)) {
		return fn("", unpacked(modelsOf(data[0]), func(room unpack.Room) ([]byte, error) { return unpack.Alone(data, room) }))
	}
	if opaque(data) {
		return bareMember(data, fn)
	}
	return nil
}

func bzip2Body(data []byte) memberReader {
	return largeStream(func() (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(bytes.NewReader(data))), nil })
}

func zstdBody(data []byte) memberReader {
	return largeStream(func() (io.ReadCloser, error) {
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	})
}

// usual is the byte that LZMA alone begins with unless it was asked for other models (lc 3, lp 0,
// pb 2).
const usual = ']'

// maxModels bounds the models with which a beginning is tried: more than xz itself takes.
const maxModels = 64 << 10

// beginsAlone reports whether what may be LZMA alone begins with text.
func beginsAlone(data []byte) bool {
	if unpack.Models(data[0]) > maxModels {
		return false
	}
	begin, _ := unpack.Alone(data[:min(len(data), maxBegin)], func(n int) (int, error) {
		if n > 4*minBare {
			return 0, ErrTooLarge
		}
		return 4 * minBare, nil
	})
	return beginsWithText(begin)
}

// rar is the mark of RAR archives, which are not supported.
const rar = "Rar!\x1a\x07"

// isRar reports whether the first header of an archive is valid: programs that read such archives
// contain the mark, too.
func isRar(data []byte) bool {
	const old, now = len(rar) + 1, len(rar) + 2
	switch {
	case len(data) > old+7 && data[old-1] == 0: // HEAD_CRC, HEAD_TYPE, HEAD_FLAGS, HEAD_SIZE
		return data[old+2] == 0x73 && binary.LittleEndian.Uint16(data[old+5:]) == 13
	case len(data) > now+5 && string(data[now-2:now]) == "\x01\x00": // CRC32 of what follows, its size
		size := int(data[now+4])
		return size < 0x80 && now+5+size <= len(data) && crc32.ChecksumIEEE(data[now+4:now+5+size]) == binary.LittleEndian.Uint32(data[now:])
	}
	return false
}

// minBare is how much of what has no mark of its own must be text for it to be taken for
// compressed, in bytes.
const minBare = 16

// bareMember tries what bears no mark, or too short a one: deflate (RFC 1951), alone or as zlib
// writes it, and brotli (RFC 7932).
func bareMember(data []byte, fn memberFunc) error {
	body := data
	if len(data) > 2 && data[0]&0x0f == 8 && (int(data[0])<<8|int(data[1]))%31 == 0 { // zlib's header (RFC 1950 §2.2)
		body = data[2:]
	}
	var begin [4 * minBare]byte
	for _, coding := range []string{"deflate", "br"} {
		if coding == "br" {
			body = data
		}
		if !beginsWithText(begin[:inflate.Begin(coding, body, begin[:])]) {
			continue
		}
		r, err := inflate.New([]string{coding}, bytes.NewReader(data))
		if err != nil {
			continue
		}
		if err := fn("", streamed(r)); err != nil {
			return err
		}
	}
	return nil
}

// beginsWithText reports whether the output of a decompressor begins with text.
func beginsWithText(begin []byte) bool {
	if len(begin) < minBare {
		return false
	}
	for _, c := range begin {
		if !printable(c) && c != 0 && c < 0x80 {
			return false
		}
	}
	return readable(begin)
}

// opaque reports whether data begins with bytes that no text has.
func opaque(data []byte) bool {
	if len(data) < minBare/2 {
		return false
	}
	return !utf8.Valid(data[:min(len(data), 256)&^3]) || bytes.ContainsFunc(data[:min(len(data), 64)], func(c rune) bool { return c < ' ' && !printable(byte(c)) })
}

// gzips are used again: many that are tried are none.
var gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// gzipMember reads one member, or several consecutive ones (RFC 1952 §2.2) as one.
func gzipMember(data []byte, all bool, fn memberFunc) error {
	z := gzips.Get().(*gzip.Reader)
	defer gzips.Put(z)
	if z.Reset(bytes.NewReader(data)) != nil {
		return nil
	}
	z.Multistream(all)
	return fn(z.Name+"\n"+z.Comment, streamed(z))
}

func tarMembers(data []byte, fn memberFunc) error {
	t := tar.NewReader(bytes.NewReader(data))
	for range maxMembers {
		h, err := t.Next()
		if errors.Is(err, io.EOF) || err != nil {
			return nil
		}
		if err := fn(h.Name+"\n"+h.Linkname, streamed(t)); err != nil {
			return err
		}
	}
	return ErrTooLarge
}
