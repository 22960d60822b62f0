// Package inflate undoes the content codings of HTTP (RFC 9110 §8.4.1), one
// or several on top of each other. It bounds what a decoder keeps, not what
// comes out: that is for who reads.
package inflate

import (
	"bufio"
	"compress/flate"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// MaxWindow bounds what one decoder may keep, in bytes (RFC 8878 §3.1.1.1.2
// recommends 8 MiB as what every decoder supports).
const MaxWindow = 8 << 20

// maxLayers bounds how many codings stand on top of each other.
const maxLayers = 4

// ErrUnknown is a coding that cannot be undone.
var ErrUnknown = errors.New("an encoding that is not known")

var decoders = map[string]func(io.Reader) (io.ReadCloser, error){
	"gzip":    unzip,
	"x-gzip":  unzip,
	"deflate": deflated,
	"br":      func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(brotli.NewReader(r)), nil },
	"zstd": func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	},
}

func unzip(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }

// deflated reads what RFC 9110 §8.4.1.2 means, deflate in a zlib stream, and
// what some send instead, deflate alone.
func deflated(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	if head, err := b.Peek(2); err == nil && head[0]&0x0f == 8 && (uint(head[0])<<8|uint(head[1]))%31 == 0 {
		return zlib.NewReader(b)
	}
	return flate.NewReader(b), nil
}

// Codings are the names in Content-Encoding in the order in which they were
// applied, in lower case, without identity.
func Codings(h http.Header) (all []string) {
	for _, list := range h["Content-Encoding"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" && name != "identity" {
				all = append(all, name)
			}
		}
	}
	return all
}

// Known tells whether New can undo the codings.
func Known(codings []string) bool {
	for _, c := range codings {
		if decoders[c] == nil {
			return false
		}
	}
	return len(codings) <= maxLayers
}

// New reads what the codings were applied to.
func New(codings []string, r io.Reader) (io.ReadCloser, error) {
	if !Known(codings) {
		return nil, ErrUnknown
	}
	all := &layers{Reader: r}
	for i := len(codings) - 1; i >= 0; i-- {
		next, err := decoders[codings[i]](all.Reader)
		if err != nil {
			_ = all.Close()
			return nil, err
		}
		all.Reader, all.close = next, append(all.close, next)
	}
	return all, nil
}

// layers are decoders on top of each other.
type layers struct {
	io.Reader
	close []io.Closer
}

// Close gives back what the decoders hold; what they read from stays open.
func (l *layers) Close() error {
	var errs []error
	for _, c := range l.close {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
