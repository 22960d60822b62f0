package gitgate

import (
	"context"
	"strings"

	"airlock/gitgate/objects"
	"airlock/internal/secrets"
	"github.com/go-git/go-git/v5/plumbing"
)

// maxBorder bounds the commits of upstream's in which a finding is looked up.
const maxBorder = 32

// news drops the findings that upstream already has: the same rule, the same text, in a file of the same path, in a commit that the
// push builds upon or replaces. A file that holds an old secret, or a false alarm, can so be edited. A blob that stands in several paths is none
// of upstream's unless each of them is. What the agent brings is never consulted, so nothing that it writes can excuse anything. A credential of
// the bundle's own is never excused.
func (s *inspection) news(ctx context.Context, o objects.Object, path string, found []secrets.Finding) ([]secrets.Finding, error) {
	if len(found) == 0 || path == "" || o.Type != plumbing.BlobObject {
		return found, nil
	}
	fresh := make([]bool, len(found))
	for _, path := range append([]string{path}, s.need.more[o.Hash]...) {
		old := map[string]bool{}
		for _, commit := range s.border {
			if err := s.oldFindings(ctx, commit, path, old); err != nil {
				return nil, err
			}
		}
		for i, f := range found {
			fresh[i] = fresh[i] || s.scanner.IsKnown(f.Rule) || !old[fingerprint(f, o.Data)]
		}
	}
	var left []secrets.Finding
	for i, f := range found {
		if fresh[i] {
			left = append(left, f)
		}
	}
	return left, nil
}

// fingerprint is what makes two findings the same; it stays in memory.
func fingerprint(f secrets.Finding, data []byte) string {
	return f.Rule + "\x00" + string(data[f.Start:f.End])
}

// oldFindings scans a file as upstream has it in one commit.
func (s *inspection) oldFindings(ctx context.Context, commit objects.Hash, path string, into map[string]bool) error {
	data, ok, err := fileAt(s.upstream, commit, path)
	if !ok || err != nil {
		return err
	}
	found, err := s.scanner.ScanFile(ctx, path, data)
	if err != nil {
		return nil // what cannot be scanned excuses nothing
	}
	for _, f := range found {
		into[fingerprint(f, data)] = true
	}
	return nil
}

// fileAt reads the file of a path in a commit.
func fileAt(set objects.Set, commit objects.Hash, path string) (data []byte, ok bool, err error) {
	o, err := set.Peel(commit)
	if err != nil || o.Type != plumbing.CommitObject {
		return nil, false, err
	}
	c, err := objects.ParseCommit(o.Data)
	if err != nil {
		return nil, false, err
	}
	at := c.Tree
	for name := range strings.SplitSeq(path, "/") {
		tree, err := set.Get(at)
		if err != nil || tree.Type != plumbing.TreeObject {
			return nil, false, err
		}
		if at, ok, err = child(tree.Data, name); !ok || err != nil {
			return nil, false, err
		}
	}
	blob, err := set.Get(at)
	return blob.Data, blob.Type == plumbing.BlobObject, err
}

func child(tree []byte, name string) (objects.Hash, bool, error) {
	entries, err := objects.ParseTree(tree)
	for _, e := range entries {
		if e.Name == name && !e.IsLink() {
			return e.Hash, true, nil
		}
	}
	return objects.Hash{}, false, err
}

// edge notes a commit of upstream's that the push builds upon.
func (s *inspection) edge(h objects.Hash) {
	if len(s.border) >= maxBorder || h.IsZero() || s.bordering[h] || s.pack.Has(h) || !s.upstream.Has(h) {
		return
	}
	s.bordering[h] = true
	s.border = append(s.border, h)
}
