// Package objects is git-gate's object store: packs in git's own layout, so that `git fsck` can check a mirror. It reads packs from the
// wire within limits, indexes them, walks histories, and writes packs for clients. It knows nothing of protocols, and it
// trusts no byte of a pack: sizes, depths, counts, names and checksums are verified, and a pack must stand on its own (no
// thin packs).
package objects

import (
	"bytes"
	"encoding/hex"
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
	if c.Tree, err = parseHash(rest[:40]); err != nil {
		return c, fmt.Errorf("%w: commit with a bad tree", ErrCorrupt)
	}
	for rest = rest[41:]; len(rest) > 0 && rest[0] != '\n'; {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\n"))
		if id, ok := bytes.CutPrefix(line, []byte("parent ")); ok {
			p, err := parseHash(id)
			if err != nil {
				return c, fmt.Errorf("%w: commit with a bad parent", ErrCorrupt)
			}
			c.Parents = append(c.Parents, p)
		}
		if ident, ok := bytes.CutPrefix(line, []byte("committer ")); ok {
			c.Time = stamp(string(ident))
			break
		}
	}
	return c, nil
}

// parseHash is ParseHash without making a string.
func parseHash(digits []byte) (h Hash, err error) {
	if len(digits) != 40 || bytes.ContainsAny(digits, "ABCDEF") {
		return h, errors.New("not an object name")
	}
	_, err = hex.Decode(h[:], digits)
	return h, err
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

// TagType is what the target of an annotated tag is, as the tag says.
func TagType(data []byte) (Type, error) {
	lines := bytes.SplitN(data, []byte("\n"), 3)
	if len(lines) < 2 {
		return 0, fmt.Errorf("%w: tag without a type", ErrCorrupt)
	}
	name, ok := bytes.CutPrefix(lines[1], []byte("type "))
	t, err := plumbing.ParseObjectType(string(name))
	if !ok || err != nil {
		return 0, fmt.Errorf("%w: tag without a type", ErrCorrupt)
	}
	return t, nil
}

// Entry is one line of a tree.
type Entry struct {
	Name string
	Mode uint32 // octal, as git writes it
	Hash Hash
}

// IsTree tells a folder.
func (e Entry) IsTree() bool { return isTree(e.Mode) }

// IsLink tells a submodule, whose commit lives elsewhere.
func (e Entry) IsLink() bool { return isLink(e.Mode) }

func isTree(mode uint32) bool { return mode&0o170000 == 0o040000 }
func isLink(mode uint32) bool { return mode&0o170000 == 0o160000 }

// ParseTree reads a tree.
func ParseTree(data []byte) ([]Entry, error) {
	var entries []Entry
	for len(data) > 0 {
		mode, name, h, rest, err := nextEntry(data)
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Name: string(name), Mode: mode, Hash: h})
		data = rest
	}
	return entries, nil
}

// nextEntry reads one line of a tree; name stays part of data.
func nextEntry(data []byte) (mode uint32, name []byte, h Hash, rest []byte, err error) {
	i := 0
	for ; i < len(data) && data[i] >= '0' && data[i] <= '7' && i < 11; i++ {
		mode = mode<<3 | uint32(data[i]-'0')
	}
	if i == 0 || i >= len(data) || data[i] != ' ' {
		return 0, nil, h, nil, fmt.Errorf("%w: malformed mode in a tree", ErrCorrupt)
	}
	data = data[i+1:]
	nul := bytes.IndexByte(data, 0)
	if nul < 0 || len(data) < nul+21 {
		return 0, nil, h, nil, fmt.Errorf("%w: malformed tree", ErrCorrupt)
	}
	copy(h[:], data[nul+1:])
	return mode, data[:nul], h, data[nul+21:], nil
}

// References lists what an object points at, submodules left out.
func References(o Object) (refs []Hash, err error) {
	err = eachReference(o.Type, o.Data, func(h Hash) error {
		refs = append(refs, h)
		return nil
	})
	return refs, err
}

// eachReference calls f for everything that an object points at, submodules left out.
func eachReference(typ Type, data []byte, f func(Hash) error) error {
	switch typ {
	case plumbing.CommitObject:
		c, err := ParseCommit(data)
		for i := 0; i < len(c.Parents) && err == nil; i++ {
			err = f(c.Parents[i])
		}
		if err != nil {
			return err
		}
		return f(c.Tree)
	case plumbing.TagObject:
		h, err := TagTarget(data)
		if err != nil {
			return err
		}
		return f(h)
	case plumbing.TreeObject:
		for len(data) > 0 {
			mode, _, h, rest, err := nextEntry(data)
			if err != nil {
				return err
			}
			if data = rest; isLink(mode) {
				continue
			}
			if err := f(h); err != nil {
				return err
			}
		}
	}
	return nil
}
