package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"airlock/gitgate/objects"
)

const agentName = "agent=airlock"

// source is a repository as clients who fetch see it.
type source struct {
	snap   *snapshot
	set    objects.Set
	reach  *objects.Reach
	cut    []objects.Hash                           // commits whose parents the repository itself lacks
	offers func(context.Context, objects.Set) offer // is asked once for each request
	allows features
}

// features are what a repository may be asked for beside what it advertises.
type features struct {
	tip, reachable, anything bool // objects by name: what a reference points at, what it leads to, whatever is there
	filter                   bool
	born                     bool // nothing is said of a HEAD that has no commit
}

// offer tells whether a client may ask for an object.
type offer func(objects.Hash) (bool, error)

// anyObject offers whatever is there.
func anyObject(_ context.Context, set objects.Set) offer {
	return func(h objects.Hash) (bool, error) { return set.Has(h), nil }
}

// advertiseFetch is what a client of protocol v0 or v1 that fetches is told first. A stateless one may skip a round trip (no-done).
func advertiseFetch(w io.Writer, src source, stateless bool) error {
	caps := "multi_ack thin-pack side-band side-band-64k ofs-delta shallow deepen-since deepen-not deepen-relative no-progress include-tag multi_ack_detailed"
	head, s := src.snap.headHash(), src.snap
	for _, c := range []struct {
		name string
		on   bool
	}{
		{"allow-tip-sha1-in-want", src.allows.tip}, {"allow-reachable-sha1-in-want", src.allows.reachable}, {"no-done", stateless},
		{"symref=HEAD:" + s.head, s.head != "" && !head.IsZero()}, {"filter", src.allows.filter},
	} {
		if c.on {
			caps += " " + c.name
		}
	}
	l := &refLines{w: w, caps: caps + " object-format=sha1 " + agentName}
	if !head.IsZero() {
		l.add(head, "HEAD")
	}
	for _, r := range s.refs {
		l.add(r.hash, r.name)
		if !r.peeled.IsZero() {
			l.add(r.peeled, r.name+"^{}")
		}
	}
	return l.end(src.cut)
}

// refLines writes an advertisement: the capabilities go behind the first line.
type refLines struct {
	w    io.Writer
	caps string
	err  error
}

func (l *refLines) add(h objects.Hash, name string) {
	if l.caps != "" {
		name, l.caps = name+"\x00"+l.caps, ""
	}
	if err := writePktf(l.w, "%s %s\n", h, name); l.err == nil {
		l.err = err
	}
}

func (l *refLines) end(cut []objects.Hash) error {
	if l.caps != "" {
		l.add(objects.Hash{}, "capabilities^{}")
	}
	for _, h := range cut {
		l.err = errors.Join(l.err, writePktf(l.w, "shallow %s\n", h))
	}
	if l.err != nil {
		return l.err
	}
	return writeFlush(l.w)
}

// fetching is one client that fetches, from its wants to its pack.
type fetching struct {
	source
	in        *bufio.Reader
	out       *bufio.Writer
	stateless bool // smart HTTP: every round of haves is a request of its own
	tab       *tab // of what is kept
	walks     turns

	caps   capabilities
	wants  []objects.Hash
	wanted map[objects.Hash]bool
	offer  offer
	deepen deepening
	filter objects.Filter
	edges  []objects.Hash // commits that the client has, whose parents it gets now
	ask    objects.Ask
	haves  int
	common []objects.Hash
	seen   map[objects.Hash]bool
	other  bool // the client has named something that is not here
	ready  bool // it was told that it has named enough
	plenty bool // it has
	asked  int  // how many of common were known when that was looked at last
}

// errRefused carries a reason that the client may see.
type errRefused string

func (e errRefused) Error() string { return string(e) }

// maxWants bounds what one request asks for: a partial clone names every file of a checkout.
const maxWants = 1_000_000

// run talks to a client of protocol v0 until it has its pack, or wants nothing.
func (f *fetching) run(ctx context.Context) error {
	if err := f.readWants(ctx); err != nil || len(f.wants) == 0 {
		return err
	}
	if err := f.tellBounds(ctx); err != nil {
		return err
	}
	f.seen = map[objects.Hash]bool{}
	done, err := f.negotiate(ctx)
	if err != nil || !done {
		return errors.Join(err, f.out.Flush())
	}
	return f.send(ctx)
}

func (f *fetching) readWants(ctx context.Context) error {
	for n := 0; ; n++ {
		line, err := readLine(f.in)
		if err == errFlush || err == io.EOF && len(f.wants) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading wants: %w", unexpectedEOF(err))
		}
		if err := f.want(ctx, line); err != nil {
			return err
		}
		if n > maxWants {
			return errRefused("too many wants")
		}
	}
}

