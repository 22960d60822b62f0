package unpack

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// upTo allows as much as n bytes.
func upTo(most int) Room {
	return func(n int) (int, error) {
		if n > most {
			return 0, errFull
		}
		return most, nil
	}
}

var errFull = fmt.Errorf("full")

func write(t testing.TB, text []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// texts are of all kinds: words, what repeats from afar, noise.
func texts() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 80_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var words bytes.Buffer
	for range 15_000 {
		fmt.Fprintf(&words, "%s%d ", []string{"the", "quick", "brown", "fox\n", "jumps"}[r.IntN(5)], r.IntN(50))
	}
	return map[string][]byte{
		"nothing": {}, "a byte": {'x'}, "short": []byte("hello, hello, hello"), "zeros": make([]byte, 1<<20), "words": words.Bytes(), "noise": noise,
		"from afar": bytes.Join([][]byte{words.Bytes(), noise, words.Bytes()[:9000], noise[:5000], words.Bytes()}, nil),
	}
}

// lzipOf makes the .lz format of LZMA alone with a mark at the end.
func lzipOf(alone []byte) []byte {
	return append(append([]byte(MarkLzip+"\x01\x17"), alone[aloneHeader:]...), make([]byte, 20)...)
}

// encoded are all texts in all forms that a library here writes, and how each is read.
func encoded(t testing.TB, text []byte) (all map[string][]byte, read map[string]func([]byte, Room) ([]byte, error)) {
	all, read = map[string][]byte{}, map[string]func([]byte, Room) ([]byte, error){}
	add := func(name string, data []byte, f func([]byte, Room) ([]byte, error)) { all[name], read[name] = data, f }
	asXZ := func(data []byte, room Room) ([]byte, error) { return XZ(data, true, room) }
	for name, c := range map[string]xz.WriterConfig{"xz": {}, "xz, CRC32, small blocks": {CheckSum: xz.CRC32, BlockSize: 50_000}, "xz, SHA-256": {CheckSum: xz.SHA256, DictCap: 1 << 16}} {
		add(name, write(t, text, func(w io.Writer) (io.WriteCloser, error) { return c.NewWriter(w) }), asXZ)
	}
	add("xz, twice", append(append(bytes.Clone(all["xz"]), 0, 0, 0, 0), all["xz, SHA-256"]...), asXZ)
	for name, c := range map[string]lzma.WriterConfig{
		"lzma": {}, "lzma, sized": {SizeInHeader: true, Size: int64(len(text))}, "lzma, other models": {Properties: &lzma.Properties{LC: 8, LP: 2, PB: 4}},
		"lzma, no context": {Properties: &lzma.Properties{}},
	} {
		add(name, write(t, text, func(w io.Writer) (io.WriteCloser, error) { return c.NewWriter(w) }), Alone)
	}
	add("lzip", lzipOf(all["lzma"]), func(data []byte, room Room) ([]byte, error) { return Lzip(data, true, room) })
	add("lzip, twice", append(bytes.Clone(all["lzip"]), all["lzip"]...), read["lzip"])
	return all, read
}

// times is how often a form has its text.
func times(name string) int { return 1 + strings.Count(name, "twice") }

func TestEachForm(t *testing.T) {
	for kind, text := range texts() {
		all, read := encoded(t, text)
		for name, data := range all {
			if len(text) == 0 && name == "lzma, sized" {
				continue // the writer says a size and leaves the code out
			}
			want := bytes.Repeat(text, times(name))
			got, err := read[name](data, upTo(len(want)))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s in %s: %d bytes of %d, %v", kind, name, len(got), len(want), err)
			}
			if len(want) == 0 {
				continue
			}
			if _, err := read[name](data, upTo(len(want)-1)); err != errFull {
				t.Errorf("%s in %s: more than there is room for: %v", kind, name, err)
			}
			for _, cut := range []int{len(data) / 5, len(data) / 3, len(data) / 2} {
				got, err := read[name](data[:cut], upTo(len(want)))
				if len(text) > 1 && times(name) == 1 && err != io.ErrUnexpectedEOF || !bytes.HasPrefix(want, got) {
					t.Errorf("%s in %s, cut off at %d: %d bytes, %v", kind, name, cut, len(got), err)
				}
			}
		}
	}
}

