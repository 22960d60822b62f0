package objects

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// maxAlternates bounds the folders that a repository borrows objects from.
const maxAlternates = 20

// OpenOrdinary opens the objects folder of any repository of git's for reading: packs, objects in files of their own, and what it
// borrows from others. The commits in cut are taken to have no parents. Nothing is written there; objects in files of their own are
// gathered in a temporary pack that has no name.
func OpenOrdinary(dir string, cut map[Hash]bool) (Set, error) {
	dirs := []string{dir}
	var set Set
	for i := 0; i < len(dirs); i++ {
		if len(dirs) > maxAlternates {
			return nil, fmt.Errorf("%w: more than %d alternates", ErrLimit, maxAlternates)
		}
		packs, err := openPacks(filepath.Join(dirs[i], "pack"))
		if err != nil {
			return nil, err
		}
		loose, err := openLoose(dirs[i])
		if err != nil {
			return nil, err
		}
		set = append(append(set, packs...), loose)
		for _, more := range alternates(dirs[i]) {
			if !slices.Contains(dirs, more) {
				dirs = append(dirs, more)
			}
		}
	}
	for _, p := range set {
		p.cut = cut
	}
	return set, nil
}

// alternates reads where a folder borrows from.
func alternates(dir string) (dirs []string) {
	text, err := os.ReadFile(filepath.Join(dir, "info", "alternates"))
	if err != nil {
		return nil
	}
	for line := range strings.FieldsFuncSeq(string(text), func(c rune) bool { return c == '\n' }) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if !filepath.IsAbs(line) {
			line = filepath.Join(dir, line)
		}
		dirs = append(dirs, filepath.Clean(line))
	}
	return dirs
}

func openPacks(dir string) (set Set, err error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for _, n := range names {
		if base, isIndex := strings.CutSuffix(n.Name(), ".idx"); isIndex {
			p, err := OpenPack(filepath.Join(dir, base))
			if errors.Is(err, os.ErrNotExist) {
				continue // an index without its pack
			}
			if err != nil {
				return nil, err
			}
			set = append(set, p)
		}
	}
	return set, err
}

// gathering makes one pack of objects in files of their own.
type gathering struct {
	file    *os.File
	out     *bufio.Writer
	at      int64
	entries []gathered
}

type gathered struct {
	hash Hash
	at   int64
}

func openLoose(dir string) (*Pack, error) {
	file, err := os.CreateTemp("", "loose-*.pack")
	if err != nil {
		return nil, fmt.Errorf("gathering objects: %w", err)
	}
	g := &gathering{file: file, out: bufio.NewWriterSize(file, 64<<10)}
	err = errors.Join(os.Remove(file.Name()), g.put([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00")), g.all(dir), g.put(make([]byte, 20)), g.out.Flush())
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("gathering objects: %w", err)
	}
	return newPack("", file, g.at, makeIndex(g.entries)), nil
}

func (g *gathering) put(b []byte) error {
	n, err := g.out.Write(b)
	g.at += int64(n)
	return err
}

func (g *gathering) all(dir string) error {
	for first := range 256 {
		folder := fmt.Sprintf("%02x", first)
		names, err := os.ReadDir(filepath.Join(dir, folder))
		if err != nil {
			continue
		}
		for _, n := range names {
			h, err := ParseHash(folder + n.Name())
			if err != nil {
				continue
			}
			if err := g.object(h, filepath.Join(dir, folder, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// object copies one object; one that is damaged is left out, and missed when it is wanted.
func (g *gathering) object(h Hash, path string) error {
	typ, data, err := readLoose(path)
	if err != nil || plumbing.ComputeHash(typ, data) != h {
		return nil
	}
	g.entries = append(g.entries, gathered{h, g.at})
	var b bytes.Buffer
	z, err := zlib.NewWriterLevel(&b, zlib.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	return errors.Join(z.Close(), g.put(entryHead(typ, int64(len(data)))), g.put(b.Bytes()))
}

// readLoose reads an object from a file of its own.
func readLoose(path string) (Type, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	z, err := zlib.NewReader(f)
	if err != nil {
		return 0, nil, err
	}
	defer z.Close()
	all, err := io.ReadAll(z)
	if err != nil {
		return 0, nil, err
	}
	head, data, ok := bytes.Cut(all, []byte{0})
	name, _, spaced := strings.Cut(string(head[:min(len(head), 40)]), " ")
	if !ok || !spaced {
		return 0, nil, fmt.Errorf("%w: object without a head", ErrCorrupt)
	}
	typ, err := plumbing.ParseObjectType(name)
	return typ, data, err
}

// makeIndex is the index of a pack that has no file for it.
func makeIndex(entries []gathered) index {
	slices.SortFunc(entries, func(a, b gathered) int { return cmp.Or(compare(a.hash, b.hash), cmp.Compare(a.at, b.at)) })
	x := index{n: len(entries)}
	next := 0
	for first := range 256 {
		for next < len(entries) && int(entries[next].hash[0]) <= first {
			next++
		}
		x.fan = binary.BigEndian.AppendUint32(x.fan, uint32(next))
	}
	for _, e := range entries {
		x.names = append(x.names, e.hash[:]...)
		x.small = binary.BigEndian.AppendUint32(x.small, 1<<31|uint32(len(x.large)/8))
		x.large = binary.BigEndian.AppendUint64(x.large, uint64(e.at))
	}
	return x
}
