package secrets

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"airlock/internal/unpack"
)

func init() {
	compressors["xz"] = squash(func(w io.Writer) io.WriteCloser { return must(xz.NewWriter(w)) })
	compressors["lzma"] = squash(func(w io.Writer) io.WriteCloser { return must(lzma.NewWriter(w)) })
	compressors["lzip"] = func(s string) string {
		return unpack.MarkLzip + "\x01\x17" + compressors["lzma"](s)[13:] + strings.Repeat("\x00", 20)
	}
	compressors["lz4"] = lz4Of
	alone = append(alone, "lzma") // what it begins with counts, elsewhere
}

// must is for what can only be a mistake of the test's own, as all the panics here: it writes to
// memory.
func must[W io.WriteCloser](w W, err error) io.WriteCloser {
	if err != nil {
		panic(err)
	}
	return w
}

// lz4Of is a frame of blocks of literals, but for a repetition of what begins the text.
func lz4Of(s string) string {
	b := []byte(unpack.MarkLZ4 + "\x60\x40\x82")
	for len(s) > 0 {
		part := s[:min(len(s), 60_000)]
		s = s[len(part):]
		block := []byte{0xf0}
		n := len(part) - 15
		if n < 0 {
			block = []byte{byte(len(part) << 4)}
		}
		for ; n >= 255; n -= 255 {
			block = append(block, 255)
		}
		if len(part) >= 15 {
			block = append(block, byte(n))
		}
		block = append(block, part...)
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(block))), block...)
	}
	return string(append(b, 0, 0, 0, 0))
}

// zipBy is a zip with a file that was compressed by a method, with its list or cut off before.
func zipBy(by uint16, flags uint16, packed string, size int, listed bool) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	h := &zip.FileHeader{Name: "inside.txt", Method: by, Flags: flags, CRC32: 1, CompressedSize64: uint64(len(packed)), UncompressedSize64: uint64(size)}
	w, err := z.CreateRaw(h)
	if err == nil {
		_, err = io.WriteString(w, packed)
	}
	if err == nil && listed {
		err = z.Close()
	} else if err == nil {
		err = z.Flush()
	}
	if err != nil {
		panic(err)
	}
	return b.String()
}

// zipLZMAOf is LZMA as zip has it.
func zipLZMAOf(s string) string {
	alone := compressors["lzma"](s)
	return "\x13\x00\x05\x00" + alone[:5] + alone[13:]
}

// sevenOf is an archive of 7-Zip with a folder of a step, and its list as it is or compressed.
func sevenOf(t *testing.T, method, props, packed string, size int, compressed bool) string {
	t.Helper()
	number := func(n int) string { return "\xf0" + string(binary.LittleEndian.AppendUint32(nil, uint32(n))) } // four more bytes
	streams := func(at int, method, props, packed string, size int) string {
		folder := "\x01" + string(rune(0x20|len(method))) + method + string(rune(len(props))) + props
		return "\x06" + number(at) + "\x01\x09" + number(len(packed)) + "\x00\x07\x0b\x01\x00" + folder + "\x0c" + number(size) + "\x00\x00"
	}
	list := "\x01\x04" + streams(0, method, props, packed, size) + "\x05\x00\x00"
	if compressed {
		alone := compressors["lzma"](list)
		body := alone[13:]
		next := "\x17" + streams(len(packed), sevenLZMA, alone[:5], body, len(list))
		packed, list = packed+body, next
	}
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(packed)))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(list)))
	head = binary.LittleEndian.AppendUint32(head, crc32.ChecksumIEEE([]byte(list)))
	return sevenZip + "\x00\x04" + string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(head))) + string(head) + packed + list
}

