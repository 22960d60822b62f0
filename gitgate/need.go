package gitgate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"airlock/gitgate/objects"
	"github.com/go-git/go-git/v5/plumbing"
)

// need is what upstream needs of a pushed pack to move some references, and what it must have itself. Objects of the pack that nothing
// needs never leave quarantine.
type need struct {
	ctx   context.Context
	pack  *objects.Pack // nil: nothing came along
	store objects.Set
	all   objects.Set // both
	snap  *snapshot   // what upstream has

	wanted  *objects.Objects // of the pack
	outside map[objects.Hash]bool
	commits map[objects.Hash]bool     // those of outside that must be commits
	paths   map[objects.Hash]string   // of blobs: the first one
	more    map[objects.Hash][]string // and the others
	files   map[objects.Hash]bool     // blobs of outside
	names   map[string]bool           // the new paths of everything, be it new itself or not
	links   [][]byte                  // what new submodules name: anything, that is
	met     map[objects.Hash]string   // trees, and the folder in which each was met first
	again   map[place]bool            // where else
	kept    map[string]string         // paths of files and folders, each once
	room    int                       // bytes that may still be kept of them

	wants   func(path string) bool // tells that some rule is about such a path; nil: none is
	also    []named                // blobs that stand in such a path, besides the first one of theirs
	stands  map[named]bool         // what is in more
	looked  map[named]bool         // what is in also
	modules map[objects.Hash]bool  // files that git takes for .gitmodules
	attrs   map[objects.Hash]bool  // or for .gitattributes
	todo    []objects.Hash
}

// named is a blob and its path.
type named struct {
	blob objects.Hash
	path string
}

// place is a tree in a folder.
type place struct {
	tree   objects.Hash
	folder string
}

const (
	// maxPaths bounds what is kept of the paths of a push, in bytes: trees inside of each other may make any number of them, of any length.
	maxPaths = 192 << 20
	// keepPath is what a path, a place, or an entry of a folder that is being read is counted with, beside its text.
	keepPath = 128
)

func newNeed(ctx context.Context, pack *objects.Pack, store objects.Set, snap *snapshot) *need {
	n := &need{
		ctx: ctx, pack: pack, store: store, all: store, snap: snap, outside: map[objects.Hash]bool{}, commits: map[objects.Hash]bool{},
		paths: map[objects.Hash]string{}, more: map[objects.Hash][]string{}, files: map[objects.Hash]bool{}, names: map[string]bool{}, met: map[objects.Hash]string{}, again: map[place]bool{},
		kept: map[string]string{}, room: maxPaths, stands: map[named]bool{}, looked: map[named]bool{}, modules: map[objects.Hash]bool{}, attrs: map[objects.Hash]bool{},
	}
	if pack != nil {
		n.all = append(objects.Set{pack}, store...)
		n.wanted = objects.Set{pack}.None()
	}
	return n
}

// follow collects everything behind the new values of updates.
func (n *need) follow(updates []update) error {
	for _, u := range updates {
		if !u.deletes() && n.inPack(u.new) {
			n.todo = append(n.todo, u.new)
		}
	}
	for len(n.todo) > 0 {
		if err := n.ctx.Err(); err != nil {
			return err
		}
		h := n.todo[len(n.todo)-1]
		n.todo = n.todo[:len(n.todo)-1]
		if err := n.object(h); err != nil {
			return err
		}
	}
	return nil
}

func (n *need) inPack(h objects.Hash) bool { return n.pack != nil && n.pack.Has(h) }

// point goes on to an object of a type, or notes that upstream must have it.
func (n *need) point(h objects.Hash, typ objects.Type) error {
	if err := n.expect(h, typ); err != nil {
		return err
	}
	if n.inPack(h) {
		n.todo = append(n.todo, h)
		return nil
	}
	n.outside[h] = true
	if typ == plumbing.CommitObject {
		n.commits[h] = true
	}
	return nil
}

// expect makes sure that an object is of a type: what it points at would not be followed otherwise. What is not here upstream must have.
func (n *need) expect(h objects.Hash, typ objects.Type) (err error) {
	var is objects.Type
	if n.inPack(h) {
		is, err = n.pack.TypeOf(h)
	} else {
		is, err = n.store.TypeOf(h)
	}
	if errors.Is(err, objects.ErrNotFound) {
		return nil // see prove
	}
	if err != nil {
		return fmt.Errorf("reading the type of a pushed object: %w", err)
	}
	if is != typ {
		return fmt.Errorf("%w: %.8s is a %s where a %s belongs", objects.ErrCorrupt, h.String(), is, typ)
	}
	return nil
}

