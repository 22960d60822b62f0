package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"airlock/gitgate/objects"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// pushCapabilities are what a client that pushes may use. Thin packs are declined: what comes must stand on its own.
const pushCapabilities = "report-status report-status-v2 delete-refs quiet side-band-64k atomic push-options ofs-delta no-thin object-format=sha1 " + agentName

// advertisePush is what a client that pushes is told first.
func advertisePush(w io.Writer, s *snapshot) error {
	l := &refLines{w: w, caps: pushCapabilities}
	for _, r := range s.refs {
		l.add(r.hash, r.name)
	}
	return l.end(nil)
}

// pushing is one client that pushes.
type pushing struct {
	gate   *gate
	mirror *mirror
	in     *bufio.Reader
	out    *bufio.Writer
	ends   bool // in ends with the push: it is the body of a request

	commands
	said   map[string]told
	unpack string // what became of the pack: "ok" or why not
	band   *band
	pack   *objects.Pack
	dir    string // the quarantine
	limits objects.Limits
	need   *need           // what the updates need of the pack
	packs  []*objects.Pack // made for upstream
	absent map[string]bool // references whose new object is nowhere
	clean  map[string]bool // references whose names hold no secret
	calm   func()          // ends the signs of life, and that last words would be said
	says   string          // the agent's words to the operator

	forwarded atomic.Bool // upstream may have heard of it
}

// keepAlive is how often a client hears that the push is still being looked at, unless the configuration says otherwise.
const keepAlive = 5 * time.Second

// run takes the push, judges it, forwards it, and reports.
func (p *pushing) run(ctx context.Context) (err error) {
	t := p.gate.kept.open()
	defer t.settle()
	p.commands, err = readCommands(p.in, t)
	p.band = &band{w: p.out, wide: p.caps.has("side-band-64k")}
	if err != nil {
		return p.fatal(err)
	}
	if len(p.updates) == 0 {
		return nil
	}
	p.said, p.unpack, p.calm = map[string]told{}, "ok", func() {}
	p.options, p.says = takeReason(p.options)
	err = p.handle(ctx)
	if err != nil {
		p.gate.withoutSecretPath(ctx, err)
		p.gate.log.Warn("push failed", "repo", p.mirror.name, "error", forLog(err))
		p.fail(explain(err))
	}
	return errors.Join(p.report(), p.drain(err))
}

// fatal tells a client that sent nonsense why it is cut off.
func (p *pushing) fatal(err error) error {
	var refused errRefused
	if !errors.As(err, &refused) || !p.band.wide {
		return err
	}
	return p.band.Fail(refused.Error())
}

// handle does everything between the commands and the report. Its error refuses all.
func (p *pushing) handle(ctx context.Context) error {
	if v := p.gate.rules.count(len(p.updates)); !v.Allow {
		return errors.Join(p.gate.record(v, "push", p.mirror.name, ""), errRefused(v.Why))
	}
	p.lookAtNames(ctx)
	q, err := p.mirror.newQuarantine()
	if err != nil {
		return err
	}
	q.room = p.gate.room.open()
	defer q.remove()
	p.dir, p.limits = q.dir, p.gate.pushLimits
	p.limits.Room, p.limits.Alone = q.take, true
	defer p.closePacks()
	defer func() { p.calm() }()
	if refused, err := p.look(ctx); err != nil || refused {
		return err
	}
	if err := p.judge(ctx); err != nil {
		return err
	}
	return p.forward(ctx)
}

// look takes the pack and looks at all of the push, when it is its turn.
func (p *pushing) look(ctx context.Context) (refused bool, err error) {
	if p.brings() {
		waiting, cancel := context.WithTimeoutCause(ctx, p.gate.scanTime, errBusy)
		done, err := p.gate.turns.next(waiting)
		cancel()
		if err != nil {
			return false, err
		}
		defer done()
		if err = p.take(ctx); err != nil {
			return false, err
		}
		if p.pack.Large() { // looking at it takes some times the size of its largest object
			waiting, cancel := context.WithTimeoutCause(ctx, p.gate.scanTime, errBusy)
			alone, err := p.gate.large.next(waiting)
			cancel()
			if err != nil {
				return false, err
			}
			defer alone()
		}
	}
	// Not before all has come: a client of HTTP may be answered only then.
	quiet, unsaid := p.band.KeepAlive(p.gate.keepAlive), p.gate.farewells.add(p.farewell)
	p.calm = func() { unsaid(); quiet() }
	if err := p.rest(ctx); err != nil {
		return false, err
	}
	defer p.need.forget()
	return p.inspect(ctx)
}

