package secrets

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"airlock/internal/lab"
)

// TestLongTexts are looked at in parts: what stands at a border is seen, once, and what is packed
// there is followed to its end.
func TestLongTexts(t *testing.T) {
	lab.Long(t)
	r := rand.New(rand.NewPCG(8, 9))
	value := alnum(r, letters, 24)
	s, err := New(Options{Known: knowing(t, value).opts.Known, ArchiveDepth: 4})
	if err != nil {
		t.Fatal(err)
	}
	line := []byte("this is a line of plain words, as long as others are\n")
	filler := bytes.Repeat(line, 3*maxWritten/len(line))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(noise)
	fmt.Fprintf(z, "\nthe value is %s.\n", value)
	z.Close()
	for name, hidden := range map[string]string{
		"plain":          " " + value + " ",
		"base64":         "\n" + base64.StdEncoding.EncodeToString([]byte("it is "+value+", it is")) + "\n",
		"gzip":           "\n" + packed.String(),
		"base64 of gzip": "\n" + base64.StdEncoding.EncodeToString(packed.Bytes()) + "\n",
	} {
		for _, at := range []int{0, 100, maxWritten - longest, maxWritten - 10, maxWritten, maxWritten + 10, maxWritten + longest, 2*maxWritten - 10, len(filler)} {
			text := string(filler[:at]) + hidden + string(filler[at:])
			found, err := s.Scan(t.Context(), []byte(text))
			if err != nil || len(found) != 1 || found[0].Rule != "E" {
				t.Errorf("%s at %d: %v, %v", name, at, found, err)
			}
		}
	}
}

// TestManyFindingsEnd: one would do.
func TestManyFindingsEnd(t *testing.T) {
	s := newScanner(t, Options{})
	token := "gh" + "p_" + alnum(rand.New(rand.NewPCG(1, 1)), letters, 36)
	found, err := s.Scan(t.Context(), []byte(strings.Repeat(token+"\n", 60_000)))
	if err != nil || len(found) == 0 || len(found) > 60_000 {
		t.Errorf("%d findings, %v", len(found), err)
	}
}