func (n *need) object(h objects.Hash) error {
	if n.wanted.Has(h) {
		return nil
	}
	o, err := n.pack.Get(h)
	if err != nil {
		return fmt.Errorf("reading pushed object: %w", err)
	}
	switch o.Type {
	case plumbing.CommitObject:
		n.wanted.Add(h)
		c, err := objects.ParseCommit(o.Data)
		if err != nil {
			return err
		}
		var before []objects.Hash
		for _, p := range c.Parents {
			if err := n.point(p, plumbing.CommitObject); err != nil {
				return err
			}
			if t, ok := n.treeOf(p); ok {
				before = append(before, t)
			}
		}
		return n.tree(c.Tree, "", before, 0)
	case plumbing.TagObject:
		n.wanted.Add(h)
		target, err := objects.TagTarget(o.Data)
		if err != nil {
			return err
		}
		typ, err := objects.TagType(o.Data)
		if err != nil {
			return err
		}
		return n.point(target, typ)
	case plumbing.TreeObject:
		return n.tree(h, "", nil, 0)
	}
	n.wanted.Add(h)
	return nil
}

// take counts bytes that are kept; those of what is given up come back.
func (n *need) take(bytes int) error {
	if n.room -= bytes; n.room < 0 {
		return fmt.Errorf("%w: too many paths", objects.ErrLimit)
	}
	return nil
}

// keep is a path as it is kept: once, however many objects stand in it.
func (n *need) keep(path string) (string, error) {
	if kept, ok := n.kept[path]; ok {
		return kept, nil
	}
	n.kept[path] = path
	return path, n.take(len(path) + keepPath)
}

// treeOf is the tree of a commit, if it can be read.
func (n *need) treeOf(commit objects.Hash) (objects.Hash, bool) {
	o, err := n.all.Get(commit)
	if err != nil || o.Type != plumbing.CommitObject {
		return objects.Hash{}, false
	}
	c, err := objects.ParseCommit(o.Data)
	return c.Tree, err == nil
}

// maxTreeDepth bounds the folders inside each other.
const maxTreeDepth = 500

// tree goes down a folder. What the same folder of a commit before has is taken to be there: that commit is followed, or upstream must have it.
// Of a tree that is upstream's only the names are new, in another folder than before.
func (n *need) tree(h objects.Hash, prefix string, before []objects.Hash, depth int) error {
	if slices.Contains(before, h) {
		return nil
	}
	if depth > maxTreeDepth || len(prefix) > 4096 {
		return fmt.Errorf("%w: path is too long", objects.ErrLimit)
	}
	first, err := n.meet(h, prefix)
	if err != nil || !first {
		return err
	}
	if err := n.expect(h, plumbing.TreeObject); err != nil {
		return err
	}
	ours := n.inPack(h)
	if ours {
		n.wanted.Add(h)
	} else {
		n.outside[h] = true
	}
	entries, err := n.entries(h)
	if err != nil && !ours {
		return nil // see prove
	}
	if err != nil {
		return err
	}
	if err := n.take(len(entries) * keepPath); err != nil {
		return err
	}
	defer func() { n.room += len(entries) * keepPath }()
	if len(entries) == 0 && prefix != "" {
		n.names[prefix] = true // no file tells of it
	}
	old := n.compare(entries, before)
	for i, e := range entries {
		if old[i].same {
			continue
		}
		if e.IsTree() {
			if err := n.tree(e.Hash, prefix+e.Name+"/", old[i].trees, depth+1); err != nil {
				return err
			}
			continue
		}
		if err := n.file(e, prefix+e.Name, ours); err != nil {
			return err
		}
	}
	return n.ctx.Err()
}

// meet tells whether a tree stands in a folder for the first time.
func (n *need) meet(h objects.Hash, folder string) (first bool, err error) {
	if folder, err = n.keep(folder); err != nil {
		return false, err
	}
	if was, met := n.met[h]; !met {
		n.met[h] = folder
		return true, nil
	} else if was == folder || n.again[place{h, folder}] {
		return false, nil
	}
	n.again[place{h, folder}] = true
	return true, n.take(keepPath)
}

func (n *need) entries(h objects.Hash) ([]objects.Entry, error) {
	o, err := n.all.Get(h)
	if err != nil {
		return nil, fmt.Errorf("reading pushed object: %w", err)
	}
	if o.Type != plumbing.TreeObject {
		return nil, fmt.Errorf("%w: %.8s is a %s where a tree belongs", objects.ErrCorrupt, h.String(), o.Type)
	}
	return objects.ParseTree(o.Data)
}

// older is what folders before have under the name of an entry.
type older struct {
	same  bool
	trees []objects.Hash
}

// maxBefore is how many commits before are looked at. What more of them have costs work and proves nothing.
const maxBefore = 8

// compare finds the entries of a folder in the same folder of commits before. Both are in git's order; where they are not, they differ.
func (n *need) compare(entries []objects.Entry, before []objects.Hash) []older {
	all := make([]older, len(entries))
	for _, h := range before[:min(len(before), maxBefore)] {
		old, err := n.entries(h)
		if err != nil {
			continue // it proves nothing then
		}
		j := 0
		for i, e := range entries {
			for j < len(old) && earlier(old[j], e) {
				j++
			}
			switch {
			case j == len(old) || old[j].Name != e.Name:
			case old[j].Hash == e.Hash && old[j].Mode == e.Mode:
				all[i].same = true
			case old[j].IsTree():
				all[i].trees = append(all[i].trees, old[j].Hash)
			}
		}
	}
	return all
}

