package gitgate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"airlock/gitgate/objects"
)

// ref is one reference; peeled is what an annotated tag means in the end, or zero.
type ref struct {
	name   string
	hash   objects.Hash
	peeled objects.Hash
}

// snapshot is the state of all references at one time. It is immutable.
type snapshot struct {
	refs []ref  // sorted by name
	head string // the branch HEAD points at; it may not exist yet
}

// get returns what a reference points at; zero when there is none.
func (s *snapshot) get(name string) objects.Hash {
	i, ok := slices.BinarySearchFunc(s.refs, name, func(r ref, name string) int { return strings.Compare(r.name, name) })
	if !ok {
		return objects.Hash{}
	}
	return s.refs[i].hash
}

// tips are the distinct objects that references point at.
func (s *snapshot) tips() []objects.Hash {
	seen := map[objects.Hash]bool{}
	var tips []objects.Hash
	for _, r := range s.refs {
		if !seen[r.hash] {
			seen[r.hash] = true
			tips = append(tips, r.hash)
		}
	}
	return tips
}

// with returns the snapshot after the updates.
func (s *snapshot) with(updates []update, peel func(objects.Hash) objects.Hash) *snapshot {
	byName := map[string]ref{}
	for _, r := range s.refs {
		byName[r.name] = r
	}
	for _, u := range updates {
		if u.deletes() {
			delete(byName, u.ref)
			continue
		}
		byName[u.ref] = ref{u.ref, u.new, peel(u.new)}
	}
	next := &snapshot{head: s.head}
	for _, r := range byName {
		next.refs = append(next.refs, r)
	}
	slices.SortFunc(next.refs, func(a, b ref) int { return strings.Compare(a.name, b.name) })
	return next
}

// mirrored tells the names that the mirror follows: branches, tags and notes.
func mirrored(name string) bool {
	for _, space := range []string{"refs/heads/", "refs/tags/", "refs/notes/"} {
		if strings.HasPrefix(name, space) {
			return validRef(name)
		}
	}
	return false
}

// validRef is git's check-ref-format.
func validRef(name string) bool {
	if !strings.HasPrefix(name, "refs/") || len(name) > 1000 || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".") {
		return false
	}
	if strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.ContainsAny(name, " ~^:?*[\\") {
		return false
	}
	if strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return false
	}
	parts := strings.Split(name, "/")
	return len(parts) > 1 && !slices.ContainsFunc(parts, func(p string) bool {
		return p == "" || strings.HasPrefix(p, ".") || strings.HasSuffix(p, ".lock")
	})
}

// capabilities is a set like "side-band-64k agent=git/2.39".
type capabilities []string

func (c capabilities) has(name string) bool { return slices.Contains(c, name) }

// advertisement is how an upstream introduces itself.
type advertisement struct {
	refs []ref
	head objects.Hash
	caps capabilities
}

// maxAdvertised bounds the references of an upstream.
const maxAdvertised = 1_000_000

// readAdvertisement reads the first part of protocol v0.
func readAdvertisement(r *bufio.Reader) (*advertisement, error) {
	a := &advertisement{}
	for first := true; ; first = false {
		line, err := readLine(r)
		if err == errFlush {
			return a, nil
		}
		if err == io.EOF {
			return nil, errors.New("upstream closed the connection without a word")
		}
		if err != nil {
			return nil, fmt.Errorf("reading advertisement: %w", unexpectedEOF(err))
		}
		if text, ok := strings.CutPrefix(line, "ERR "); ok {
			return nil, fmt.Errorf("upstream says: %s", clean(text))
		}
		if first {
			var caps string
			line, caps, _ = strings.Cut(line, "\x00")
			a.caps = strings.Fields(caps)
		}
		if err := a.add(line); err != nil {
			return nil, err
		}
	}
}

func (a *advertisement) add(line string) error {
	id, name, ok := strings.Cut(line, " ")
	if !ok {
		return nil // "version 1", "shallow …": nothing that concerns us
	}
	h, err := objects.ParseHash(id)
	if err != nil {
		return nil
	}
	if len(a.refs) >= maxAdvertised {
		return errors.New("upstream advertises too many references")
	}
	base, peeled := strings.CutSuffix(name, "^{}")
	switch {
	case peeled && len(a.refs) > 0 && a.refs[len(a.refs)-1].name == base:
		a.refs[len(a.refs)-1].peeled = h
	case name == "HEAD":
		a.head = h
	case !peeled:
		a.refs = append(a.refs, ref{name: name, hash: h})
	}
	return nil
}

// get returns what upstream has under a name.
func (a *advertisement) get(name string) objects.Hash {
	for _, r := range a.refs {
		if r.name == name {
			return r.hash
		}
	}
	return objects.Hash{}
}

// snapshot keeps what the mirror follows.
func (a *advertisement) snapshot() *snapshot {
	s := &snapshot{}
	for _, r := range a.refs {
		if mirrored(r.name) {
			s.refs = append(s.refs, r)
		}
	}
	slices.SortFunc(s.refs, func(a, b ref) int { return strings.Compare(a.name, b.name) })
	s.head = a.headBranch(s)
	return s
}

// headBranch follows the symref capability or, with older servers, the branch that HEAD agrees with.
func (a *advertisement) headBranch(s *snapshot) string {
	for _, c := range a.caps {
		if target, ok := strings.CutPrefix(c, "symref=HEAD:"); ok && validRef(target) {
			return target
		}
	}
	if !a.head.IsZero() {
		for _, name := range []string{"refs/heads/main", "refs/heads/master"} {
			if s.get(name) == a.head {
				return name
			}
		}
		for _, r := range s.refs {
			if r.hash == a.head && strings.HasPrefix(r.name, "refs/heads/") {
				return r.name
			}
		}
	}
	return "refs/heads/main"
}
