package secrets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"airlock/internal/inflate"
)

// archive scans what data holds when it is an archive, to depth, and returns the rules that were hit. What only looks
// like one is no archive: its raw bytes have been seen already.
func (r *run) archive(data []byte, depth int) ([]string, error) {
	if r.scanner.opts.ArchiveDepth == 0 {
		return nil, nil
	}
	if bytes.HasPrefix(data, []byte("BZh")) || bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")) {
		if err := r.reserve(); err != nil { // their decoders alone are large
			return nil, err
		}
	}
	var rules []string
	err := members(data, r.member(&rules, depth))
	return rules, err
}

// member scans the name and the content of a file, and adds the rules that were hit.
func (r *run) member(rules *[]string, depth int) memberFunc {
	return func(name string, body io.Reader) error {
		if depth == 0 {
			r.nested = true
			return nil
		}
		inner, err := r.inflate(body)
		if err != nil {
			return err
		}
		for _, part := range [][]byte{[]byte(name), inner} {
			spans, err := r.scan(part, depth-1)
			if err != nil {
				return err
			}
			for _, s := range spans {
				*rules = append(*rules, s.rule)
			}
		}
		return nil
	}
}

// inflate reads one member within the budget. A member that breaks off gives what it had, and leaves the run open.
func (r *run) inflate(body io.Reader) ([]byte, error) {
	inner, broken := io.ReadAll(io.LimitReader(body, min(r.budget+1, smallMember)))
	if len(inner) == smallMember {
		if err := r.reserve(); err != nil {
			return nil, err
		}
		rest := io.LimitReader(body, r.budget+1-smallMember)
		inner, broken = io.ReadAll(io.MultiReader(bytes.NewReader(inner), rest)) // grown once, not joined
	}
	r.open = r.open || errors.Is(broken, io.ErrUnexpectedEOF)
	if int64(len(inner)) > r.budget {
		return nil, ErrTooLarge
	}
	r.budget -= int64(len(inner))
	r.unfold += maxUnfold * len(inner)
	r.tries += len(inner) / bytesPerTry
	return inner, r.ctx.Err()
}

const (
	// smallMember is up to which length a member is inflated at once.
	smallMember = 1 << 20
	// manyInflate is how many scans may inflate more at the same time: each may take MaxInflate, and again while it grows.
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

type memberFunc func(name string, body io.Reader) error

// maxMembers bounds the files of one archive.
const maxMembers = 10_000

// members calls fn for each file in data. Its own errors are fn's alone.
func members(data []byte, fn memberFunc) error {
	switch {
	case bytes.HasPrefix(data, []byte(localHeader)):
		return zipMembers(data, fn)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return gzipMember(data, true, fn)
	case bytes.HasPrefix(data, []byte("BZh")):
		return fn("", bzip2.NewReader(bytes.NewReader(data)))
	case bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")):
		return zstdMember(data, fn)
	case len(data) > 512 && bytes.HasPrefix(data[257:], []byte("ustar")):
		return tarMembers(data, fn)
	case opaque(data):
		return bareMember(data, fn)
	}
	return nil
}

// minBare is how much of what has no mark of its own must be text for it to be taken for compressed, in bytes.
const minBare = 16

// bareMember tries what bears no mark, or too short a one: deflate (RFC 1951), alone or as zlib writes it, and brotli (RFC 7932).
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
		if !promising(begin[:inflate.Begin(coding, body, begin[:])]) {
			continue
		}
		r, err := inflate.New([]string{coding}, bytes.NewReader(data))
		if err != nil {
			continue
		}
		if err := fn("", r); err != nil {
			return err
		}
	}
	return nil
}

// promising tells whether what a decompressor gives begins with text.
func promising(begin []byte) bool {
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

// opaque tells whether data begins with what stands in no text.
func opaque(data []byte) bool {
	if len(data) < minBare/2 {
		return false
	}
	return !utf8.Valid(data[:min(len(data), 256)&^3]) || bytes.ContainsFunc(data[:min(len(data), 64)], func(c rune) bool { return c < ' ' && !printable(byte(c)) })
}

// gzips are used again: many that are tried are none.
var gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// gzipMember reads one member, or several behind each other (RFC 1952 §2.2) as what they are together.
func gzipMember(data []byte, all bool, fn memberFunc) error {
	z := gzips.Get().(*gzip.Reader)
	defer gzips.Put(z)
	if z.Reset(bytes.NewReader(data)) != nil {
		return nil
	}
	z.Multistream(all)
	return fn(z.Name+"\n"+z.Comment, z)
}

func zstdMember(data []byte, fn memberFunc) error {
	z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil
	}
	defer z.Close()
	return fn("", z)
}

func zipMembers(data []byte, fn memberFunc) error {
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil { // its list of files is missing
		return localFiles(data, fn)
	}
	if len(z.File) > maxMembers {
		return ErrTooLarge
	}
	for _, f := range z.File {
		body, err := f.Open()
		if err != nil {
			continue // a method that nobody here knows
		}
		err = fn(f.Name+"\n"+f.Comment, body)
		body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// localHeader is how each file of a zip begins.
const localHeader = "PK\x03\x04"

// localFiles reads the files of a zip that was cut off.
func localFiles(data []byte, fn memberFunc) error {
	for n := 0; n < maxMembers; n++ {
		i := bytes.Index(data, []byte(localHeader))
		if i < 0 {
			return nil
		}
		if err := localFile(data[i:], fn); err != nil {
			return err
		}
		data = data[i+len(localHeader):]
	}
	return ErrTooLarge
}

// localFile is the first file of a zip, as its own header has it (APPNOTE.TXT §4.3.7).
func localFile(data []byte, fn memberFunc) error {
	const header, deflated = 30, 8
	if len(data) < header {
		return nil
	}
	le := binary.LittleEndian
	name, start := header+int(le.Uint16(data[26:])), header+int(le.Uint16(data[26:]))+int(le.Uint16(data[28:]))
	if le.Uint16(data[8:]) != deflated || start > len(data) { // what is only stored has been seen
		return nil
	}
	return fn(string(data[header:name]), flate.NewReader(bytes.NewReader(data[start:])))
}

func tarMembers(data []byte, fn memberFunc) error {
	t := tar.NewReader(bytes.NewReader(data))
	for range maxMembers {
		h, err := t.Next()
		if errors.Is(err, io.EOF) || err != nil {
			return nil
		}
		if err := fn(h.Name+"\n"+h.Linkname, t); err != nil {
			return err
		}
	}
	return ErrTooLarge
}
