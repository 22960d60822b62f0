package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"airlock/gitgate/objects"
)

// errUnknownOutcome says that upstream may or may not have taken a push.
var errUnknownOutcome = errors.New("the connection to upstream broke off: the outcome is unknown, fetch to see")

// forward hands updates, with the pack that belongs to them, to upstream, and returns what upstream said of each: "" is
// ok. References of the mirror move with upstream's ok and not otherwise.
func (m *mirror) forward(ctx context.Context, updates []update, pack *objects.Pack, atomic bool, say func(string)) (map[string]string, error) {
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	ctx, cancel := context.WithTimeout(ctx, m.times.transfer)
	defer cancel()
	ctx, dog := watch(ctx, m.times.answer)
	defer dog.stop()
	f := &forwarding{mirror: m, dog: dog, updates: updates, pack: pack, atomic: atomic, say: func(text string) { say(m.hide(text)) }}
	said, err := f.run(ctx)
	if err != nil {
		return nil, m.explain(ctx, err)
	}
	return said, m.settle(updates, said, pack)
}

// settle moves the references that upstream has moved.
func (m *mirror) settle(updates []update, said map[string]string, pack *objects.Pack) error {
	var done []update
	for _, u := range updates {
		if why, ok := said[u.ref]; ok && why == "" && mirrored(u.ref) {
			done = append(done, u)
		}
	}
	if len(done) == 0 {
		return nil
	}
	if pack != nil && pack.Len() > 0 {
		if err := m.store.Adopt(pack); err != nil {
			return err
		}
	}
	packs := m.store.Packs()
	return m.move(m.current().with(done, func(h objects.Hash) objects.Hash { return peel(packs, h) }))
}

type forwarding struct {
	mirror  *mirror
	dog     *watchdog
	updates []update
	pack    *objects.Pack // nil when there are only deletions
	atomic  bool
	say     func(string)
}

func (f *forwarding) run(ctx context.Context) (map[string]string, error) {
	session, err := f.mirror.up.open(ctx, receivePack)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	adv, err := readAdvertisement(session.Greeting())
	if err != nil {
		return nil, err
	}
	f.dog.touch()
	said := f.compare(adv)
	if len(said) == len(f.updates) || f.atomic && len(said) > 0 {
		f.fillIn(said)
		return said, nil
	}
	caps, err := f.wanted(adv.caps)
	if err != nil {
		return nil, err
	}
	return said, f.send(session, caps, said)
}

// compare refuses what has moved upstream since the agent looked.
func (f *forwarding) compare(adv *advertisement) map[string]string {
	said := map[string]string{}
	for _, u := range f.updates {
		if adv.get(u.ref) != u.old {
			said[u.ref] = "the reference has moved upstream: fetch first"
		}
	}
	return said
}

func (f *forwarding) fillIn(said map[string]string) {
	for _, u := range f.updates {
		if _, ok := said[u.ref]; !ok {
			said[u.ref] = "atomic push: another reference was refused"
		}
	}
}

// wanted picks the capabilities. Without a report nothing could be told to the agent.
func (f *forwarding) wanted(offered capabilities) (string, error) {
	if !offered.has("report-status") {
		return "", errors.New("upstream does not report what becomes of a push")
	}
	caps := []string{"report-status"}
	if offered.has("side-band-64k") {
		caps = append(caps, "side-band-64k")
	}
	if f.atomic {
		if !offered.has("atomic") {
			return "", errors.New("upstream cannot push atomically")
		}
		caps = append(caps, "atomic")
	}
	return strings.Join(append(caps, "agent=airlock"), " "), nil
}

// send forwards what compare let pass. The pack goes as it came: every object in it was scanned.
func (f *forwarding) send(s session, caps string, said map[string]string) error {
	body, size, done, err := f.body(caps, said)
	if err != nil {
		return err
	}
	defer done()
	answer, err := s.Ask(talking{body, f.dog, f.mirror.times.report}, size)
	if err != nil {
		return fmt.Errorf("%w (%v)", errUnknownOutcome, err)
	}
	in := bufio.NewReader(listening{answer, f.dog})
	if strings.Contains(caps, "side-band-64k") {
		in = bufio.NewReader(&demux{r: in, say: f.say})
	}
	if err := f.report(in, said); err != nil {
		return fmt.Errorf("%w (%v)", errUnknownOutcome, err)
	}
	return nil
}

func (f *forwarding) body(caps string, said map[string]string) (body io.Reader, size int64, done func() error, err error) {
	var b strings.Builder
	needsPack := false
	for _, u := range f.updates {
		if _, refused := said[u.ref]; refused {
			continue
		}
		tail := ""
		if b.Len() == 0 {
			tail = "\x00" + caps
		}
		writePktf(&b, "%s %s %s%s", u.old, u.new, u.ref, tail)
		needsPack = needsPack || !u.deletes()
	}
	writeFlush(&b)
	head := strings.NewReader(b.String())
	if !needsPack {
		return head, head.Size(), func() error { return nil }, nil
	}
	file, err := os.Open(f.pack.File())
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
func (f *forwarding) report(r *bufio.Reader, said map[string]string) error {
	unpacked, err := readLine(r)
	if err != nil {
		return unexpectedEOF(err)
	}
	for {
		line, err := readLine(r)
		if err == errFlush {
			break
		}
		if err != nil {
			return unexpectedEOF(err)
		}
		word, rest, _ := strings.Cut(line, " ")
		name, why, _ := strings.Cut(rest, " ")
		switch {
		case word == "ok" && f.sent(name, said):
			said[name] = ""
		case word == "ng" && f.sent(name, said):
			said[name] = "upstream: " + clean(f.mirror.hide(why))
		}
	}
	for _, u := range f.updates {
		if _, ok := said[u.ref]; !ok {
			said[u.ref] = "upstream: " + clean(f.mirror.hide(unpacked))
		}
	}
	return nil
}

// sent tells whether upstream was asked about a name and has not answered yet.
func (f *forwarding) sent(name string, said map[string]string) bool {
	if _, answered := said[name]; answered {
		return false
	}
	for _, u := range f.updates {
		if u.ref == name {
			return true
		}
	}
	return false
}
