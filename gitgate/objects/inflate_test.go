package objects

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func deflated(t testing.TB, level int, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, level)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// samples are texts of all kinds of redundancy.
func samples() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	skewed := make([]byte, 300_000)
	for i := range skewed {
		skewed[i] = byte(r.ExpFloat64() * 12)
	}
	var words strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&words, "line %d of %x\n", i, r.Uint32N(1<<r.UintN(31)))
	}
	return map[string][]byte{
		"empty": {}, "one": {'x'}, "zeros": make([]byte, 100_000), "noise": noise, "skewed": skewed, "words": []byte(words.String()), "short": []byte("tree of a few words, a few words"),
		"pairs": []byte(strings.Repeat("ab", 5000)), "threes": []byte(strings.Repeat("abc", 5000)),
	}
}

// Whatever a compressor makes of a text comes back, and every stream that is cut asks for more.
func TestInflate(t *testing.T) {
	z := &flate{}
	for name, data := range samples() {
		for level := zlib.HuffmanOnly; level <= 9; level++ {
			packed := deflated(t, level, data)
			got := make([]byte, len(data))
			n, err := z.inflate(got, append(bytes.Clone(packed), "what follows"...))
			if err != nil || n != len(packed) || !bytes.Equal(got, data) {
				t.Fatalf("%s, level %d: %d of %d bytes, %v", name, level, n, len(packed), err)
			}
			for cut := 0; cut < len(packed); cut += max(1, len(packed)/12) {
				if _, err := z.inflate(got, packed[:cut]); !errors.Is(err, errShort) {
					t.Fatalf("%s, level %d, cut at %d of %d: %v", name, level, cut, len(packed), err)
				}
			}
			if _, err := z.inflate(make([]byte, len(data)+1), packed); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, level %d: one byte more: %v", name, level, err)
			}
			if len(data) > 0 {
				if _, err := z.inflate(make([]byte, len(data)-1), packed); !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, level %d: one byte less: %v", name, level, err)
				}
			}
			packed[len(packed)-1] ^= 1
			if _, err := z.inflate(got, packed); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, level %d: another checksum: %v", name, level, err)
			}
		}
	}
}

// FuzzInflate compares with the standard library: what it takes is taken with the same outcome, and nothing else.
func FuzzInflate(f *testing.F) {
	for _, data := range samples() {
		for _, level := range []int{0, 1, 6, zlib.HuffmanOnly} {
			if packed := deflated(f, level, data[:min(len(data), 3000)]); len(packed) < 4000 {
				f.Add(packed)
			}
		}
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		in := bytes.NewReader(packed)
		r, err := zlib.NewReader(in)
		var want []byte
		if err == nil {
			want, err = io.ReadAll(io.LimitReader(r, 1<<20))
		}
		if len(want) == 1<<20 {
			return
		}
		got := make([]byte, len(want))
		n, gotErr := new(flate).inflate(got, packed)
		if err == nil && gotErr == nil {
			if !bytes.Equal(got, want) || n != len(packed)-in.Len() {
				t.Fatalf("%d bytes for %d, %d read for %d", len(got), len(want), n, len(packed)-in.Len())
			}
			return
		}
		if err != nil && gotErr == nil {
			t.Fatalf("%v, and it is taken", err)
		}
		if err == nil && !refusedByZlib(gotErr) {
			t.Fatalf("it is right, and %v", gotErr)
		}
	})
}

// refusedByZlib is for streams that Go takes and zlib does not, as does this: too many symbols, no end of a block, codes that leave room.
func refusedByZlib(err error) bool { return errors.Is(err, errDeflate) }

func BenchmarkInflate(b *testing.B) {
	for _, name := range []string{"words", "skewed", "short"} {
		data := samples()[name]
		packed := deflated(b, 6, data)
		out := make([]byte, len(data))
		b.Run(name+"/ours", func(b *testing.B) {
			z := &flate{}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := z.inflate(out, packed); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/klauspost", func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				z, err := inflater(bytes.NewReader(packed))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(z, out); err != nil {
					b.Fatal(err)
				}
				inflaters.Put(z)
			}
		})
	}
}
