package gitgate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"airlock/gitgate/objects"
	"airlock/internal/secrets"
	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sync/errgroup"
)

// maxHits is how many findings one push is told; the first would be enough to refuse it.
const maxHits = 20

// hit is a finding and where it is, in words that hold no secret.
type hit struct {
	rule   string
	where  string
	line   int    // 0 where lines mean nothing
	member string // of an archive; "" elsewhere
	object string // its name, shortened; "" is none
	digest string // of the value, by which it can be let in; "" never can
}

// place is where it is, for the operator.
func (h hit) place() string {
	where := strings.TrimPrefix(h.String(), h.rule+" in ")
	if h.object == "" || strings.Contains(where, h.object) {
		return where
	}
	return where + ", object " + h.object
}

func (h hit) String() string {
	if h.member != "" {
		return h.rule + " in " + h.where + "!" + h.member
	}
	if h.line == 0 {
		return h.rule + " in " + h.where
	}
	return fmt.Sprintf("%s in %s:%d", h.rule, h.where, h.line)
}

// explainHits is what the person at the client reads.
func explainHits(hits []hit, next string) string {
	var b strings.Builder
	b.WriteString("\nairlock: this push holds a secret, so nothing of it went upstream:\n")
	for _, h := range hits {
		fmt.Fprintf(&b, "  %s\n", h)
	}
	if slices.ContainsFunc(hits, func(h hit) bool { return h.rule == secrets.Unreadable }) {
		b.WriteString("An archive that is encrypted, or compressed in a way that is not known, may hold one: nobody here can read it.\n")
	}
	b.WriteString("Take it out of every commit that holds it (git commit --amend, git rebase -i), then push again.\n")
	b.WriteString(next + "\n")
	return b.String()
}

// inspection looks at everything that a push brings: contents, paths, whole commits and tags, names of references.
type inspection struct {
	scanner  *secrets.Scanner
	pack     *objects.Pack // nil: nothing came along
	updates  []update
	current  *snapshot // what upstream has
	options  []string
	upstream objects.Set // what upstream is known to have
	// value names what a rule has found by its digest, "" for what can never be let in, and tells whether it is let in.
	value func(rule string, value []byte) (digest string, excused bool)

	need *need
	seen *cleared // of earlier pushes

	paths     map[objects.Hash]string // of pushed blobs
	border    []objects.Hash          // commits of upstream's that the push builds upon or replaces
	bordering map[objects.Hash]bool

	mu   sync.Mutex
	hits []hit
}

// errEnough ends an inspection early.
var errEnough = errors.New("enough findings")

// run returns the findings. An error means that not everything was seen.
func (s *inspection) run(ctx context.Context) ([]hit, error) {
	if err := errors.Join(s.refNames(ctx), s.pushOptions(ctx)); err != nil {
		return nil, err
	}
	if s.pack != nil {
		if err := s.objects(ctx); err != nil && !errors.Is(err, errEnough) {
			return nil, err
		}
	}
	slices.SortFunc(s.hits, func(a, b hit) int { return strings.Compare(a.where, b.where) })
	return s.hits, nil
}

func (s *inspection) refNames(ctx context.Context) error {
	for _, u := range s.updates {
		if u.deletes() && s.current != nil && !s.current.get(u.ref).IsZero() {
			continue // upstream has the name, and is rid of it then
		}
		found, err := s.scanner.Scan(ctx, []byte(u.ref))
		if err != nil {
			return err
		}
		for _, h := range s.judge([]byte(u.ref), found, "the name of a reference") {
			h.line = 0
			s.hits = append(s.hits, h)
		}
	}
	return nil
}

// pushOption is where a finding in an option is.
const pushOption = "push option"

// pushOptions looks at each option, and at all of them: a secret may stand in pieces.
func (s *inspection) pushOptions(ctx context.Context) error {
	all := []byte(strings.Join(s.options, "\n"))
	found, err := s.scanner.Scan(ctx, all)
	s.hits = append(s.hits, s.judge(all, found, pushOption)...)
	return err
}

