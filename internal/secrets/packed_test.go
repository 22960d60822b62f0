package secrets

import (
	"archive/tar"
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

// TestSecretsInArchivesAreFound has compressed data anywhere in something else, as multipart and
// other framings have it, whole and cut off.
func TestSecretsInArchivesAreFound(t *testing.T) {
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
			token := newToken(t, s, r, "github-pat")
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

// TestSecretsInEncodedArchivesAreFound has compressed data anywhere in what was encoded as base64
// or hex, in one line or in several.
func TestSecretsInEncodedArchivesAreFound(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 6})
	r := rand.New(rand.NewPCG(7, 8))
	kinds := map[string]func(string) string{
		"zip": manyFiles,
		"tar with a zip": func(s string) string {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			z := manyFiles(s)
			_ = w.WriteHeader(&tar.Header{Name: "a.zip", Size: int64(len(z)), Mode: 0o600})
			_, _ = w.Write([]byte(z))
			_ = w.Close()
			return b.String()
		},
		"PNG with zTXt": func(s string) string {
			return "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89\x00\x00\x00\x40zTXtComment\x00\x00" +
				compressors["zlib"]("a comment about the image "+s) + "\x00\x00\x00\x00IEND"
		},
		"PDF": func(s string) string {
			return "%PDF-1.7\n1 0 obj\n<</Filter /FlateDecode /Length 99>>\nstream\n" + compressors["zlib"]("BT /F1 12 Tf 72 720 Td ("+s+") Tj ET") + "\nendstream\nendobj\n"
		},
		"a pack of git's": func(s string) string {
			return "PACK\x00\x00\x00\x02\x00\x00\x00\x01\xb7\x05" + compressors["zlib"]("the content of a file "+s) + strings.Repeat("\xa7", 20)
		},
	}
	for _, name := range []string{"gzip", "zlib", "zstd", "xz", "bzip2"} {
		if squash, ok := compressors[name]; ok {
			kinds[name] = func(s string) string { return squash("the key is " + s + " as you asked") }
		}
	}
	forms := map[string]func(string) string{
		"base64": std64, "base64 at 76": func(s string) string { return wrap(76, "\r\n")(std64(s)) }, "base64 at 64": func(s string) string { return wrap(64, "\n")(std64(s)) },
		"base64 at 16":      func(s string) string { return wrap(16, "\n")(std64(s)) },
		"base64 in JSON":    func(s string) string { return `{"data": "` + wrap(60, `\n`)(std64(s)) + `"}` },
		"base64, indented":  func(s string) string { return "data: |\n    " + wrap(60, "\n    ")(std64(s)) },
		"base64, in a diff": func(s string) string { return "+" + strings.TrimSuffix(wrap(76, "\n+")(std64(s)), "+") },
		"base64, commented": func(s string) string { return "# " + strings.TrimSuffix(wrap(76, "\n# ")(std64(s)), "# ") },
		"base64, numbered": func(s string) string {
			var b strings.Builder
			for i, line := range strings.Split(strings.TrimSpace(wrap(76, "\n")(std64(s))), "\n") {
				fmt.Fprintf(&b, "%6d\t%s\n", i+1, line)
			}
			return b.String()
		},
		"base64url":       func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"base64, twice":   twice(std64),
		"hex":             func(s string) string { return fmt.Sprintf("%x", s) },
		"hex, big, at 64": func(s string) string { return wrap(64, "\n")(fmt.Sprintf("%X", s)) },
	}
	for kind, pack := range kinds {
		for form, encode := range forms {
			for _, before := range []string{"", "\n", "12345678", "some text before it\n", conversation(r, 3000), "\x00\x01\xff\xfe\x7fELF" + strings.Repeat("\x90\xcc", 300)} {
				key := newToken(t, s, r, "github-pat")
				text := "a file\n" + encode(before+pack(key)+"\n") + "\nthe end\n"
				if found, err := s.Scan(t.Context(), []byte(text)); err != nil || !rules(found)["github-pat"] {
					t.Errorf("%s in %s after %d bytes: %v, %v", kind, form, len(before), found, err)
				}
			}
		}
	}
}

// TestFloodsOfArchives: as many as fit, empty ones and bombs. The answer comes, if only that it is
// too much.
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

// TestFindingNamesTheMember: a finding in an archive names the member, unless its name may hold the
// secret.
func TestFindingNamesTheMember(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 6})
	r := rand.New(rand.NewPCG(7, 9))
	key := newToken(t, s, r, "github-pat")
	zipOf := func(name, text string) string {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, _ := z.Create(name)
		_, _ = w.Write([]byte(text))
		_ = z.Close()
		return b.String()
	}
	for _, c := range []struct{ data, want string }{
		{manyFiles(key), "last.txt"},
		{zipOf("a/b.zip", zipOf("c.txt", "key "+key)), "a/b.zip!c.txt"},
		{zipOf(key+".txt", "nothing"), ""},
		{zipOf("x\x1b[2J.txt", "key "+key), ""},
		{"key " + key, ""},
	} {
		found, err := s.Scan(t.Context(), []byte(c.data))
		if err != nil || len(found) == 0 || found[0].Member != c.want {
			t.Errorf("%+v, %v, want a finding in %q", found, err, c.want)
		}
	}
}