// farewell is what a client hears that is cut because another git-gate takes over.
func (p *pushing) farewell() {
	why := "nothing was forwarded, push again"
	if p.forwarded.Load() {
		why = "the outcome is unknown, fetch to see"
	}
	_ = p.band.Fail("git-gate is being replaced: " + why + "\n") // the client may be gone
}

// lookAtNames finds the references that may be written down.
func (p *pushing) lookAtNames(ctx context.Context) {
	p.clean = map[string]bool{}
	for _, u := range p.updates {
		found, err := p.gate.scanner.Scan(ctx, []byte(u.ref))
		p.clean[u.ref] = err == nil && len(found) == 0
	}
}

// record writes the verdict on a reference down.
func (p *pushing) record(v policy.Verdict, ref string) error {
	if !p.clean[ref] {
		ref = "(withheld: the secret is in the name)"
	}
	return p.gate.record(v, "push", p.mirror.name, visible(ref))
}

// brings tells whether a pack comes behind the commands.
func (p *pushing) brings() bool {
	return slices.ContainsFunc(p.updates, func(u update) bool { return !u.deletes() })
}

// take reads the pack. A client that sends a byte now and then has an end, too.
func (p *pushing) take(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.mirror.times.transfer)
	defer cancel()
	p.pack, err = objects.Receive(ctx, p.in, p.dir, p.limits)
	if err != nil || !p.ends {
		return err
	}
	if _, err := p.in.Peek(1); err == nil {
		return objects.ErrTrailing
	} else if err != io.EOF {
		return fmt.Errorf("reading the end of the pack: %w", err)
	}
	return nil
}

// rest finds out what the updates need, and makes sure that all of it came along or is upstream's.
func (p *pushing) rest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.gate.scanTime)
	defer cancel()
	snap := p.mirror.current()
	p.need = newNeed(ctx, p.pack, p.mirror.store.Packs(), snap)
	p.need.wants = p.gate.scanner.WantsPath
	if err := p.need.follow(p.updates); err != nil {
		return err
	}
	if err := p.need.prove(p.mirror.reach); err != nil {
		return err
	}
	tips := map[objects.Hash]bool{}
	p.absent = map[string]bool{}
	for _, u := range p.updates {
		if !u.deletes() && !p.need.inPack(u.new) {
			tips[u.new] = true
		}
	}
	missing, err := p.need.has(p.mirror.reach, tips, nil)
	if err != nil {
		return fmt.Errorf("looking for what upstream has: %w", err)
	}
	for _, u := range p.updates {
		p.absent[u.ref] = missing[u.new]
	}
	return nil
}

// packFor is a pack of just what some of the updates need, and nothing that others do.
func (p *pushing) packFor(ctx context.Context, updates []update) (*objects.Pack, error) {
	if p.pack == nil {
		return nil, nil
	}
	n := p.need // of all updates
	if !slices.Equal(updates, p.updates) {
		n = newNeed(ctx, p.pack, p.mirror.store.Packs(), p.mirror.current())
		if err := n.follow(updates); err != nil {
			return nil, err
		}
	}
	pack, err := n.fresh(ctx, p.dir, p.limits)
	if pack != nil && pack != p.pack {
		p.packs = append(p.packs, pack)
	}
	return pack, err
}

func (p *pushing) closePacks() {
	if p.pack != nil {
		p.pack.Close()
	}
	for _, pack := range p.packs {
		pack.Close()
	}
}

// set is what the references may rest on: the pack and what came from upstream.
func (p *pushing) set() objects.Set {
	set := p.mirror.store.Packs()
	if p.pack == nil {
		return set
	}
	return append(objects.Set{p.pack}, set...)
}