// judge makes hits of findings, but of those that an operator has let in.
func (s *inspection) judge(text []byte, found []secrets.Finding, where string) (hits []hit) {
	for _, f := range found {
		if digest, excused := s.value(f.Rule, text[f.Start:f.End]); !excused {
			hits = append(hits, hit{rule: f.Rule, where: where, line: f.Line, member: f.Member, digest: digest})
		}
	}
	return hits
}

// objects reads the pack in order, so that deltas find their bases cached, and scans on all cores.
func (s *inspection) objects(ctx context.Context) error {
	s.paths, s.bordering = s.need.paths, map[objects.Hash]bool{}
	group, within := errgroup.WithContext(ctx)
	hashes := s.pack.Hashes()
	for h := range s.need.commits {
		s.edge(h)
	}
	for _, u := range s.updates {
		if s.need.snap.get(u.ref) == u.old {
			s.edge(u.old)
		}
	}
	if err := s.pathNames(ctx); err != nil {
		return err
	}
	work := make(chan objects.Object)
	group.Go(func() (err error) {
		defer close(work)
		defer survived(&err)
		for _, h := range hashes {
			o, err := s.pack.Get(h)
			if err != nil {
				return fmt.Errorf("reading pushed object: %w", err)
			}
			if len(o.Data) > largeObject { // one at a time, and nothing is read meanwhile
				if err := s.object(within, o); err != nil {
					return err
				}
				if o.Data = nil; s.pack.Large() {
					runtime.GC() // what it took is several times its size, and the next one is to have that room
				}
				continue
			}
			select {
			case work <- o:
			case <-within.Done():
				return within.Err()
			}
		}
		return nil
	})
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error { return s.each(within, work) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return errors.Join(s.renamed(), s.otherPaths(ctx))
}

// renamed checks files of upstream's that now stand where git reads them, which they did not before.
func (s *inspection) renamed() error {
	for _, of := range []map[objects.Hash]bool{s.need.modules, s.need.attrs} {
		for h := range of {
			if s.pack.Has(h) {
				continue // it was checked with the others
			}
			o, err := s.need.all.Get(h)
			if err != nil {
				return fmt.Errorf("reading a pushed path: %w", err)
			}
			if err := s.check(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// each looks at objects as they come.
func (s *inspection) each(ctx context.Context, work <-chan objects.Object) (err error) {
	defer survived(&err)
	for o := range work {
		if err := s.object(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// survived makes an error of a panic, which would end git-gate for all of its clients: it refuses this push alone. Its value is not told, it may
// quote what the client sent.
func survived(err *error) {
	if recover() != nil {
		*err = errors.New("looking at a pushed object panicked")
	}
}

// otherPaths looks at blobs in such paths as some rule is about, besides their first.
func (s *inspection) otherPaths(ctx context.Context) error {
	for _, n := range s.need.also {
		o, err := s.need.all.Get(n.blob)
		if errors.Is(err, objects.ErrNotFound) {
			continue // prove has found it behind upstream's references, of which a mirror may lack some blobs
		}
		if err != nil {
			return fmt.Errorf("reading a pushed path: %w", err)
		}
		if err := s.look(ctx, o, n.path); err != nil {
			return err
		}
	}
	return nil
}

// largeObject is the size from which objects are looked at one at a time, in bytes.
const largeObject = 8 << 20

// maxTree bounds one folder, in bytes; a name takes some thirty.
const maxTree = 16 << 20

// check refuses what git would refuse with receive.fsckObjects.
func (s *inspection) check(o objects.Object) error {
	if o.Type == plumbing.TreeObject && len(o.Data) > maxTree {
		return fmt.Errorf("%w: a folder of %d bytes", objects.ErrLimit, len(o.Data))
	}
	err := objects.Check(o)
	if s.need.modules[o.Hash] && o.Type == plumbing.BlobObject {
		err = errors.Join(err, objects.CheckModules(o))
	}
	if s.need.attrs[o.Hash] && o.Type == plumbing.BlobObject {
		err = errors.Join(err, objects.CheckAttributes(o))
	}
	return err
}

// object checks and scans one object.
func (s *inspection) object(ctx context.Context, o objects.Object) error {
	if err := s.check(o); err != nil {
		where, placeErr := s.place(ctx, o.Hash, s.paths[o.Hash], "")
		if where == "" {
			return errors.Join(err, placeErr)
		}
		return errors.Join(fmt.Errorf("%s: %w", where, err), placeErr)
	}
	return s.look(ctx, o, s.paths[o.Hash])
}

// look scans an object as what stands in a path.
func (s *inspection) look(ctx context.Context, o objects.Object, path string) error {
	if s.seen.clean(o.Hash, path) {
		return nil
	}
	text, where, err := view(o, path)
	if err != nil {
		return err
	}
	found, err := s.scanner.ScanFile(ctx, path, text)
	if err != nil {
		where, placeErr := s.place(ctx, o.Hash, path, where)
		return errors.Join(placeErr, fmt.Errorf("%s: %w", where, err))
	}
	if len(found) == 0 {
		s.seen.note(o.Hash, path)
		return nil
	}
	if found, err = s.news(ctx, o, path, found); err != nil {
		return fmt.Errorf("comparing findings with upstream's: %w", err)
	}
	for _, h := range s.judge(text, found, where) {
		if o.Type == plumbing.TreeObject {
			h.line = 0
		}
		if h.where, err = s.place(ctx, o.Hash, path, where); err != nil {
			return err
		}
		if err := s.add(h, o); err != nil {
			return err
		}
	}
	return nil
}

// view is what is scanned of an object, and how to name it. Of a tree it is the names.
func view(o objects.Object, path string) (text []byte, where string, err error) {
	short := o.Hash.String()[:8]
	switch o.Type {
	case plumbing.TreeObject:
		text, err = treeNames(o.Data)
		return text, "the name of a file (tree " + short + ")", err
	case plumbing.CommitObject:
		return o.Data, "commit " + short, nil
	case plumbing.TagObject:
		return o.Data, "tag object " + short, nil
	}
	if path != "" {
		return o.Data, path, nil
	}
	return o.Data, "blob " + short, nil
}

// treeNames lists the names in a tree, and behind them what submodules name: anything, that is.
func treeNames(data []byte) ([]byte, error) {
	entries, err := objects.ParseTree(data)
	var names, links bytes.Buffer
	for _, e := range entries {
		names.WriteString(e.Name)
		names.WriteByte('\n')
		if e.IsLink() {
			links.Write(e.Hash[:])
		}
	}
	return append(names.Bytes(), links.Bytes()...), err
}

// place names an object by its path, if the path holds no secret itself.
func (s *inspection) place(ctx context.Context, h objects.Hash, path, where string) (string, error) {
	if path == "" {
		return where, nil
	}
	found, err := s.scanner.Scan(ctx, []byte(path))
	if err != nil || len(found) > 0 {
		return "blob " + h.String()[:8], err
	}
	return clean(path), nil
}

// add notes a hit.
func (s *inspection) add(h hit, o objects.Object) error {
	h.object = o.Hash.String()[:8]
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.hits, h) {
		s.hits = append(s.hits, h)
	}
	if len(s.hits) >= maxHits {
		return errEnough
	}
	return nil
}

// pathNames scans the joined paths: a name may only be a secret together with its folder.
func (s *inspection) pathNames(ctx context.Context) error {
	turned := slices.Clone(s.need.links) // the oldest first
	slices.Reverse(turned)
	return errors.Join(
		s.joinedPaths(ctx),
		s.names(ctx, bytes.Join(s.need.links, nil), "the commits of submodules"),
		s.names(ctx, bytes.Join(turned, nil), "the commits of submodules"),
	)
}

// names scans what has no lines.
func (s *inspection) names(ctx context.Context, text []byte, where string) error {
	found, err := s.scanner.Scan(ctx, text)
	for _, h := range s.judge(text, found, where) {
		h.line = 0
		s.hits = append(s.hits, h)
	}
	return err
}