func deflateOf(s string) string {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// archives hold a text in files of every method that is read.
func archives(t *testing.T, text string) map[string]string {
	lzma2 := func(s string) string {
		var b bytes.Buffer
		w, err := lzma.NewWriter2(&b)
		if err == nil {
			_, err = io.WriteString(w, s)
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	alone := compressors["lzma"](text)
	bz := "" // Go has no writer
	if tool, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.CommandContext(t.Context(), tool, "-c")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		bz = string(out)
	}
	all := map[string]string{}
	for listed, name := range map[bool]string{true: "", false: ", cut off"} {
		all["zip of xz"+name] = zipBy(95, 0, compressors["xz"](text), len(text), listed)
		all["zip of LZMA"+name] = zipBy(14, marked14, zipLZMAOf(text), len(text), listed)
		all["zip of LZMA, sized"+name] = zipBy(14, 0, zipLZMAOf(text), len(text), listed)
		all["zip of zstd"+name] = zipBy(93, 0, compressors["zstd"](text), len(text), listed)
		if bz != "" {
			all["zip of bzip2"+name] = zipBy(12, 0, bz, len(text), listed)
		}
	}
	for compressed, name := range map[bool]string{true: ", list compressed", false: ""} {
		all["7z of LZMA"+name] = sevenOf(t, sevenLZMA, alone[:5], alone[13:], len(text), compressed)
		all["7z of LZMA2"+name] = sevenOf(t, sevenLZMA2, "\x18", lzma2(text), len(text), compressed)
		all["7z of deflate"+name] = sevenOf(t, sevenDeflate, "", deflateOf(text), len(text), compressed)
		all["7z of zstd"+name] = sevenOf(t, sevenZstd, "", compressors["zstd"](text), len(text), compressed)
		all["7z, not compressed"+name] = sevenOf(t, sevenCopy, "", text, len(text), compressed)
	}
	return all
}

// TestArchivesOfEveryMethod: as they are, behind something, in base64 and hexadecimal, in a tar.
func TestArchivesOfEveryMethod(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4})
	r := rand.New(rand.NewPCG(8, 8))
	filler := conversation(r, 20_000)
	token := newToken(t, s, r, "github-pat")
	for kind, text := range map[string]string{"short": "the key is " + token + " as you asked", "long": filler + token + " as you asked " + filler} {
		for name, data := range archives(t, text) {
			for where, whole := range map[string]string{
				"alone": data, "behind text": "--b\r\nContent-Type: x\r\n\r\n" + data + "\r\n--b--\r\n", "behind bytes": "\x00\x01\x02\xff" + data, "in base64": `{"data": "` + std64(data) + `"}`,
				"in base64url": "x=" + base64.RawURLEncoding.EncodeToString([]byte(data)), "in hexadecimal": hex.EncodeToString([]byte(data)), "in a tar.gz": string(targz("a", data)), "in xz": compressors["xz"](data),
			} {
				found, open, err := s.ScanPart(t.Context(), []byte(whole))
				if err != nil || !rules(found)["github-pat"] || rules(found)[Unreadable] || open && !strings.HasPrefix(where, "in base64") { // whose last bits may look like one byte more
					t.Errorf("%s, %s, %s: %v, %v, open %v", name, kind, where, found, err, open)
				}
			}
		}
	}
	for name, data := range archives(t, "nothing that matters, "+filler) {
		if found, err := s.Scan(t.Context(), []byte(data)); err != nil || len(found) > 0 {
			t.Errorf("%s: %v, %v", name, found, err)
		}
		if strings.HasPrefix(name, "7z") || !strings.HasSuffix(name, "cut off") {
			cut := data[:len(data)/2]
			if _, open, err := s.ScanPart(t.Context(), []byte(cut)); err != nil || !open {
				t.Errorf("%s, cut off in the middle: %v, open %v", name, err, open)
			}
		}
	}
}

// TestUnreadableHidesNothing: what is found beside a file that cannot be read is a finding of its
// own, by whatever rule.
func TestUnreadableHidesNothing(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 2})
	generic := "api_key = \"" + alnum(rand.New(rand.NewPCG(9, 9)), letters, 32) + "\"\n"
	for rule, text := range map[string]string{"github-pat": "the key is " + token(7), "generic-api-key": generic} {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.Create("plain.txt")
		if err == nil {
			_, err = io.WriteString(w, text+strings.Repeat(" and so on", 50))
		}
		if err == nil {
			w, err = z.CreateRaw(&zip.FileHeader{Name: "secret.txt", Method: 8, Flags: encrypted, CompressedSize64: 12, UncompressedSize64: 30})
		}
		if err == nil {
			_, err = io.WriteString(w, "twelve bytes")
		}
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		found, err := s.Scan(t.Context(), b.Bytes())
		if err != nil || !rules(found)[rule] || !rules(found)[Unreadable] {
			t.Errorf("%s: %v, %v", rule, found, err)
		}
	}
}