// want reads one line of a request in v0; only the first want brings capabilities.
func (f *fetching) want(ctx context.Context, line string) error {
	word, rest, _ := strings.Cut(line, " ")
	if word == "want" {
		id, caps, _ := strings.Cut(rest, " ")
		if len(f.wants) == 0 {
			f.caps = strings.Fields(caps)
			f.deepen.relative = f.caps.has("deepen-relative")
		}
		h, err := objects.ParseHash(id)
		if err != nil {
			return errRefused("want without an object name: 40 hexadecimal digits were wanted")
		}
		return errors.Join(f.tab.take(keepOne), f.addWant(ctx, h))
	}
	ok, err := f.option(word, rest)
	if !ok && err == nil {
		return errRefused("neither want nor shallow nor deepen nor filter: " + clean(word))
	}
	return err
}

func (f *fetching) addWant(ctx context.Context, h objects.Hash) error {
	if f.offer == nil {
		f.offer, f.wanted = f.offers(ctx, f.set), map[objects.Hash]bool{}
	}
	if f.wanted[h] {
		return nil
	}
	f.wanted[h] = true
	ok, err := f.offer(h)
	if err != nil {
		return err
	}
	if !ok || !f.set.Has(h) {
		return errRefused("upload-pack: not our ref " + h.String())
	}
	f.wants = append(f.wants, h)
	return nil
}

// shallow notes that the client lacks the parents of a commit.
func (f *fetching) shallow(h objects.Hash) {
	if f.set.Has(h) {
		f.deepen.have(h)
	}
}

// option reads what both protocols say in the same words.
func (f *fetching) option(word, rest string) (ok bool, err error) {
	switch word {
	case "shallow":
		h, err := objects.ParseHash(rest)
		if err != nil {
			return true, errRefused("shallow without an object name: 40 hexadecimal digits were wanted")
		}
		f.shallow(h)
		return true, f.tab.take(keepOne)
	case "deepen":
		f.deepen.depth, err = strconv.Atoi(rest)
		if err != nil || f.deepen.depth < 1 {
			return true, errRefused("deepen wants a number above 0")
		}
	case "deepen-since":
		f.deepen.since, err = strconv.ParseInt(rest, 10, 64)
		if err != nil || f.deepen.since < 1 {
			return true, errRefused("deepen-since wants seconds since 1970")
		}
	case "deepen-not":
		h, ok := f.snap.expand(rest)
		if !ok {
			return true, errRefused("ambiguous deepen-not: " + clean(rest))
		}
		f.deepen.not = append(f.deepen.not, h)
		return true, f.tab.take(keepOne)
	case "filter":
		if !f.allows.filter {
			return true, errRefused("filters are not served here")
		}
		if f.filter, err = objects.ParseFilter(rest); err != nil {
			return true, errRefused("filter '" + clean(rest) + "' is not served: " + err.Error())
		}
	default:
		return false, nil
	}
	return true, nil
}

// tellBounds tells a client of v0 where its history will end.
func (f *fetching) tellBounds(ctx context.Context) error {
	shallow, opened, err := f.bound(ctx)
	if err != nil || !f.deepen.asked() {
		return err
	}
	return errors.Join(writeBounds(f.out, shallow, opened), writeFlush(f.out), f.out.Flush())
}

// negotiate reads haves until both sides know enough: done, or the end of a stateless request.
func (f *fetching) negotiate(ctx context.Context) (done bool, err error) {
	for {
		line, err := readLine(f.in)
		switch {
		case err == errFlush:
			if done, err := f.round(ctx); done || err != nil || f.stateless {
				return done, err
			}
			if err := f.out.Flush(); err != nil {
				return false, err
			}
			continue
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, fmt.Errorf("reading haves: %w", err)
		case line == "done":
			return true, f.acknowledge()
		}
		h, err := objects.ParseHash(strings.TrimPrefix(line, "have "))
		if err != nil {
			return false, errRefused("neither have nor done: " + clean(line))
		}
		if err := f.have(ctx, h); err != nil {
			return false, err
		}
	}
}

// maxHaves bounds what a client may name; git itself stops at some hundreds that lead nowhere.
const maxHaves = 1_000_000

// note remembers what the client has, if it is known here.
func (f *fetching) note(h objects.Hash) (known bool, err error) {
	if f.haves++; f.haves > maxHaves {
		return false, errRefused("too many haves")
	}
	if !f.set.Has(h) {
		f.other = true
		return false, nil
	}
	if f.seen[h] {
		return true, nil
	}
	f.seen[h] = true
	f.common = append(f.common, h)
	return true, f.tab.take(2 * keepOne)
}

// have answers one line.
func (f *fetching) have(ctx context.Context, h objects.Hash) error {
	known, err := f.note(h)
	if err != nil {
		return err
	}
	detailed, multi := f.caps.has("multi_ack_detailed"), f.caps.has("multi_ack")
	switch {
	case !known && (detailed || multi):
		// What we lack means that the client is past what we share: it need not go on if that is enough.
		if enough, err := f.enough(ctx); !enough || err != nil {
			return err
		}
		if detailed {
			f.ready = true
			return writePktf(f.out, "ACK %s ready\n", h)
		}
		return writePktf(f.out, "ACK %s continue\n", h)
	case !known:
		return nil
	case detailed:
		return writePktf(f.out, "ACK %s common\n", h)
	case multi:
		return writePktf(f.out, "ACK %s continue\n", h)
	case len(f.common) == 1:
		return writePktf(f.out, "ACK %s\n", h)
	}
	return nil
}

