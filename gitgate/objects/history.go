package objects

import (
	"context"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
)

// Peel follows tags to what they mean in the end.
func (s Set) Peel(h Hash) (Object, error) {
	for range 100 {
		o, err := s.Get(h)
		if err != nil || o.Type != plumbing.TagObject {
			return o, err
		}
		if h, err = TagTarget(o.Data); err != nil {
			return o, err
		}
	}
	return Object{}, fmt.Errorf("%w: tags upon tags", ErrLimit)
}

// Tags lists the tag objects from one to what it means in the end, that left out.
func (s Set) Tags(h Hash) (chain []Hash, err error) {
	for range 100 {
		o, err := s.Get(h)
		if err != nil || o.Type != plumbing.TagObject {
			return chain, err
		}
		chain = append(chain, h)
		if h, err = TagTarget(o.Data); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: tags upon tags", ErrLimit)
}

func (s Set) commit(h Hash) (Commit, error) {
	for _, p := range s {
		at, ok := p.find(h)
		if !ok {
			continue
		}
		return p.commit(h, at)
	}
	return Commit{}, fmt.Errorf("%w: %s", ErrNotFound, h)
}

// commit reads a commit, without its parents when the repository lacks them.
func (p *Pack) commit(h Hash, at int64) (Commit, error) {
	typ, data, err := p.read(at)
	if err != nil {
		return Commit{}, err
	}
	if typ != plumbing.CommitObject {
		return Commit{}, fmt.Errorf("%w: %s is a %s where a commit belongs", ErrCorrupt, h, typ)
	}
	c, err := ParseCommit(data)
	if p.cut[h] {
		c.Parents = nil
	}
	return c, err
}

// cut tells whether the repository itself lacks the parents of a commit.
func (s Set) cut(h Hash) bool {
	for _, p := range s {
		if p.cut[h] {
			return true
		}
	}
	return false
}

// IsAncestor tells whether old can be reached from new.
func (s Set) IsAncestor(ctx context.Context, old, new Hash) (bool, error) {
	for h, err := range s.ancestors(ctx, []Hash{new}, nil) {
		if h == old || err != nil {
			return err == nil, err
		}
	}
	return false, nil
}

// ancestors walks histories level by level, each commit once. Behind a commit that follow says no to, nothing is looked at.
func (s Set) ancestors(ctx context.Context, from []Hash, follow func(Hash, Commit) bool) func(func(Hash, error) bool) {
	return func(yield func(Hash, error) bool) {
		seen := map[Hash]bool{}
		todo := make([]Hash, 0, len(from))
		add := func(commits []Hash) {
			for _, h := range commits {
				if !seen[h] {
					seen[h] = true
					todo = append(todo, h)
				}
			}
		}
		for add(from); len(todo) > 0; {
			h := todo[0]
			todo = todo[1:]
			if !yield(h, nil) {
				return
			}
			c, err := s.commit(h)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(h, err)
				return
			}
			if follow == nil || follow(h, c) {
				add(c.Parents)
			}
		}
	}
}

// end is what an object means when tags are followed. Nothing but tags is read: a client may name large files many times.
func (s Set) end(h Hash) (Hash, Type, error) {
	for range 100 {
		typ, err := s.TypeOf(h)
		if err != nil || typ != plumbing.TagObject {
			return h, typ, err
		}
		o, err := s.Get(h)
		if err != nil {
			return h, typ, err
		}
		if h, err = TagTarget(o.Data); err != nil {
			return h, typ, err
		}
	}
	return h, 0, fmt.Errorf("%w: tags upon tags", ErrLimit)
}

// commits follows tags and keeps what is a commit in the end.
func (s Set) commits(ctx context.Context, of []Hash) (commits []Hash, err error) {
	for _, h := range of {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		end, typ, err := s.end(h)
		if err != nil {
			return nil, err
		}
		if typ == plumbing.CommitObject {
			commits = append(commits, end)
		}
	}
	return commits, nil
}