// TestFilesThatTheListHides: a zip whose list says nothing of what it begins with.
func TestFilesThatTheListHides(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 2})
	var list bytes.Buffer
	z := zip.NewWriter(&list)
	_ = z.Close()
	for name, by := range map[string]struct {
		method uint16
		packed string
	}{"deflate": {8, deflateOf("the key is " + token(6))}, "xz": {95, compressors["xz"]("the key is " + token(6))}} {
		hidden := zipBy(by.method, 0, by.packed, 51, false)
		if found, err := s.Scan(t.Context(), []byte(hidden+list.String())); err != nil || !rules(found)["github-pat"] {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

// TestSevenZipWithoutItsList: what 7-Zip writes by itself is read up to where it was cut off.
func TestSevenZipWithoutItsList(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 2})
	for name, data := range archives(t, "the key is "+token(5)+" as you asked") {
		if strings.HasPrefix(name, "7z of LZMA") {
			found, open, err := s.ScanPart(t.Context(), []byte(data[:len(data)-1]))
			if err != nil || !open || !rules(found)["github-pat"] {
				t.Errorf("%s: %v, %v, open %v", name, found, err, open)
			}
		}
	}
}

// TestTarXZ has what tar and xz make of files, where they are; the archive is opened twice.
func TestTarXZ(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 2})
	k := token(3)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("the key is "+k+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"-J", "--lzma", "--lzip", "-Ilz4", "--zstd", "-j"} {
		data, err := exec.CommandContext(t.Context(), "tar", flag, "-cf", "-", "-C", dir, "notes.txt").Output()
		if err != nil {
			t.Logf("tar %s is not here", flag)
			continue
		}
		if found, err := s.Scan(t.Context(), data); err != nil || !rules(found)["github-pat"] {
			t.Errorf("tar %s: %v, %v", flag, found, err)
		}
	}
}

// TestUnreadableArchivesAreReported is a finding: encrypted archives and unknown methods. What only
// has the marks in it is none.
func TestUnreadableArchivesAreReported(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4})
	noise := string(noiseOf(rand.New(rand.NewPCG(4, 4)), 5000))
	rar4 := rar + "\x00\xcf\x90\x73\x00\x00\x0d\x00\x00\x00\x00\x00\x00\x00" + noise
	size := "\x0b\x01\x00\x05\x0c\x01\x00\x00\x00\x00\x00\x00"
	rar5 := rar + "\x01\x00" + string(binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(size)))) + size + noise
	for name, data := range map[string]string{
		"zip, deflate64": zipBy(9, 0, noise, 9000, true), "zip, PPMd": zipBy(98, 0, noise, 9000, true), "zip, AES": zipBy(99, encrypted, noise, 9000, true), "zip, encrypted": zipBy(8, encrypted, noise, 9000, true),
		"zip, stored and encrypted": zipBy(0, encrypted, noise, 4988, true), "7z, AES": sevenOf(t, "\x06\xf1\x07\x01", "\x13\x00", noise, 9000, false),
		"7z, PPMd": sevenOf(t, "\x03\x04\x01", "\x06\x00\x00\x00\x01", noise, 9000, true), "rar": rar4, "rar 5": rar5,
		"zip, encrypted, cut off": zipBy(8, encrypted, noise, 9000, false), "zip, deflate64, cut off": zipBy(9, 0, noise, 9000, false),
	} {
		for where, whole := range map[string]string{"": data, " behind text": "some text\r\n" + data, " in base64": `{"d": "` + std64(data) + `"}`, " in gzip": compressors["gzip"](data)} {
			found, err := s.Scan(t.Context(), []byte(whole))
			if err != nil || len(found) != 1 || found[0].Rule != Unreadable {
				t.Errorf("%s%s: %v, %v", name, where, found, err)
			}
		}
	}
	marks := strings.Join(marks, "\x00\xff")
	for name, data := range map[string]string{
		"marks": "\x7fELF\x00" + marks + "\x00", "marks before noise": "\x7fELF\x00" + marks + noise, "text": "begins with 7z\xbc\xaf\x27\x1c, or LZIP\x01 or Rar!\x1a\x07\x00 or \xfd7zXZ\x00, then",
		"a folder in a zip": zipBy(8, 0, "", 0, true), "words behind PK": "PK\x03\x04 but no zip at all, only words that go on and on",
	} {
		if found, err := s.Scan(t.Context(), []byte(data)); err != nil || len(found) > 0 {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
}

func noiseOf(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestPackedBombs: what grows beyond the limit is refused, in every form, and what only says that
// it is large is read.
func TestPackedBombs(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4, MaxInflate: 2 << 20})
	zeros := strings.Repeat("\x00", 2<<20+1)
	bombs := map[string]string{"xz in xz": compressors["xz"](compressors["xz"](zeros)), "zip of zstd": zipBy(93, 0, compressors["zstd"](zeros), 9, true), "zip of LZMA": zipBy(14, marked14, zipLZMAOf(zeros), 9, true)}
	for _, name := range []string{"xz", "lzma", "lzip", "lz4"} {
		bombs[name] = compressors[name](zeros)
	}
	for name, data := range bombs {
		if _, err := s.Scan(t.Context(), []byte(data)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Scan(ctx, []byte(compressors["xz"](zeros))); err == nil {
		t.Error("an ended context passes")
	}
	huge := []byte(compressors["lzma"]("the key is " + token(2)))
	copy(huge[1:], "\x00\x00\x00\x80") // a dictionary of 2 GiB
	if found, err := s.Scan(t.Context(), huge); err != nil || !rules(found)["github-pat"] {
		t.Errorf("a large dictionary: %v, %v", found, err)
	}
}

// TestFloodsOfNewArchives is TestFloodsOfArchives for what package unpack reads.
func TestFloodsOfNewArchives(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 6})
	small := func(name string) string { return compressors[name]("a") }
	models := []byte(compressors["lzma"]("hello, hello, hello, hello, hello"))
	models[0] = 8 + 9*4 // six megabytes of models
	for name, text := range map[string]string{
		"xz": strings.Repeat(small("xz"), 3000), "xz behind text": "text " + strings.Repeat(small("xz")+"\xff", 3000), "lzip": "\x00" + strings.Repeat(small("lzip"), 3000), "lz4": "\x00" + strings.Repeat(small("lz4"), 9000),
		"lzma": "\x00" + strings.Repeat(compressors["lzma"]("hello, hello, hello, hello, hello"), 3000), "lzma, models": strings.Repeat(string(models)+" ", 3000), "tar of models": string(tarOf(models, 3000)),
		"marks": strings.Repeat(unpack.MarkXZ, 20_000), "marks of 7z": strings.Repeat(sevenZip, 20_000), "local headers": strings.Repeat(zipBy(14, 0, zipLZMAOf("a"), 1, false), 3000),
		"zip of zstd": zipsOf(compressors["zstd"]("a"), 9000), "base64": strings.Repeat(std64(small("xz"))+" ", 3000), "7z": strings.Repeat(sevenOf(t, sevenCopy, "", "a", 1, true), 2000),
	} {
		begin := time.Now()
		found, err := s.Scan(t.Context(), []byte(text))
		if len(found) > 0 || err != nil && !errors.Is(err, ErrNested) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
		t.Logf("%s: %d bytes, %v, %v", name, len(text), time.Since(begin), err)
	}
}

