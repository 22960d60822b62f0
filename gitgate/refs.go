package gitgate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"airlock/gitgate/objects"
)

// ref is one reference.
type ref struct {
	name   string
	hash   objects.Hash
	peeled objects.Hash // what an annotated tag means in the end, or zero
	target string       // of a symbolic reference, where that is known
}

// snapshot is the state of all references at one time. It is immutable.
type snapshot struct {
	refs   []ref        // sorted by name
	head   string       // the branch HEAD points at, which may not exist yet; "" when it is none
	headAt objects.Hash // where HEAD stands when it is on no branch

	once  sync.Once
	named map[objects.Hash]bool // see names
}

// headHash is what HEAD means; zero when its branch does not exist yet.
func (s *snapshot) headHash() objects.Hash {
	if s.head == "" {
		return s.headAt
	}
	return s.get(s.head)
}

// expand finds what a short name means, by git's rules; ok only when that is one thing.
func (s *snapshot) expand(name string) (found objects.Hash, ok bool) {
	n := 0
	for _, full := range []string{name, "refs/" + name, "refs/tags/" + name, "refs/heads/" + name, "refs/remotes/" + name, "refs/remotes/" + name + "/HEAD"} {
		h := s.get(full)
		if full == "HEAD" {
			h = s.headHash()
		}
		if !h.IsZero() {
			found = h
			n++
		}
	}
	return found, n == 1
}

// names tells whether an object is advertised.
func (s *snapshot) names(h objects.Hash) bool {
	s.once.Do(func() {
		s.named = map[objects.Hash]bool{s.headHash(): true}
		for _, r := range s.refs {
			s.named[r.hash], s.named[r.peeled] = true, true
		}
		delete(s.named, objects.Hash{})
	})
	return s.named[h]
}

// get returns what a reference points at; zero when there is none.
func (s *snapshot) get(name string) objects.Hash {
	i, ok := slices.BinarySearchFunc(s.refs, name, func(r ref, name string) int { return strings.Compare(r.name, name) })
	if !ok {
		return objects.Hash{}
	}
	return s.refs[i].hash
}

// same tells whether nothing has changed.
func (s *snapshot) same(o *snapshot) bool {
	return s.head == o.head && (s.head != "" || s.headAt == o.headAt) && slices.Equal(s.refs, o.refs)
}

// tips are the distinct objects that references and HEAD point at.
func (s *snapshot) tips() []objects.Hash {
	seen := map[objects.Hash]bool{}
	var tips []objects.Hash
	if s.head == "" && !s.headAt.IsZero() {
		seen[s.headAt] = true
		tips = append(tips, s.headAt)
	}
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
		byName[u.ref] = ref{name: u.ref, hash: u.new, peeled: peel(u.new)}
	}
	next := &snapshot{head: s.head, headAt: s.headAt}
	for _, r := range byName {
		next.refs = append(next.refs, r)
	}
	slices.SortFunc(next.refs, func(a, b ref) int { return strings.Compare(a.name, b.name) })
	return next
}

// mirrored tells the names that the mirror follows: all that upstream shows.
func mirrored(name string) bool { return validRef(name) }

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

// errNoAdvertisement is an upstream that ends instead of speaking git's protocol.
var errNoAdvertisement = errors.New("upstream closed the connection and did not say why")

// advertised reads what a session's upstream has. Where it hangs up instead, the error is what it has told people.
func advertised(s session) (*advertisement, error) {
	adv, err := readAdvertisement(s.Greeting())
	if err != nil {
		if said := s.Said(); said != "" {
			return nil, fmt.Errorf("upstream closed the connection and says: %s", said)
		}
	}
	return adv, err
}

// readAdvertisement reads the first part of protocol v0. Its errors quote upstream: see mirror.words.
func readAdvertisement(r *bufio.Reader) (*advertisement, error) {
	a := &advertisement{}
	for first := true; ; first = false {
		line, err := readLine(r)
		if err == errFlush {
			return a, nil
		}
		if err == io.EOF {
			return nil, errNoAdvertisement
		}
		if err != nil {
			return nil, fmt.Errorf("reading advertisement: %w", unexpectedEOF(err))
		}
		if text, ok := strings.CutPrefix(line, "ERR "); ok {
			return nil, fmt.Errorf("upstream says: %s", text)
		}
		if first {
			var caps string
			line, caps, _ = strings.Cut(line, "\x00")
			a.caps = strings.Fields(caps)
			for _, c := range a.caps {
				if err := checkFormat(c); err != nil {
					return nil, err
				}
			}
		}
		if err := a.add(line); err != nil {
			return nil, err
		}
	}
}

// checkFormat refuses the capability of an upstream that would look like an empty one to us.
func checkFormat(capability string) error {
	if format, ok := strings.CutPrefix(capability, "object-format="); ok && format != "sha1" {
		return fmt.Errorf("upstream names its objects by %s; sha1 was wanted", format)
	}
	return nil
}

func (a *advertisement) add(line string) error {
	id, name, ok := strings.Cut(line, " ")
	if id == "version" || id == "shallow" {
		return nil
	}
	h, err := objects.ParseHash(id)
	if !ok || err != nil {
		return errors.New("upstream advertises something that is no reference")
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
	s.head, s.headAt = a.symref(), a.head
	if s.head == "" && a.head.IsZero() {
		s.head = "refs/heads/main" // upstream does not tell, and HEAD must be something
	}
	return s
}

// symref is the branch that upstream's HEAD is on; "" when it is on none, or upstream does not say.
func (a *advertisement) symref() string {
	for _, c := range a.caps {
		if target, ok := strings.CutPrefix(c, "symref=HEAD:"); ok && validRef(target) {
			return target
		}
	}
	return ""
}
