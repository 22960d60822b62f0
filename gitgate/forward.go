package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"airlock/gitgate/objects"
)

// errUnknownOutcome says that upstream may or may not have taken a push.
var errUnknownOutcome = errors.New("the connection to upstream broke off: the outcome is unknown, fetch to see")

// order is what upstream is asked to do.
type order struct {
	updates []update
	pack    func(context.Context, []update) (*objects.Pack, error) // just what some updates need; nil when nothing came
	atomic  bool
	quiet   bool
	// withOptions tells that the client sent push options, perhaps none.
	withOptions bool
	options     []string
	say         func(text string) // what upstream says meanwhile
}

// forward hands an order to upstream, and returns what upstream said of each reference. References of the mirror move with
// upstream's ok and not otherwise.
func (m *mirror) forward(ctx context.Context, o order) (map[string]told, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	words := &speech{hide: m.hide, say: o.say}
	defer words.end()
	o.say = words.add
	bounded, cancel := context.WithTimeout(ctx, m.times.transfer)
	defer cancel()
	watched, dog := watch(bounded, m.times.answer)
	defer dog.stop()
	f := &forwarding{order: o, mirror: m, dog: dog, said: map[string]told{}}
	if err := f.run(watched); errors.Is(err, errUnknownOutcome) {
		m.stale()
		if err := m.lookAgain(ctx, f, m.explain(watched, err)); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, m.explain(watched, err)
	}
	if err := m.settle(ctx, f); err != nil {
		m.stale() // upstream has done it all the same; the next refresh makes the mirror what upstream is
		return f.said, fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return f.said, nil
}

// errUnsettled says that upstream took a push and the mirror could not follow.
var errUnsettled = errors.New("the mirror could not follow upstream")

// stale makes the next client wait for a refresh.
func (m *mirror) stale() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.began = time.Time{}
}

// lookAgain lists upstream after a connection that broke off in the middle of a push. What upstream has now is what became of
// it; a reference that has not moved may still do so, since upstream may be at work.
func (m *mirror) lookAgain(ctx context.Context, f *forwarding, broke error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.times.answer)
	defer cancel()
	session, err := m.up.open(ctx, receivePack)
	if err != nil {
		return broke
	}
	defer session.Close()
	adv, err := advertised(session)
	if err != nil {
		return broke
	}
	for _, u := range f.updates {
		if _, known := f.said[u.ref]; known {
			continue
		}
		f.said[u.ref] = told{why: broke.Error()}
		if adv.get(u.ref) == u.new {
			f.said[u.ref] = told{}
		}
	}
	return nil
}

// settle moves the references that upstream has moved as it was asked to. What upstream did otherwise the next refresh brings.
func (m *mirror) settle(ctx context.Context, f *forwarding) error {
	var done []update
	for _, u := range f.updates {
		switch t, ok := f.said[u.ref]; {
		case ok && t.plain() && mirrored(u.ref):
			done = append(done, u)
		case ok && t.why == "" && !t.plain():
			m.stale()
		}
	}
	if len(done) == 0 {
		return nil
	}
	pack, err := f.pack(context.WithoutCancel(ctx), done) // without what only refused references need
	if err != nil {
		return err
	}
	if pack != nil && pack.Len() > 0 {
		if err := m.file(pack); err != nil {
			return err
		}
	}
	packs := m.store.Packs()
	return m.move(m.current().with(done, func(h objects.Hash) objects.Hash { return peel(packs, h) }))
}

// forwarding is one order on its way.
type forwarding struct {
	order
	mirror *mirror
	dog    *watchdog
	said   map[string]told
}

func (f *forwarding) run(ctx context.Context) error {
	session, err := f.mirror.up.open(ctx, receivePack)
	if err != nil {
		return err
	}
	defer session.Close()
	adv, err := advertised(session)
	if err != nil {
		return err
	}
	f.dog.touch()
	f.compare(adv)
	if len(f.said) == len(f.updates) || f.atomic && len(f.said) > 0 {
		f.fillIn()
		return nil
	}
	caps, err := f.wanted(adv.caps)
	if err != nil {
		return err
	}
	return f.send(ctx, session, caps)
}

// compare refuses what has moved upstream since the agent looked.
func (f *forwarding) compare(adv *advertisement) {
	for _, u := range f.updates {
		if adv.get(u.ref) != u.old {
			f.said[u.ref] = told{why: "the reference has moved upstream: fetch first"}
		}
	}
}