// Reaches tells whether every want is a commit, or a tag of one, that has one of the haves in its history.
func (s Set) Reaches(ctx context.Context, wants []Hash, haves map[Hash]bool) (bool, error) {
	tips, err := s.commits(ctx, wants)
	if err != nil || len(tips) < len(wants) {
		return false, err
	}
	r := &reaching{ctx: ctx, set: s, known: map[Hash]bool{}, loaded: map[Hash]Commit{}}
	first := true
	for h := range haves {
		r.known[h] = true
		if end, typ, err := s.end(h); err == nil && typ == plumbing.CommitObject {
			c, err := s.commit(end)
			if err != nil {
				return false, err
			}
			if first || c.Time < r.oldest {
				r.oldest, first = c.Time, false
			}
		}
	}
	for _, h := range tips {
		if ok, err := r.from(h); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// reaching remembers the answer for every commit that it came by.
type reaching struct {
	ctx    context.Context
	set    Set
	oldest int64 // what is older than every have cannot lead to one
	known  map[Hash]bool
	loaded map[Hash]Commit
}

func (r *reaching) from(tip Hash) (bool, error) {
	for stack := []Hash{tip}; len(stack) > 0; {
		h := stack[len(stack)-1]
		if _, known := r.known[h]; known {
			stack = stack[:len(stack)-1]
			continue
		}
		if err := r.ctx.Err(); err != nil {
			return false, err
		}
		c, ok := r.loaded[h]
		if !ok {
			var err error
			if c, err = r.set.commit(h); err != nil {
				return false, err
			}
			r.loaded[h] = c
		}
		next, answer := r.step(c)
		if next.IsZero() {
			r.known[h] = answer
			continue
		}
		stack = append(stack, next)
	}
	return r.known[tip], nil
}

// step is the parent to ask next, or the answer.
func (r *reaching) step(c Commit) (next Hash, answer bool) {
	if c.Time < r.oldest {
		return Hash{}, false
	}
	for _, p := range c.Parents {
		yes, known := r.known[p]
		if yes {
			return Hash{}, true
		}
		if !known && next.IsZero() {
			next = p
		}
	}
	return next, false
}

// Border lists the commits that stand depth steps behind the wants (the wants themselves are the first step), and the commits before
// them.
func (s Set) Border(ctx context.Context, wants []Hash, depth int) (border, within map[Hash]bool, err error) {
	border, within = map[Hash]bool{}, map[Hash]bool{}
	level, err := s.commits(ctx, wants)
	if err != nil {
		return nil, nil, err
	}
	for ; len(level) > 0; depth-- {
		var next []Hash
		for _, h := range level {
			if border[h] || within[h] {
				continue
			}
			if depth <= 1 || s.cut(h) {
				border[h] = true
				continue
			}
			within[h] = true
			c, err := s.commit(h)
			if err != nil {
				return nil, nil, err
			}
			next = append(next, c.Parents...)
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		level = next
	}
	return border, within, nil
}

// Since lists the commits behind the wants that are not older than a time (seconds since 1970) and not behind the given others:
// border are those with a parent that is left out, within the rest.
func (s Set) Since(ctx context.Context, wants []Hash, time int64, not []Hash) (border, within map[Hash]bool, err error) {
	out := map[Hash]bool{}
	tips, err := s.commits(ctx, not)
	if err != nil {
		return nil, nil, err
	}
	for h, err := range s.ancestors(ctx, tips, nil) {
		if err != nil {
			return nil, nil, err
		}
		out[h] = true
	}
	if tips, err = s.commits(ctx, wants); err != nil {
		return nil, nil, err
	}
	in := map[Hash]Commit{}
	inside := func(h Hash, c Commit) bool {
		if out[h] || c.Time < time {
			return false
		}
		in[h] = c
		return true
	}
	for _, err := range s.ancestors(ctx, tips, inside) {
		if err != nil {
			return nil, nil, err
		}
	}
	border, within = map[Hash]bool{}, map[Hash]bool{}
	for h, c := range in {
		side := within
		for _, p := range c.Parents {
			if _, ok := in[p]; !ok {
				side = border
			}
		}
		side[h] = true
	}
	return border, within, nil
}

// Behind lists those of some commits that stand in the histories of the wants.
func (s Set) Behind(ctx context.Context, wants []Hash, commits map[Hash]bool) (found []Hash, err error) {
	tips, err := s.commits(ctx, wants)
	if err != nil {
		return nil, err
	}
	for h, err := range s.ancestors(ctx, tips, nil) {
		if err != nil {
			return nil, err
		}
		if commits[h] {
			if found = append(found, h); len(found) == len(commits) {
				break
			}
		}
	}
	return found, nil
}

// Parents lists the parents of some commits.
func (s Set) Parents(commits []Hash) (parents []Hash, err error) {
	for _, h := range commits {
		c, err := s.commit(h)
		if err != nil {
			return nil, err
		}
		parents = append(parents, c.Parents...)
	}
	return parents, nil
}
