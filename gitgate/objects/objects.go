// Package objects is git-gate's object store: packs in git's own layout, so that `git fsck` can check a mirror. It reads packs from the
// wire within limits, indexes them, walks histories, and writes packs for clients. It knows nothing of protocols, and it
// trusts no byte of a pack: sizes, depths, counts, names and checksums are verified, and a pack must stand on its own (no
// thin packs).
package objects

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// Hash is the name of an object.
type Hash = plumbing.Hash

// Type is commit, tree, blob or tag.
type Type = plumbing.ObjectType

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("object not found")
	ErrLimit    = errors.New("over the limit")
	ErrCorrupt  = errors.New("pack is corrupt")
)

// Object is one object with its content.
type Object struct {
	Hash Hash
	Type Type
	Data []byte
}

// ParseHash reads 40 hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	if len(s) != 40 || strings.Trim(s, "0123456789abcdef") != "" {
		return Hash{}, errors.New("not an object name")
	}
	return plumbing.NewHash(s), nil
}

// Commit is what the walk needs of a commit.
type Commit struct {
	Tree    Hash
	Parents []Hash
	Time    int64 // committer's, seconds since 1970
}

// ParseCommit reads the header of a commit.
func ParseCommit(data []byte) (c Commit, err error) {
	rest, ok := bytes.CutPrefix(data, []byte("tree "))
	if !ok || len(rest) < 41 {
		return c, fmt.Errorf("%w: commit without a tree", ErrCorrupt)
	}
	if c.Tree, err = ParseHash(string(rest[:40])); err != nil {
		return c, fmt.Errorf("%w: commit with a bad tree", ErrCorrupt)
	}
	for line := range bytes.Lines(rest[41:]) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch key {
		case "":
			return c, nil
		case "parent":
			p, err := ParseHash(value)
			if err != nil {
				return c, fmt.Errorf("%w: commit with a bad parent", ErrCorrupt)
			}
			c.Parents = append(c.Parents, p)
		case "committer":
			c.Time = stamp(value)
		}
	}
	return c, nil
}

// stamp takes the seconds out of "Name <mail> seconds zone"; 0 when they are not there.
func stamp(ident string) int64 {
	fields := strings.Fields(ident[strings.LastIndexByte(ident, '>')+1:])
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(fields[0], 10, 64)
	return n
}

// TagTarget returns what a tag object points at.
func TagTarget(data []byte) (Hash, error) {
	rest, ok := bytes.CutPrefix(data, []byte("object "))
	if !ok || len(rest) < 41 {
		return Hash{}, fmt.Errorf("%w: tag without an object", ErrCorrupt)
	}
	return ParseHash(string(rest[:40]))
}

// Entry is one line of a tree.
type Entry struct {
	Name string
	Mode uint32 // octal, as git writes it
	Hash Hash
}

// IsTree tells a folder.
func (e Entry) IsTree() bool { return e.Mode&0o170000 == 0o040000 }

// IsLink tells a submodule, whose commit lives elsewhere.
func (e Entry) IsLink() bool { return e.Mode&0o170000 == 0o160000 }

// ParseTree reads a tree.
func ParseTree(data []byte) ([]Entry, error) {
	var entries []Entry
	for len(data) > 0 {
		space := bytes.IndexByte(data, ' ')
		nul := bytes.IndexByte(data, 0)
		if space < 1 || nul < space || len(data) < nul+21 {
			return nil, fmt.Errorf("%w: malformed tree", ErrCorrupt)
		}
		mode, err := strconv.ParseUint(string(data[:space]), 8, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: malformed mode in a tree", ErrCorrupt)
		}
		e := Entry{Name: string(data[space+1 : nul]), Mode: uint32(mode)}
		copy(e.Hash[:], data[nul+1:nul+21])
		entries = append(entries, e)
		data = data[nul+21:]
	}
	return entries, nil
}

// References lists what an object points at, submodules left out.
func References(o Object) ([]Hash, error) {
	switch o.Type {
	case plumbing.CommitObject:
		c, err := ParseCommit(o.Data)
		return append(c.Parents, c.Tree), err
	case plumbing.TagObject:
		h, err := TagTarget(o.Data)
		return []Hash{h}, err
	case plumbing.TreeObject:
		return treeReferences(o.Data)
	}
	return nil, nil
}

func treeReferences(data []byte) ([]Hash, error) {
	entries, err := ParseTree(data)
	var refs []Hash
	for _, e := range entries {
		if !e.IsLink() {
			refs = append(refs, e.Hash)
		}
	}
	return refs, err
}