// enough tells whether every want leads to something that the client has.
func (f *fetching) enough(ctx context.Context) (bool, error) {
	if f.plenty || len(f.common) <= f.asked+f.asked/8 {
		return f.plenty, nil // little was named since that could change the answer, and each look may go through all of the history
	}
	f.asked = len(f.common)
	done, err := f.walks.next(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	f.plenty, err = f.set.Reaches(ctx, f.wants, f.seen)
	return f.plenty, err
}

// round ends a batch of haves.
func (f *fetching) round(ctx context.Context) (done bool, err error) {
	detailed, multi := f.caps.has("multi_ack_detailed"), f.caps.has("multi_ack")
	if detailed && !f.other && len(f.common) > 0 {
		if f.ready, err = f.enough(ctx); err != nil {
			return false, err
		}
		if f.ready {
			if err := writePktf(f.out, "ACK %s ready\n", f.last()); err != nil {
				return false, err
			}
		}
	}
	if detailed || multi || len(f.common) == 0 {
		if err := writePkt(f.out, "NAK\n"); err != nil {
			return false, err
		}
	}
	f.other = false
	if f.ready && f.stateless && f.caps.has("no-done") {
		return true, writePktf(f.out, "ACK %s\n", f.last())
	}
	return false, nil
}

func (f *fetching) last() objects.Hash { return f.common[len(f.common)-1] }

// acknowledge answers the client's "done".
func (f *fetching) acknowledge() error {
	switch {
	case len(f.common) == 0:
		return writePkt(f.out, "NAK\n")
	case f.caps.has("multi_ack_detailed"), f.caps.has("multi_ack"):
		return writePktf(f.out, "ACK %s\n", f.last())
	}
	return nil
}

// send packs what the client lacks.
func (f *fetching) send(ctx context.Context) error {
	b := &band{w: f.out, wide: f.caps.has("side-band-64k"), narrow: f.caps.has("side-band")}
	stop := b.KeepAlive(5 * time.Second)
	wanted, form, err := f.pick(ctx)
	stop()
	if err != nil {
		return f.broken(b, err)
	}
	quiet := f.caps.has("no-progress")
	if !quiet {
		if err := b.Say("Enumerating objects: %d, done.\n", wanted.Len()); err != nil {
			return err
		}
	}
	chunks := bufio.NewWriterSize(b, maxPkt-5)
	n, err := wanted.WritePack(ctx, chunks, form)
	if err != nil {
		return f.broken(b, err)
	}
	if err := chunks.Flush(); err != nil {
		return err
	}
	if !quiet {
		if err := b.Say("Total %d (delta %d), reused %d (delta %d), pack-reused 0\n", n.Objects, n.Deltas, n.Reused, n.Deltas); err != nil {
			return err
		}
	}
	return b.Close()
}

// broken tells the client that no pack comes. Why is for the log: it says more of the store than a client need know.
func (f *fetching) broken(b *band, err error) error {
	if b.wide || b.narrow {
		_ = b.Fail("the pack cannot be made")
	}
	return err
}

// pick selects what is sent.
func (f *fetching) pick(ctx context.Context) (*objects.Objects, objects.Form, error) {
	form := objects.Form{Offsets: f.caps.has("ofs-delta")}
	done, err := f.walks.next(ctx)
	if err != nil {
		return nil, form, err
	}
	defer done()
	wanted, theirs, err := f.missing(ctx)
	if err != nil {
		return nil, form, err
	}
	if f.caps.has("thin-pack") && !f.filter.On() { // of what a filter left out, the client has only the name
		form.Theirs = theirs
	}
	if f.caps.has("include-tag") {
		wanted, err = f.includeTags(wanted)
	}
	return wanted, form, err
}

// missing takes the short way when all is wanted: what can be reached is remembered.
func (f *fetching) missing(ctx context.Context) (wanted, theirs *objects.Objects, err error) {
	if len(f.common) == 0 && !f.deepen.on() && len(f.cut) == 0 && (!f.filter.On() || f.filter.BlobsOnly()) {
		if wanted, err = f.reach.From(ctx, f.set, f.wants); err == nil && f.filter.On() {
			wanted, err = wanted.Without(ctx, f.filter, f.wants)
		}
		return wanted, nil, err
	}
	f.ask.Wants, f.ask.Filter = f.wants, f.filter
	f.ask.Haves = append(f.common, f.edges...)
	return f.set.Missing(ctx, f.ask)
}

// includeTags adds the tags of what is sent anyway.
func (f *fetching) includeTags(wanted *objects.Objects) (*objects.Objects, error) {
	more := wanted.Clone()
	for _, r := range f.snap.refs {
		if r.peeled.IsZero() || !wanted.Has(r.peeled) {
			continue
		}
		chain, err := f.set.Tags(r.hash)
		if err != nil {
			return nil, err
		}
		for _, h := range chain {
			more.Add(h)
		}
	}
	return more, nil
}