// TestTools reads what the tools of others write, where they are.
func TestTools(t *testing.T) {
	asXZ := func(data []byte, room Room) ([]byte, error) { return XZ(data, true, room) }
	asLZ4 := func(data []byte, room Room) ([]byte, error) { return LZ4(data, true, room) }
	for _, c := range []struct {
		command string
		read    func([]byte, Room) ([]byte, error)
		err     error
	}{
		{"xz -9e", asXZ, nil}, {"xz -0 --block-size=40000 -T2", asXZ, nil}, {"xz --check=none", asXZ, nil}, {"xz --x86 --lzma2", asXZ, nil}, {"xz --delta=dist=4 --lzma2=lc=0,lp=4", asXZ, nil},
		{"xz --arm64 --lzma2", asXZ, nil}, {"xz --powerpc --lzma2", asXZ, ErrUnknown}, {"xz --format=lzma", Alone, nil}, {"xz --format=lzma --lzma1=lc=0,lp=3,pb=0,dict=96KiB", Alone, nil},
		{"lz4", asLZ4, nil}, {"lz4 -9 -BD -B4", asLZ4, nil}, {"lz4 -BX --content-size", asLZ4, nil}, {"lz4 -l", asLZ4, nil}, {"lz4 --no-frame-crc -B5", asLZ4, nil},
	} {
		words := strings.Fields(c.command)
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Logf("%s is not here", words[0])
			continue
		}
		for kind, text := range texts() {
			cmd := exec.CommandContext(t.Context(), words[0], append(words[1:], "-c")...)
			cmd.Stdin = bytes.NewReader(text)
			data, err := cmd.Output()
			if err != nil {
				t.Errorf("%s: %v", c.command, err)
				continue
			}
			got, err := c.read(data, upTo(len(text)))
			if strings.Contains(c.command, "86") || strings.Contains(c.command, "arm") { // what is no ASCII may differ
				got, text = ascii(got), ascii(text)
			}
			if len(text) > 0 && err != c.err || c.err == nil && !bytes.Equal(got, text) {
				t.Errorf("%s with %s: %d bytes of %d, %v", kind, c.command, len(got), len(text), err)
			}
			if cut := data[:len(data)/2]; len(text) > 20 {
				if got, err := c.read(cut, upTo(len(text))); err != io.ErrUnexpectedEOF && c.err == nil || c.err == nil && kind != "words" && len(got) > len(text) {
					t.Errorf("%s with %s, cut off: %d bytes, %v", kind, c.command, len(got), err)
				}
			}
		}
	}
}

// ascii leaves out all but words: a filter may change four bytes behind one that is no ASCII.
func ascii(p []byte) []byte {
	if bytes.IndexFunc(p, func(c rune) bool { return c >= 0x80 }) >= 0 {
		return nil
	}
	return p
}

// TestHeadersTakeNoMemory: a dictionary of 4 GiB, models that begin anew with each byte.
func TestHeadersTakeNoMemory(t *testing.T) {
	all, read := encoded(t, []byte("hello, hello"))
	data := bytes.Clone(all["lzma"])
	copy(data[1:], "\xff\xff\xff\xff")
	if n := testing.AllocsPerRun(3, func() {
		if got, err := read["lzma"](data, func(n int) (int, error) { return 1 << 20, nil }); string(got) != "hello, hello" || err != nil || cap(got) > firstRoom {
			t.Errorf("%d bytes in %d, %v", len(got), cap(got), err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	chunk := "\x01\x00\x00x" + "\xe0\x00\x00\x00\x05\x5d" + strings.Repeat("\x00", 6)
	if _, err := LZMA2([]byte(strings.Repeat(chunk, 10_000)), 0, upTo(1<<20)); err != ErrUnknown {
		t.Errorf("resets without end: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	all, _ := encoded(f, []byte(strings.Repeat("hello, hello", 9)))
	for _, data := range all {
		f.Add(data)
	}
	f.Add([]byte(MarkLZ4 + "\x64\x40\xa7\x05\x00\x00\x80hello\x00\x00\x00\x00"))
	f.Add([]byte(MarkLZ4Old + "\x07\x00\x00\x00\x1fh\x01\x00\x04\x10!"))
	f.Fuzz(func(t *testing.T, data []byte) {
		const most = 1 << 20
		room := upTo(most)
		for _, all := range []bool{false, true} {
			for _, read := range []func([]byte, bool, Room) ([]byte, error){XZ, Lzip, LZ4} {
				if out, _ := read(data, all, room); len(out) > most {
					t.Fatal("more than there is room for")
				}
			}
		}
		_, _ = Alone(data, room)
		_ = IsAlone(data)
		_, _ = LZMA2(data, len(data)%7, room)
		_, _ = lz4Frame(append([]byte(MarkLZ4+"\x64\x40\xa7"), data...), &output{room: room})
		_, _ = lz4Old(append([]byte(MarkLZ4Old), data...), &output{room: room})
		if len(data) > 0 {
			_, _ = LZMA([]byte{data[0], 0, 0, 0, 0}, append([]byte{0}, data...), endless, 0, room)
		}
	})
}

func BenchmarkLZMA(b *testing.B) {
	text := texts()["words"]
	all, read := encoded(b, text)
	for _, name := range []string{"xz", "lzma"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := read[name](all[name], upTo(len(text))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("xz, by ulikunitz/xz", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			r, err := xz.NewReader(bytes.NewReader(all["xz"]))
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