func tarOf(data []byte, n int) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range n {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Size: int64(len(data)), Mode: 0o644}); err != nil {
			panic(err)
		}
		_, _ = w.Write(data)
	}
	return b.Bytes()
}

// zipsOf is a zip with n files of zstd.
func zipsOf(packed string, n int) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range n {
		w, err := z.CreateRaw(&zip.FileHeader{Name: fmt.Sprint(i), Method: 93, CompressedSize64: uint64(len(packed)), UncompressedSize64: 1})
		if err == nil {
			_, err = io.WriteString(w, packed)
		}
		if err != nil {
			panic(err)
		}
	}
	_ = z.Close()
	return b.String()
}

// FuzzArchives opens anything as each kind of archive: nothing panics, and nothing takes more than
// it may.
func FuzzArchives(f *testing.F) {
	for _, name := range []string{"xz", "lzma", "lzip", "lz4"} {
		f.Add([]byte(compressors[name]("hello, hello, hello")))
	}
	f.Add([]byte(zipBy(14, 0, zipLZMAOf("hello"), 5, true)))
	f.Add([]byte(zipBy(95, 0, compressors["xz"]("hello"), 5, false)))
	f.Add([]byte(sevenOf(&testing.T{}, sevenCopy, "", "hello", 5, true)))
	f.Add([]byte(sevenOf(&testing.T{}, sevenLZMA2, "\x18", "\x01\x00\x00h\x00", 1, false)))
	s, err := New(Options{ArchiveDepth: 2, MaxInflate: 1 << 20})
	if err != nil {
		f.Fatal(err)
	}
	rules, err := s.rules()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if bytes.HasPrefix(data, []byte(sevenZip)) && len(data) > 32 { // the mark holds
			data = bytes.Clone(data)
			binary.LittleEndian.PutUint32(data[8:], crc32.ChecksumIEEE(data[12:32]))
		}
		for _, all := range []bool{false, true} {
			r := &run{ctx: t.Context(), scanner: s, rules: rules, budget: 1 << 20, viewBudget: minViewBudget, chargesLeft: 1000}
			total := 0
			_ = members(data, all, func(_ string, c memberReader) error {
				inner, _, err := r.inflate(c)
				total += len(inner)
				return err
			})
			r.release()
			if total > 1<<20 {
				t.Fatalf("%d bytes", total)
			}
		}
	})
}
