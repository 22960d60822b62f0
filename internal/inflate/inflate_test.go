package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

var encoders = map[string]func(io.Writer) io.WriteCloser{
	"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"x-gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
	"zstd": func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w)
		if err != nil {
			panic(err)
		}
		return z
	},
}

func encode(t testing.TB, codings []string, text string) []byte {
	t.Helper()
	data := []byte(text)
	for _, c := range codings {
		var b bytes.Buffer
		w := encoders[c](&b)
		_, err := w.Write(data)
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		data = b.Bytes()
	}
	return data
}

func TestEachCodingAndSeveral(t *testing.T) {
	text := strings.Repeat("hello ", 20_000)
	for _, codings := range [][]string{nil, {"gzip"}, {"x-gzip"}, {"deflate"}, {"br"}, {"zstd"}, {"gzip", "br"}, {"br", "deflate", "zstd", "gzip"}} {
		r, err := New(codings, bytes.NewReader(encode(t, codings, text)))
		if err != nil {
			t.Errorf("%v: %v", codings, err)
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != text || r.Close() != nil {
			t.Errorf("%v: %d bytes, %v", codings, len(got), err)
		}
	}
}

func TestDeflateAlone(t *testing.T) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	if err == nil {
		_, err = io.WriteString(w, "hello hello hello")
	}
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	r, err := New([]string{"deflate"}, &b)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "hello hello hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestWhatIsNotKnown(t *testing.T) {
	for _, codings := range [][]string{{"magic"}, {"gzip", "magic"}, {"gzip", "gzip", "gzip", "gzip", "gzip"}} {
		if _, err := New(codings, strings.NewReader("x")); err != ErrUnknown {
			t.Errorf("%v: %v", codings, err)
		}
	}
	if _, err := New([]string{"gzip"}, strings.NewReader("hello")); err == nil {
		t.Error("what is no gzip is taken for one")
	}
}

func TestCodings(t *testing.T) {
	h := http.Header{"Content-Encoding": {"GZIP, identity", " br "}}
	if got := Codings(h); !slices.Equal(got, []string{"gzip", "br"}) {
		t.Errorf("%q", got)
	}
}

func FuzzNew(f *testing.F) {
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range decoders {
			if !yield(name) {
				return
			}
		}
	})
	for i, name := range names {
		f.Add(uint8(i), encode(f, []string{name}, "hello hello hello"))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		r, err := New([]string{names[int(which)%len(names)]}, bytes.NewReader(data))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // it must end and not panic
		_ = r.Close()
	})
}
