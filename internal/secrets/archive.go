package secrets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"
)

// archive scans what data holds when it is an archive, to depth, and returns the rules that were hit. What only looks
// like one is no archive: its raw bytes have been seen already.
func (r *run) archive(data []byte, depth int) ([]string, error) {
	if depth == 0 {
		return nil, nil
	}
	if bytes.HasPrefix(data, []byte("BZh")) || bytes.HasPrefix(data, []byte("\x28\xb5\x2f\xfd")) {
		if err := r.reserve(); err != nil { // their decoders alone are large
			return nil, err
		}
	}
	var rules []string
	err := members(data, func(name string, body io.Reader) error {
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
	}
	return nil
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