// inspect scans everything that came. One finding refuses the whole push: the pack is one.
func (p *pushing) inspect(ctx context.Context) (refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.gate.scanTime)
	defer cancel()
	s := &inspection{scanner: p.gate.scanner, pack: p.pack, updates: p.updates, current: p.mirror.current(), options: append(slices.Clone(p.options), p.says), upstream: p.mirror.store.Packs(), value: p.value, need: p.need, seen: p.gate.cleared}
	hits, err := s.run(ctx)
	if err != nil {
		return false, err
	}
	if len(hits) == 0 {
		return false, nil
	}
	p.band.Say("%s", explainHits(hits, p.ask(ctx, hits)))
	why := "secret found: " + hits[0].String()
	for _, u := range p.updates {
		p.said[u.ref] = told{why: why}
		if err := p.record(policy.Denied(hits[0].rule, why), u.ref); err != nil {
			return true, err
		}
	}
	return true, nil
}

// value tells of what a rule has found how it can be let in, and whether it is.
func (p *pushing) value(rule string, value []byte) (digest string, excused bool) {
	if p.gate.own[rule] {
		return "", false
	}
	digest = p.gate.seal.digest(p.mirror.name, rule, value)
	return digest, p.gate.rules.excused(p.mirror.name, rule, digest, time.Now())
}

// judge applies the rules to each reference and writes the verdicts down.
func (p *pushing) judge(ctx context.Context) error {
	now, set := p.mirror.current(), p.set()
	for _, u := range p.updates {
		f := facts{current: now.get(u.ref), known: u.deletes() || !p.absent[u.ref], conflict: conflictOf(now, p.updates, u), other: otherThanCommit(set, u)}
		if _, guarded := p.gate.rules.protected(u.ref); guarded && f.known && !u.creates() && !u.deletes() && u.old == f.current {
			var err error
			if f.forward, err = set.IsAncestor(ctx, u.old, u.new); err != nil {
				return fmt.Errorf("comparing histories: %w", err)
			}
		}
		v := p.gate.rules.update(u, f)
		if err := p.record(v, u.ref); err != nil {
			return err
		}
		if !v.Allow {
			p.said[u.ref] = told{why: v.Why}
		}
	}
	if p.atomic() && len(p.said) > 0 {
		p.refuseAll("atomic push: another reference was refused")
	}
	return nil
}

// otherThanCommit is the type of what a branch would point at, where that is no commit.
func otherThanCommit(set objects.Set, u update) string {
	if u.deletes() {
		return ""
	}
	typ, err := set.TypeOf(u.new)
	if err != nil || typ == plumbing.CommitObject {
		return "" // what is not here is refused for that
	}
	return typ.String()
}

func (p *pushing) atomic() bool { return p.caps.has("atomic") }

