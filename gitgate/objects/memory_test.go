package objects

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"

	"airlock/internal/lab"
)

// grown makes deltas upon an object of zeros: each of them a byte more, in a chain or all upon the first.
func grown(size0, n int, chain bool) []byte {
	r := &raw{}
	z := zlib.NewWriter(&r.buf)
	entry := func(head, data []byte) { // raw's own makes a compressor for each
		r.n++
		r.buf.Write(head)
		z.Reset(&r.buf)
		_, _ = z.Write(data)
		_ = z.Close()
	}
	entry(entryHead(plumbing.BlobObject, int64(size0)), make([]byte, size0))
	base, length := int64(0), int64(size0)
	for i := range n {
		last := byte(i%255 + 1)
		d := append(size(length), size(length+1)...)
		for from := int64(0); from < length; from += 0xffffff {
			part := min(length-from, 0xffffff)
			d = append(d, 0xff, byte(from), byte(from>>8), byte(from>>16), byte(from>>24), byte(part), byte(part>>8), byte(part>>16))
		}
		d = append(d, 1, last)
		at := int64(r.buf.Len())
		entry(append(entryHead(plumbing.OFSDeltaObject, int64(len(d))), backwards(at-base)...), d)
		if chain {
			base, length = at, length+1
		}
	}
	return r.bytes()
}

// However much a small pack makes, and in whatever shape, what is held of it at a time is bounded.
func TestMemoryIsBounded(t *testing.T) {
	for name, pack := range map[string][]byte{"a chain": grown(6<<20, 80, true), "a bush": grown(6<<20, 80, false), "a long chain of small ones": grown(1000, 4000, true)} {
		t.Run(name, func(t *testing.T) {
			if len(pack) > 1<<20 {
				t.Fatalf("the pack has %d bytes", len(pack))
			}
			runtime.GC()
			var before, now runtime.MemStats
			runtime.ReadMemStats(&before)
			ctx, done := context.WithCancel(t.Context())
			sampled := make(chan uint64)
			go func() {
				most := uint64(0)
				for ctx.Err() == nil {
					runtime.ReadMemStats(&now)
					most = max(most, now.HeapInuse)
					time.Sleep(5 * time.Millisecond) // between two samples
				}
				sampled <- most
			}()
			p, err := Receive(t.Context(), bytes.NewReader(pack), t.TempDir(), roomy)
			done()
			most := lab.Receive(t, sampled, "the measurement ends")
			if err != nil {
				t.Fatal(err)
			}
			p.Close()
			if held := int64(most) - int64(before.HeapInuse); held > 150<<20 {
				t.Errorf("%d MB were held", held>>20)
			}
		})
	}
	if _, err := Receive(t.Context(), bytes.NewReader(grown(100, 4200, true)), t.TempDir(), roomy); !errors.Is(err, ErrLimit) {
		t.Errorf("a chain that is too deep: %v", err)
	}
}
