package secrets

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// manyFiles is a zip of several files, the last of which holds the text.
func manyFiles(text string) string {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range 5 {
		w, _ := z.Create(fmt.Sprintf("file-%d.txt", i))
		fmt.Fprintf(w, "nothing of interest, %d times nothing\n", i)
	}
	w, _ := z.Create("last.txt")
	fmt.Fprintf(w, "the key is %s as you asked\n", text)
	_ = z.Close()
	return b.String()
}

// TestPacked has compressed data anywhere in something else, as multipart and other framings have it, whole and cut off.
func TestPacked(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4, Remember: true})
	r := rand.New(rand.NewPCG(7, 7))
	filler := conversation(r, 50_000)
	kinds := map[string]func(string) string{"zip": manyFiles}
	for name, squash := range compressors {
		if name != "deflate" && name != "br" { // without a mark, they are found at the beginning alone
			kinds[name] = func(text string) string { return squash(filler + " the key is " + text + " as you asked " + filler) }
		}
	}
	for name, pack := range kinds {
		for before, prefix := range []string{"--b\r\nContent-Type: x\r\n\r\n", "\x00\x01\x02\xff", filler} {
			token := fresh(t, s, r, "github-pat")
			packed := pack(token)
			found, open, err := s.ScanPart(t.Context(), []byte(prefix+packed+"\r\n--b--\r\n"))
			if err != nil || !rules(found)["github-pat"] || open {
				t.Errorf("%s behind %d: %v, %v, open %v", name, before, found, err, open)
			}
			cut := packed[:len(packed)/3]
			if name == "zip" {
				cut = packed[:strings.Index(packed, "last.txt")+30]
			}
			for form, text := range map[string]string{"": prefix + cut, " in base64": "{\"data\": \"" + base64.StdEncoding.EncodeToString([]byte(cut))} {
				for range 2 { // it is not remembered as clean
					found, open, err := s.ScanPart(t.Context(), []byte(text))
					if err != nil || len(found) > 0 || !open {
						t.Errorf("%s%s, cut off, behind %d: %v, %v, open %v", name, form, before, found, err, open)
					}
				}
			}
		}
	}
	if _, open, err := s.ScanPart(t.Context(), []byte(filler)); err != nil || open {
		t.Errorf("plain text is open: %v", err)
	}
}

// TestFloodsOfArchives: as many as fit, empty ones and bombs. The answer comes, if only that it is too much.
func TestFloodsOfArchives(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 6})
	for name, text := range map[string]string{
		"empty members":  strings.Repeat(compressors["gzip"](""), 4000),
		"marks":          strings.Repeat("\x1f\x8b\x08", 30_000),
		"local headers":  strings.Repeat("PK\x03\x04"+strings.Repeat("\x00", 4)+"\x08\x00"+strings.Repeat("\x00", 20), 3000),
		"zlib's headers": strings.Repeat("\x78\x9c", 50_000),
		"zstd's frames":  strings.Repeat(compressors["zstd"]("a"), 3000),
		"base64 of it":   strings.Repeat("H4sI", 20_000) + strings.Repeat(" H4sIAAAAAAAA/wEAAP//AAAAAAAAAAA=", 3000),
	} {
		begin := time.Now()
		found, err := s.Scan(t.Context(), []byte(text))
		if len(found) > 0 || err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s: %v, %v", name, found, err)
		}
		t.Logf("%s: %d bytes, %v, %v", name, len(text), time.Since(begin), err)
	}
}