// forward sends what is left, and notes what upstream says.
func (p *pushing) forward(ctx context.Context) error {
	var updates []update
	for _, u := range p.updates {
		if _, refused := p.said[u.ref]; !refused {
			updates = append(updates, u)
		}
	}
	if len(updates) == 0 {
		return nil
	}
	p.forwarded.Store(true)
	said, err := p.mirror.forward(ctx, order{
		updates: updates, pack: p.packFor, atomic: p.atomic(), quiet: p.caps.has("quiet"), options: p.options, withOptions: len(p.options) > 0,
		say: func(text string) { p.band.Say("%s", text) },
	})
	if errors.Is(err, errUnsettled) {
		p.gate.log.Error("after a push", "repo", p.mirror.name, "error", err)
	} else if err != nil {
		return err
	}
	for _, u := range updates {
		p.said[u.ref] = said[u.ref]
		if why := said[u.ref].why; why != "" {
			if err := p.record(policy.Denied("upstream", why), u.ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// fail refuses all, and writes it down where there has been no verdict yet or a better one.
func (p *pushing) fail(why string) {
	p.refuseAll(why)
	if p.brings() && p.pack == nil {
		p.unpack = why
	}
	if p.clean == nil { // there are too many, which has been written down
		return
	}
	for _, u := range p.updates {
		if err := p.record(policy.Denied("push", p.said[u.ref].why), u.ref); err != nil {
			p.gate.log.Error("writing the audit", "error", err)
			return
		}
	}
}

// refuseAll refuses what was not refused before.
func (p *pushing) refuseAll(why string) {
	for _, u := range p.updates {
		if p.said[u.ref].why == "" {
			p.said[u.ref] = told{why: why}
		}
	}
}

// report tells the client what became of each reference.
func (p *pushing) report() error {
	v2 := p.caps.has("report-status-v2")
	if !v2 && !p.caps.has("report-status") {
		return p.band.Close()
	}
	return errors.Join(writeReport(p.band, v2, p.unpack, p.updates, p.said), p.band.Close())
}

// drainWithin bounds how long a client that was refused may go on sending.
const drainWithin = 10 * time.Second

// drain lets a client that is still sending come to its end, so that it reads the report instead of a broken pipe.
func (p *pushing) drain(failed error) error {
	if failed == nil || p.pack != nil {
		return nil
	}
	for end := time.Now().Add(drainWithin); time.Now().Before(end); {
		if _, err := p.in.Peek(1); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		_, _ = p.in.Discard(p.in.Buffered()) // it is there
	}
	return nil
}

// explain turns an error into what the agent may read.
func explain(err error) string {
	var upstream upstreamError
	var refused errRefused
	var own ownError
	var large *objects.TooLargeError
	var pack *objects.PackTooLargeError
	switch {
	case errors.As(err, &own):
		return own.words
	case full(err):
		return diskFull
	case errors.As(err, &large):
		return "push is over a limit: " + culprit(large.Culprit) + fmt.Sprintf(" is over limits.object_bytes (%d)", large.Limit) + others(large.More) + howToFind(large.Culprit)
	case errors.As(err, &pack):
		return fmt.Sprintf("push is over a limit: the pack has more than limits.push_bytes (%d); the largest that came of it: ", pack.Limit) + culprit(pack.Culprit) + howToFind(pack.Culprit)
	case errors.Is(err, objects.ErrLimit):
		return "push is over a limit: " + clean(err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return "push took too long to be looked at, so it was refused"
	case errors.Is(err, secrets.ErrTooLarge):
		return "cannot be looked at, so it was refused: " + clean(err.Error())
	case errors.As(err, &upstream), errors.As(err, &refused), errors.Is(err, objects.ErrCorrupt), errors.Is(err, io.ErrUnexpectedEOF):
		return clean(err.Error())
	}
	return "the gate failed; its log says why"
}

// culprit says which object is too large, and which file that is, as far as both are known.
func culprit(c objects.Culprit) string {
	text := fmt.Sprintf("an object of %d bytes", c.Size)
	if !c.Hash.IsZero() {
		text = fmt.Sprintf("object %s of %d bytes", c.Hash, c.Size)
	}
	if c.Path != "" {
		text += fmt.Sprintf(" (file %s in commit %.12s)", clean(c.Path), c.Commit)
	}
	return text
}

func others(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", and one other is"
	}
	return fmt.Sprintf(", and %d others are", n)
}

// howToFind is the way to a file that could not be named.
func howToFind(c objects.Culprit) string {
	if c.Path != "" {
		return ""
	}
	return ". To find the file: git rev-list --objects --all --not --remotes | git cat-file --batch-check='%(objectsize) %(rest)' | sort -n | tail -1"
}

// withoutSecretPath takes the path out of an error when it holds a secret: the audit and the log would keep it.
func (g *gate) withoutSecretPath(ctx context.Context, err error) {
	var c *objects.Culprit
	var large *objects.TooLargeError
	var pack *objects.PackTooLargeError
	switch {
	case errors.As(err, &large):
		c = &large.Culprit
	case errors.As(err, &pack):
		c = &pack.Culprit
	default:
		return
	}
	if found, err := g.scanner.Scan(ctx, []byte(c.Path)); err != nil || len(found) > 0 {
		c.Path = ""
	}
}
