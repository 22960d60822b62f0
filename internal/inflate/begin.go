package inflate

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
)

// Begin fills p with what data begins with when it is taken for raw deflate (RFC 1951) or for brotli (RFC 7932), which bear no mark, and returns
// how much there is before the first error.
func Begin(coding string, data, p []byte) (n int) {
	switch coding {
	case "deflate":
		z := deflaters.Get().(io.Reader)
		defer deflaters.Put(z)
		if z.(flate.Resetter).Reset(bytes.NewReader(data), nil) == nil {
			n, _ = io.ReadFull(z, p)
		}
	case "br": // its Reset keeps what the stream before has left over
		n, _ = io.ReadFull(brotli.NewReader(bytes.NewReader(data)), p)
	}
	return n
}

var deflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}