// earlier compares names as git sorts them: a folder as if a slash stood behind it.
func earlier(a, b objects.Entry) bool {
	x, y := a.Name, b.Name
	if a.IsTree() {
		x += "/"
	}
	if b.IsTree() {
		y += "/"
	}
	return x < y
}

// file notes a new entry that is no folder. ours tells that its folder is in the pack.
func (n *need) file(e objects.Entry, path string, ours bool) error {
	path, err := n.keep(path)
	if err != nil {
		return err
	}
	n.names[path] = true
	if e.IsLink() {
		n.links = append(n.links, e.Hash[:])
		return n.take(keepPath)
	}
	if ours {
		if err := n.blob(e, path); err != nil {
			return err
		}
	}
	if n.wants == nil || n.paths[e.Hash] == path || n.looked[named{e.Hash, path}] || !n.wants(path) {
		return nil
	}
	n.looked[named{e.Hash, path}] = true
	n.also = append(n.also, named{e.Hash, path})
	return n.take(keepPath)
}

func (n *need) blob(e objects.Entry, path string) error {
	if objects.IsModules(e.Name) {
		n.modules[e.Hash] = true
	}
	if objects.IsAttributes(e.Name) {
		n.attrs[e.Hash] = true
	}
	first, met := n.paths[e.Hash]
	if !met && !n.files[e.Hash] {
		if err := n.expect(e.Hash, plumbing.BlobObject); err != nil {
			return err
		}
	}
	switch {
	case !n.inPack(e.Hash):
		n.outside[e.Hash], n.files[e.Hash] = true, true
	case !met:
		n.wanted.Add(e.Hash)
		n.paths[e.Hash] = path
	case first != path && !n.stands[named{e.Hash, path}]:
		n.stands[named{e.Hash, path}] = true
		n.more[e.Hash] = append(n.more[e.Hash], path)
		return n.take(keepPath)
	}
	return nil
}

// has tells which of some objects upstream is known to have: those that can be reached from its references, not what a mirror happens to hold.
func (n *need) has(reach *objects.Reach, wanted map[objects.Hash]bool, commits map[objects.Hash]bool) (missing map[objects.Hash]bool, err error) {
	missing = map[objects.Hash]bool{}
	tips := n.snap.tips()
	history := map[objects.Hash]bool{}
	for h := range wanted {
		if n.snap.names(h) {
			continue
		}
		missing[h] = true
		if commits[h] {
			history[h] = true
		}
	}
	if len(history) > 0 {
		found, err := n.store.Behind(n.ctx, tips, history)
		if err != nil {
			return nil, err
		}
		for _, h := range found {
			delete(missing, h)
		}
	}
	if len(missing) == 0 {
		return missing, nil
	}
	all, err := reach.From(n.ctx, n.store, tips)
	if err != nil {
		return nil, err
	}
	for h := range missing {
		if all.Has(h) {
			delete(missing, h)
		}
	}
	return missing, nil
}

// prove makes sure that upstream has what the pack rests on.
func (n *need) prove(reach *objects.Reach) error {
	missing, err := n.has(reach, n.outside, n.commits)
	if err != nil {
		return fmt.Errorf("looking for what upstream has: %w", err)
	}
	for h := range missing {
		return fmt.Errorf("%w: something points at object %.8s, which did not come along, and which upstream is not known to have", objects.ErrCorrupt, h.String())
	}
	return nil
}

// forget drops all but what fresh needs: a push that waits for upstream must not keep megabytes of paths.
func (n *need) forget() { *n = need{pack: n.pack, wanted: n.wanted} }

// fresh is a pack of just what is needed: the one that came, or another one in a folder of its own below dir.
func (n *need) fresh(ctx context.Context, dir string, limits objects.Limits) (*objects.Pack, error) {
	if n.wanted.Len() == n.pack.Len() {
		return n.pack, nil
	}
	own, err := os.MkdirTemp(dir, "fresh-")
	if err != nil {
		return nil, fmt.Errorf("making a pack for upstream: %w", err)
	}
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		_, err := n.wanted.WritePack(ctx, w, objects.Form{Offsets: true})
		written <- errors.Join(err, w.CloseWithError(err))
	}()
	limits.PackBytes *= 2 // deltas whose base stays behind are written as a whole
	pack, err := objects.Receive(ctx, r, filepath.Clean(own), limits)
	r.CloseWithError(err)
	if err = errors.Join(<-written, err); err != nil {
		return nil, fmt.Errorf("making a pack for upstream: %w", err)
	}
	return pack, nil
}
