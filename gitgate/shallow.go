package gitgate

import (
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"slices"

	"airlock/gitgate/objects"
)

// deepening is where a client's histories end, and where it wants them to.
type deepening struct {
	has      map[objects.Hash]bool // commits that the client has without their parents, as far as they are known here
	depth    int                   // how many commits of each history are wanted; 0: not asked
	relative bool                  // depth counts from where the histories end now
	since    int64                 // seconds since 1970: nothing older; 0: not asked
	not      []objects.Hash        // nothing behind these
}

// wholeDepth is git's word for all of a history.
const wholeDepth = math.MaxInt32

func (d *deepening) have(h objects.Hash) {
	if d.has == nil {
		d.has = map[objects.Hash]bool{}
	}
	d.has[h] = true
}

// asked tells whether other ends are wanted.
func (d *deepening) asked() bool { return d.depth > 0 || d.since > 0 || len(d.not) > 0 }

// on tells whether histories end anywhere.
func (d *deepening) on() bool { return d.asked() || len(d.has) > 0 }

// bound works out where the histories will end: the commits that become shallow, and those that no longer are.
func (f *fetching) bound(ctx context.Context) (shallow, opened []objects.Hash, err error) {
	d := &f.deepen
	if !d.on() && len(f.cut) == 0 {
		return nil, nil, nil
	}
	done, err := f.walks.next(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if d.depth > 0 && (d.since > 0 || len(d.not) > 0) {
		return nil, nil, errRefused("deepen and deepen-since (or deepen-not) cannot be used together")
	}
	border, within, err := f.ends(ctx)
	if err != nil {
		return nil, nil, err
	}
	for h := range border {
		if !d.has[h] {
			shallow = append(shallow, h)
		}
	}
	for h := range d.has {
		if within[h] {
			opened = append(opened, h)
		} else {
			border[h] = true
		}
	}
	f.ask.Client, f.ask.Border = d.has, border
	// The client has these commits, but lacks what is behind them.
	parents, err := f.set.Parents(opened)
	f.edges, f.wants = opened, append(f.wants, parents...)
	return shallow, opened, err
}

// ends are the last commits of the histories, and the commits before them.
func (f *fetching) ends(ctx context.Context) (border, within map[objects.Hash]bool, err error) {
	d := &f.deepen
	switch {
	case d.since > 0 || len(d.not) > 0:
		border, within, err = f.set.Since(ctx, f.wants, d.since, d.not)
		if err == nil && len(border)+len(within) == 0 {
			err = errRefused("no commits selected for shallow requests")
		}
		return border, within, err
	case d.depth == wholeDepth && len(f.cut) == 0:
		within, err = f.shown(ctx)
		return map[objects.Hash]bool{}, within, err
	case d.depth > 0 && d.relative:
		// Of all ends that a reference leads to, as git has it: the wants may be tags whose history ends elsewhere.
		from, err := f.shown(ctx)
		if err != nil {
			return nil, nil, err
		}
		return f.set.Border(ctx, slices.Collect(maps.Keys(from)), d.depth+1)
	case d.depth > 0:
		return f.set.Border(ctx, f.wants, d.depth)
	case len(f.cut) > 0:
		border, _, err = f.set.Border(ctx, f.wants, wholeDepth)
		return border, nil, err
	}
	return map[objects.Hash]bool{}, nil, nil
}

// shown are those of the client's ends that what it wants or was shown leads to. Of any other, the parents are not offered: upstream may have
// dropped them.
func (f *fetching) shown(ctx context.Context) (map[objects.Hash]bool, error) {
	shown := map[objects.Hash]bool{}
	if len(f.deepen.has) == 0 {
		return shown, nil
	}
	found, err := f.set.Behind(ctx, slices.Concat(f.wants, f.snap.tips()), f.deepen.has)
	for _, h := range found {
		shown[h] = true
	}
	return shown, err
}

func writeBounds(w io.Writer, shallow, opened []objects.Hash) error {
	var errs []error
	for _, h := range shallow {
		errs = append(errs, writePktf(w, "shallow %s", h))
	}
	for _, h := range opened {
		errs = append(errs, writePktf(w, "unshallow %s", h))
	}
	return errors.Join(errs...)
}
