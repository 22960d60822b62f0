package gitgate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"airlock/gitgate/objects"
	"github.com/go-git/go-git/v5/plumbing"
)

// ordinary is any repository of git's on disk, which is only read.
type ordinary struct {
	dir    string              // where HEAD is
	common string              // where objects, references and configuration are
	config map[string][]string // settings by "section.key" in lower case
}

// openOrdinary finds the repository that a path means, as git-upload-pack does: strict takes the path as it is.
func openOrdinary(path string, strict bool) (*ordinary, error) {
	suffixes := []string{"/.git", "", ".git/.git", ".git"}
	if strict {
		suffixes = []string{""}
	}
	for _, suffix := range suffixes {
		dir := path + suffix
		if text, err := os.ReadFile(dir); err == nil {
			target, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
			if !ok {
				continue
			}
			if dir = target; !filepath.IsAbs(dir) {
				dir = filepath.Join(filepath.Dir(path+suffix), target)
			}
		}
		o := &ordinary{dir: dir, common: dir}
		if text, err := os.ReadFile(filepath.Join(dir, "commondir")); err == nil {
			if o.common = strings.TrimSpace(string(text)); !filepath.IsAbs(o.common) {
				o.common = filepath.Join(dir, o.common)
			}
		}
		if o.isRepository() {
			return o, o.readConfig()
		}
	}
	return nil, fmt.Errorf("'%s' does not appear to be a git repository", clean(path))
}

func (o *ordinary) isRepository() bool {
	_, headErr := os.Lstat(filepath.Join(o.dir, "HEAD"))
	_, objectsErr := os.Stat(filepath.Join(o.common, "objects"))
	_, refsErr := os.Stat(filepath.Join(o.common, "refs"))
	return errors.Join(headErr, objectsErr, refsErr) == nil
}

// readConfig reads the repository's own configuration and no other.
func (o *ordinary) readConfig() error {
	o.config = map[string][]string{}
	if err := o.addConfig(filepath.Join(o.common, "config")); err != nil {
		return err
	}
	if o.enabled("extensions.worktreeconfig") {
		if err := o.addConfig(filepath.Join(o.dir, "config.worktree")); err != nil {
			return err
		}
	}
	if format := o.setting("extensions.objectformat"); format != "" && format != "sha1" {
		return fmt.Errorf("objects are named by %s; sha1 was wanted", clean(format))
	}
	return nil
}

// addConfig reads one file, if it is there.
func (o *ordinary) addConfig(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	settings, err := parseSettings(string(text))
	if err != nil {
		return fmt.Errorf("reading configuration %s: %w", path, err)
	}
	for name, values := range settings {
		o.config[name] = append(o.config[name], values...)
	}
	return nil
}

