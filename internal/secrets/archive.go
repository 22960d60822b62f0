package secrets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"strings"
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
	err := members(data, func(name string, body io.Reader) error {
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
				rules = append(rules, s.rule)
			}
		}
		return nil
	})
	return rules, err
}

// inflate reads one member within the budget. A member that breaks off gives what it had.
func (r *run) inflate(body io.Reader) ([]byte, error) {
	inner, _ := io.ReadAll(io.LimitReader(body, min(r.budget+1, smallMember)))
	if len(inner) == smallMember {
		if err := r.reserve(); err != nil {
			return nil, err
		}
		rest := io.LimitReader(body, r.budget+1-smallMember)
		inner, _ = io.ReadAll(io.MultiReader(bytes.NewReader(inner), rest)) // grown once, not joined
	}
	if int64(len(inner)) > r.budget {
		return nil, ErrTooLarge
	}
	r.budget -= int64(len(inner))
	r.unfold += maxUnfold * len(inner)
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
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return zipMembers(data, fn)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil {
			return fn(z.Name, z)
		}
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

// packed looks into what a text has of archives and compressed data, in base64, hex or as they are. What an image has inside is left alone.
func (r *run) packed(in sight, runs []stretch, archives int) (spans []span, err error) {
	text := in.text
	if r.scanner.opts.ArchiveDepth == 0 {
		return nil, nil
	}
	add := func(s stretch, data []byte) {
		rules, e := r.archive(data, archives)
		err = errors.Join(err, e)
		for _, rule := range rules {
			spans = append(spans, span{rule, s.start, s.end})
		}
	}
	for _, s := range runs {
		if !in.fresh(s.start, s.end) {
			continue
		}
		for shift := range min(4, s.end-s.start-minRun+1) {
			if body := text[s.start+shift : s.end]; marked64(body) || shift == 0 && len(body) > minPacked && diverse(body) && !goesOn(text, s.end) {
				if head := base64Code.decode(body[:min(len(body), 64)]); marked(head) || shift == 0 && opaque(head) {
					add(s, base64Code.decode(body))
				}
			}
		}
	}
	for _, s := range inside(text, runs, isHex, minHex) {
		if head := hexCode.decode(text[s.start : s.start+minHex]); marked(head) && in.fresh(s.start, s.end) {
			add(s, hexCode.decode(text[s.start:s.end]))
		}
	}
	for at, n := 0, 0; n < maxMarks; n++ {
		i := strings.Index(text[at:], "\x1f\x8b\x08")
		if i < 0 {
			break
		}
		if at += i; at > 0 && in.fresh(at, at+3) { // at the very beginning it has been opened
			add(stretch{at, len(text)}, []byte(text[at:]))
		}
		at++
	}
	return spans, err
}

const (
	// minPacked is the shortest base64 that may be something compressed without a mark, in characters.
	minPacked = 40
	// maxMarks bounds the places of one text at which something compressed is looked for.
	maxMarks = 64
)

// goesOn tells whether a run is a line of something that was wrapped: that is tried as a whole, when it has been joined.
func goesOn(text string, end int) bool {
	rest := strings.TrimLeft(text[end:min(len(text), end+4)], "\r")
	return len(rest) > 1 && rest[0] == '\n' && class[rest[1]]&isB64 != 0
}

// diverse tells whether a run changes between cases and digits as often as base64 of compressed data.
func diverse(text string) bool {
	changes := 0
	for i := 1; i < minPacked; i++ {
		if kinds[text[i]] != kinds[text[i-1]] {
			changes++
		}
	}
	return changes*4 >= minPacked
}

// marks are how data that members opens begins.
var marks = []string{"PK\x03\x04", "\x1f\x8b\x08", "BZh", "\x28\xb5\x2f\xfd", "\x78\x01", "\x78\x5e", "\x78\x9c", "\x78\xda"}

func marked(data []byte) bool {
	return slices.ContainsFunc(marks, func(m string) bool { return bytes.HasPrefix(data, []byte(m)) })
}

// marked64 looks at the first characters of base64 whether it can begin with a mark.
func marked64(text string) bool {
	switch text[:2] {
	case "UE", "H4", "Ql", "KL", "eA", "eF", "eJ", "eN":
		return true
	}
	return false
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
	if err != nil {
		return nil
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