func (f *forwarding) fillIn() {
	for _, u := range f.updates {
		if _, ok := f.said[u.ref]; !ok {
			f.said[u.ref] = told{why: "atomic push: another reference was refused"}
		}
	}
}

// wanted picks the capabilities. Without a report nothing could be told to the agent.
func (f *forwarding) wanted(offered capabilities) (caps capabilities, err error) {
	switch {
	case offered.has("report-status-v2"):
		caps = append(caps, "report-status-v2")
	case offered.has("report-status"):
		caps = append(caps, "report-status")
	default:
		return nil, errors.New("upstream does not report what becomes of a push")
	}
	for _, name := range []string{"side-band-64k", "object-format=sha1", "quiet"} {
		if offered.has(name) && (name != "quiet" || f.quiet) {
			caps = append(caps, name)
		}
	}
	if f.atomic {
		if !offered.has("atomic") {
			return nil, errors.New("upstream cannot push atomically")
		}
		caps = append(caps, "atomic")
	}
	if f.withOptions {
		if !offered.has("push-options") {
			return nil, errors.New("upstream does not take push options")
		}
		caps = append(caps, "push-options")
	}
	return append(caps, agentName), nil
}

// send forwards what compare let pass, with a pack of just what it needs. Every object in it was scanned.
func (f *forwarding) send(ctx context.Context, s session, caps capabilities) error {
	body, size, done, err := f.body(ctx, caps)
	if err != nil {
		return err
	}
	defer done()
	answer, err := s.Ask(talking{body, f.dog, f.mirror.times.report}, size)
	if errors.Is(err, errNotTaken) {
		return err
	}
	if answer == nil {
		return fmt.Errorf("%w (%v)", errUnknownOutcome, err)
	}
	// An upstream that has had enough may have said why before it hung up.
	in := bufio.NewReader(listening{answer, f.dog})
	if caps.has("side-band-64k") {
		in = bufio.NewReader(&demux{r: in, say: f.say})
	}
	if reportErr := f.report(in); reportErr != nil {
		return fmt.Errorf("%w (%v)", errUnknownOutcome, errors.Join(err, reportErr))
	}
	return nil
}

func (f *forwarding) body(ctx context.Context, caps capabilities) (body io.Reader, size int64, done func() error, err error) {
	var b strings.Builder
	var sent []update
	needsPack := false
	for _, u := range f.updates {
		if _, refused := f.said[u.ref]; refused {
			continue
		}
		tail := ""
		if b.Len() == 0 {
			tail = "\x00" + strings.Join(caps, " ")
		}
		writePktf(&b, "%s %s %s%s", u.old, u.new, u.ref, tail)
		sent = append(sent, u)
		needsPack = needsPack || !u.deletes()
	}
	writeFlush(&b)
	if f.withOptions {
		for _, o := range f.options {
			writePkt(&b, o)
		}
		writeFlush(&b)
	}
	head := strings.NewReader(b.String())
	if !needsPack {
		return head, head.Size(), func() error { return nil }, nil
	}
	f.dog.rest() // nobody waits for upstream meanwhile
	pack, err := f.pack(ctx, sent)
	f.dog.touch()
	if err != nil {
		return nil, 0, nil, err
	}
	file, err := os.Open(pack.File())
	if err != nil {
		return nil, 0, nil, fmt.Errorf("opening quarantined pack: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, nil, fmt.Errorf("opening quarantined pack: %w", err)
	}
	return io.MultiReader(head, file), head.Size() + info.Size(), file.Close, nil
}

// report reads upstream's verdicts. A reference that it does not mention is not ok.
func (f *forwarding) report(r *bufio.Reader) error {
	asked := map[string]bool{}
	for _, u := range f.updates {
		_, refused := f.said[u.ref]
		asked[u.ref] = !refused
	}
	up, err := readReport(r, asked)
	if err != nil {
		return err
	}
	for _, u := range f.updates {
		if !asked[u.ref] {
			continue
		}
		t, mentioned := up.said[u.ref]
		if !mentioned {
			t = told{why: up.unpack}
		}
		if t.why != "" {
			t = told{why: "upstream: " + f.mirror.words(t.why)}
		}
		t.more = f.tellable(t.more)
		f.said[u.ref] = t
	}
	return nil
}

// tellable leaves out what holds the credential. A list that was there stays one: upstream did not do as it was asked.
func (f *forwarding) tellable(more [][]string) [][]string {
	for i := range more {
		more[i] = slices.DeleteFunc(more[i], func(o string) bool { return f.mirror.hide(o) != o })
	}
	return more
}