// setting is the last of its name: "" when there is none.
func (o *ordinary) setting(name string) string {
	all := o.config[name]
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

func (o *ordinary) enabled(name string) bool {
	switch strings.ToLower(o.setting(name)) {
	case "true", "1", "yes", "on":
		return true
	}
	return false
}

// load reads the repository as it is now.
func (o *ordinary) load() (source, error) {
	cut, ends, err := o.shallow()
	if err != nil {
		return source{}, err
	}
	set, err := objects.OpenOrdinary(filepath.Join(o.common, "objects"), cut)
	if err != nil {
		return source{}, err
	}
	whole, err := o.references(set)
	if err != nil {
		return source{}, err
	}
	snap := o.hide(whole)
	src := source{snap: snap, set: set, cut: ends, reach: objects.NewReach(), allows: o.features()}
	src.offers = func(ctx context.Context, set objects.Set) offer {
		return func(h objects.Hash) (bool, error) {
			switch {
			case src.allows.anything:
				return set.Has(h), nil
			case snap.names(h) || src.allows.tip && whole.names(h):
				return true, nil
			case !src.allows.reachable:
				return false, nil
			case !set.Has(h):
				return false, nil
			}
			all, err := src.reach.From(ctx, set, snap.tips())
			return err == nil && all.Has(h), err
		}
	}
	return src, nil
}

func (o *ordinary) features() features {
	anything := o.enabled("uploadpack.allowanysha1inwant")
	return features{
		anything:  anything,
		tip:       anything || o.enabled("uploadpack.allowtipsha1inwant"),
		reachable: anything || o.enabled("uploadpack.allowreachablesha1inwant"),
		filter:    o.enabled("uploadpack.allowfilter"),
		born:      o.setting("lsrefs.unborn") == "ignore",
	}
}

// shallow reads the commits whose parents the repository lacks.
func (o *ordinary) shallow() (cut map[objects.Hash]bool, ends []objects.Hash, err error) {
	text, err := os.ReadFile(filepath.Join(o.common, "shallow"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading shallow: %w", err)
	}
	cut = map[objects.Hash]bool{}
	for line := range strings.FieldsSeq(string(text)) {
		h, err := objects.ParseHash(line)
		if err != nil {
			return nil, nil, errors.New("reading shallow: a line is no object name")
		}
		cut[h] = true
		ends = append(ends, h)
	}
	return cut, ends, nil
}

// references reads packed-refs and the files over it; those whose object is missing are left out.
func (o *ordinary) references(set objects.Set) (*snapshot, error) {
	names := map[string]string{}
	text, err := os.ReadFile(filepath.Join(o.common, "packed-refs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading references: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if id, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && !strings.HasPrefix(line, "#") {
			names[name] = id
		}
	}
	err = filepath.WalkDir(filepath.Join(o.common, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what goes away meanwhile is gone
		}
		if text, err := os.ReadFile(path); err == nil {
			name, _ := filepath.Rel(o.common, path)
			names[filepath.ToSlash(name)] = strings.TrimSpace(string(text))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading references: %w", err)
	}
	s := &snapshot{}
	for name := range names {
		h := resolve(names, name)
		if validRef(name) && set.Has(h) {
			s.refs = append(s.refs, ref{name: name, hash: h, peeled: peel(set, h), target: target(names, name)})
		}
	}
	slices.SortFunc(s.refs, func(a, b ref) int { return strings.Compare(a.name, b.name) })
	return s, o.head(s)
}

// hide leaves out what transfer.hideRefs and uploadpack.hideRefs name; the last line that fits a reference counts.
func (o *ordinary) hide(s *snapshot) *snapshot {
	rules := slices.Concat(o.config["transfer.hiderefs"], o.config["uploadpack.hiderefs"])
	if len(rules) == 0 {
		return s
	}
	seen := &snapshot{head: s.head, headAt: s.headHash()}
	for _, r := range s.refs {
		if !hidden(rules, r.name) {
			seen.refs = append(seen.refs, r)
		}
	}
	return seen
}

func hidden(rules []string, name string) bool {
	for _, rule := range slices.Backward(rules) {
		rule, shown := strings.CutPrefix(rule, "!")
		rule = strings.TrimSuffix(strings.TrimPrefix(rule, "^"), "/")
		if name == rule || strings.HasPrefix(name, rule+"/") {
			return !shown
		}
	}
	return false
}

func (o *ordinary) head(s *snapshot) error {
	text, err := os.ReadFile(filepath.Join(o.dir, "HEAD"))
	if err != nil {
		return fmt.Errorf("reading HEAD: %w", err)
	}
	s.setHead(strings.TrimSpace(string(text)))
	return nil
}

// target is what a symbolic reference points at; "" for any other.
func target(names map[string]string, name string) string {
	to, ok := strings.CutPrefix(names[name], "ref:")
	if !ok {
		return ""
	}
	return strings.TrimSpace(to)
}

// resolve follows symbolic references.
func resolve(names map[string]string, name string) objects.Hash {
	for range 5 {
		to := target(names, name)
		if to == "" {
			return plumbing.NewHash(names[name])
		}
		name = to
	}
	return objects.Hash{}
}
