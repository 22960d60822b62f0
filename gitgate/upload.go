package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"airlock/gitgate/objects"
)

const agentName = "agent=airlock"

// advertiseFetch is what a client that fetches is told first.
func advertiseFetch(w io.Writer, s *snapshot) error {
	caps := "multi_ack_detailed side-band-64k ofs-delta shallow no-progress include-tag"
	head := s.get(s.head)
	if !head.IsZero() {
		caps += " symref=HEAD:" + s.head
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
	return l.end()
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

func (l *refLines) end() error {
	if l.caps != "" {
		l.add(objects.Hash{}, "capabilities^{}")
	}
	if l.err != nil {
		return l.err
	}
	return writeFlush(l.w)
}

// fetching is one client that fetches, from its wants to its pack.
type fetching struct {
	set       objects.Set
	offered   func(objects.Hash) bool
	snap      *snapshot
	in        *bufio.Reader
	out       *bufio.Writer
	stateless bool // smart HTTP: every round of haves is a request of its own

	caps   capabilities
	wants  []objects.Hash
	cut    map[objects.Hash]bool // commits whose parents the client lacks
	depth  int                   // how much of the histories is wanted; 0 is all
	bounds objects.Shallow
	common []objects.Hash
	seen   map[objects.Hash]bool
	ready  bool
}

// errRefused carries a reason that the client may see.
type errRefused string

func (e errRefused) Error() string { return string(e) }

// maxWants bounds what one request asks for.
const maxWants = 100_000

// run talks to the client until it has its pack, or wants nothing.
func (f *fetching) run(ctx context.Context) error {
	if err := f.readWants(); err != nil || len(f.wants) == 0 {
		return err
	}
	f.seen = map[objects.Hash]bool{}
	if err := f.bound(ctx); err != nil {
		return err
	}
	done, err := f.negotiate(ctx)
	if err != nil || !done {
		return errors.Join(err, f.out.Flush())
	}
	return f.send(ctx)
}

func (f *fetching) readWants() error {
	f.cut = map[objects.Hash]bool{}
	for {
		line, err := readLine(f.in)
		if err == errFlush || err == io.EOF && len(f.wants) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading wants: %w", unexpectedEOF(err))
		}
		if err := f.want(line); err != nil {
			return err
		}
		if len(f.wants)+len(f.cut) > maxWants {
			return errRefused("too many wants")
		}
	}
}

// want reads one line of the request.
func (f *fetching) want(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	id, caps, _ := strings.Cut(rest, " ")
	h, err := objects.ParseHash(id)
	switch {
	case word == "deepen":
		f.depth, err = strconv.Atoi(rest)
		if err != nil || f.depth < 1 {
			return errRefused("deepen wants a number")
		}
	case word == "shallow" && err == nil:
		f.cut[h] = f.set.Has(h)
	case word == "want" && err == nil && f.offered(h):
		if len(f.wants) == 0 {
			f.caps = strings.Fields(caps)
		}
		f.wants = append(f.wants, h)
	case word == "want":
		return errRefused("not our ref " + clean(id))
	default:
		return errRefused("neither want nor shallow nor deepen: " + clean(word))
	}
	return nil
}

// bound works out where the histories are cut, and tells the client what changes for it.
func (f *fetching) bound(ctx context.Context) error {
	f.bounds = objects.Shallow{Client: f.cut, Border: f.cut}
	if f.depth == 0 {
		return nil
	}
	border, within, err := f.set.Border(ctx, f.wants, f.depth)
	if err != nil {
		return err
	}
	f.bounds.Border = border
	for h := range border {
		if !f.cut[h] {
			if err := writePktf(f.out, "shallow %s", h); err != nil {
				return err
			}
		}
	}
	var opened []objects.Hash
	for h, known := range f.cut {
		if known && within[h] {
			opened = append(opened, h)
			if err := writePktf(f.out, "unshallow %s", h); err != nil {
				return err
			}
		}
	}
	// The client has these commits, but lacks what is behind them.
	parents, err := f.set.Parents(opened)
	f.wants = append(f.wants, parents...)
	return errors.Join(err, writeFlush(f.out), f.out.Flush())
}

// negotiate reads haves until both sides know enough: done, or the end of a stateless request.
func (f *fetching) negotiate(ctx context.Context) (done bool, err error) {
	detailed := f.caps.has("multi_ack_detailed")
	for {
		line, err := readLine(f.in)
		switch {
		case err == errFlush:
			if err := f.round(ctx, detailed); err != nil || f.stateless {
				return false, err
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
			return false, errRefused("neither have nor done")
		}
		if err := f.have(h, detailed); err != nil {
			return false, err
		}
	}
}

// have notes what the client has, if it is known here.
func (f *fetching) have(h objects.Hash, detailed bool) error {
	if !f.set.Has(h) || f.seen[h] {
		return nil
	}
	f.seen[h] = true
	f.common = append(f.common, h)
	switch {
	case detailed:
		return writePktf(f.out, "ACK %s common\n", h)
	case len(f.common) == 1:
		return writePktf(f.out, "ACK %s\n", h)
	}
	return nil
}

// round ends a batch of haves.
func (f *fetching) round(ctx context.Context, detailed bool) error {
	if detailed && !f.ready && len(f.common) > 0 {
		enough, err := f.set.Reaches(ctx, f.wants, f.seen)
		if err != nil {
			return err
		}
		if f.ready = enough; enough {
			if err := writePktf(f.out, "ACK %s ready\n", f.common[len(f.common)-1]); err != nil {
				return err
			}
		}
	}
	if detailed || len(f.common) == 0 {
		return writePkt(f.out, "NAK\n")
	}
	return nil
}

// acknowledge answers the client's "done".
func (f *fetching) acknowledge() error {
	switch {
	case len(f.common) == 0:
		return writePkt(f.out, "NAK\n")
	case f.caps.has("multi_ack_detailed"):
		return writePktf(f.out, "ACK %s\n", f.common[len(f.common)-1])
	}
	return nil
}

// send packs what the client lacks.
func (f *fetching) send(ctx context.Context) error {
	wanted, err := f.set.Missing(ctx, f.wants, f.common, f.bounds)
	if err != nil {
		return err
	}
	if f.caps.has("include-tag") {
		f.includeTags(wanted)
	}
	b := &band{w: f.out, wide: f.caps.has("side-band-64k")}
	if !f.caps.has("no-progress") {
		if err := b.Say("airlock: %d objects\n", len(wanted)); err != nil {
			return err
		}
	}
	chunks := bufio.NewWriterSize(b, maxPkt-5)
	if err := f.set.WritePack(ctx, chunks, wanted, f.caps.has("ofs-delta")); err != nil {
		return err
	}
	return errors.Join(chunks.Flush(), b.Close())
}

// includeTags adds the tags of what is sent anyway.
func (f *fetching) includeTags(wanted map[objects.Hash]bool) {
	for _, r := range f.snap.refs {
		if !r.peeled.IsZero() && wanted[r.peeled] && f.set.Has(r.hash) {
			wanted[r.hash] = true
		}
	}
}
