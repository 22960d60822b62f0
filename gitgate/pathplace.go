package gitgate

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"airlock/gitgate/objects"
)

// joinedPaths scans the paths of a push as whole texts, and tells of a finding in which commit the path is: the path itself, which may
// be the secret, is not told.
func (s *inspection) joinedPaths(ctx context.Context) error {
	text := []byte(strings.Join(slices.Sorted(maps.Keys(s.need.names)), "\n"))
	found, err := s.scanner.Scan(ctx, text)
	for _, f := range found {
		where := "the path of a file"
		if commit, ok := s.commitOf(ctx, lineOf(text, f.Start)); ok {
			where += " in commit " + commit.String()[:8]
		}
		for _, h := range s.judge(text, append(found[:0:0], f), where) {
			h.line = 0
			s.hits = append(s.hits, h)
		}
	}
	return err
}

// lineOf is the line of a text in which a byte is.
func lineOf(text []byte, at int) string {
	from := bytes.LastIndexByte(text[:at], '\n') + 1
	line, _, _ := strings.Cut(string(text[from:]), "\n")
	return line
}

// maxCommitsAsked bounds the commits that are looked through for a path.
const maxCommitsAsked = 1000

// commitOf finds a pushed commit that has a path, a file's or the beginning of one.
func (s *inspection) commitOf(ctx context.Context, path string) (commit objects.Hash, ok bool) {
	asked := 0
	for _, h := range s.pack.Hashes() {
		typ, err := s.pack.TypeOf(h)
		if err != nil || typ != plumbing.CommitObject || asked == maxCommitsAsked || ctx.Err() != nil {
			continue
		}
		asked++
		if found, err := hasPath(s.need.all, h, path); err == nil && found {
			return h, true
		}
	}
	return objects.Hash{}, false
}

// hasPath reports whether a commit has a file or a folder of that path.
func hasPath(set objects.Set, commit objects.Hash, path string) (ok bool, err error) {
	o, err := set.Get(commit)
	if err != nil {
		return false, err
	}
	c, err := objects.ParseCommit(o.Data)
	if err != nil {
		return false, err
	}
	at := c.Tree
	for name := range strings.SplitSeq(path, "/") {
		tree, err := set.Get(at)
		if err != nil || tree.Type != plumbing.TreeObject {
			return false, err
		}
		if at, ok, err = child(tree.Data, name); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}
