package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"airlock/gitgate/objects"
	"golang.org/x/sys/unix"
)

// mirror is one repository: a bare one in git's own layout, so that `git fsck` can check it, and the way upstream.
type mirror struct {
	name   string
	dir    string
	store  *objects.Store
	up     transport
	limits objects.Limits // of what upstream sends
	times  times
	hide   func(string) string // takes the gate's credential out of upstream's words
	lfs    *lfsUpstream

	turn    chan struct{} // holds the right to talk upstream and to move references
	waiting atomic.Int64  // who has it, or waits for it
	grown   func()        // is called when a pack has come

	reach   *objects.Reach
	readers atomic.Int64 // clients that are being served
	heavy   atomic.Bool  // much memory was needed since the last of them left

	mu        sync.Mutex
	now       *snapshot
	past      []stale   // those before: stateless clients may still want what they were told of
	began     time.Time // of the last refresh that ended
	refreshed time.Time // when the last one began that succeeded
	err       error     // of that refresh
}

// times bound what upstream may take.
type times struct {
	answer   time.Duration // until the advertisement is here; then the longest silence
	transfer time.Duration // all in all
	report   time.Duration // the longest silence after a push: hooks run
}

// openMirror opens the repository in dir, or makes it, and removes what an interrupted push has left.
func openMirror(name, dir string, up transport, limits objects.Limits, t times) (*mirror, error) {
	m := &mirror{name: name, dir: dir, up: up, limits: limits, times: t, turn: make(chan struct{}, 1), reach: objects.NewReach()}
	m.hide, m.grown = func(s string) string { return s }, func() {}
	for _, sub := range []string{"refs/heads", "refs/tags", "objects/info", "quarantine"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("making mirror %s: %w", name, err)
		}
	}
	if err := m.sweep(); err != nil {
		return nil, fmt.Errorf("cleaning mirror %s: %w", name, err)
	}
	var err error
	if m.store, err = objects.Open(filepath.Join(dir, "objects")); err != nil {
		return nil, fmt.Errorf("opening mirror %s: %w", name, err)
	}
	config := "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
	if err := replace(filepath.Join(dir, "config"), config); err != nil {
		return nil, fmt.Errorf("making mirror %s: %w", name, err)
	}
	if m.now, err = m.load(); err != nil {
		return nil, fmt.Errorf("opening mirror %s: %w", name, err)
	}
	return m, nil
}

// quarantine is a folder of its own for objects that nobody has judged yet. Its lock tells a folder in use from a leftover.
type quarantine struct {
	dir  string
	lock *os.File
	room *tab // of the disk that all pushes share; nil: of none
}

func (m *mirror) newQuarantine() (*quarantine, error) {
	dir, err := os.MkdirTemp(filepath.Join(m.dir, "quarantine"), "in-")
	if err != nil {
		return nil, fmt.Errorf("making quarantine: %w", err)
	}
	q := &quarantine{dir: dir}
	if q.lock, err = os.Open(dir); err == nil {
		err = unix.Flock(int(q.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		q.remove()
		return nil, fmt.Errorf("making quarantine: %w", err)
	}
	return q, nil
}

// remove gives the room back, too; what cannot be removed still takes it.
func (q *quarantine) remove() error {
	if q.lock != nil {
		defer q.lock.Close()
	}
	err := os.RemoveAll(q.dir)
	if err == nil {
		q.room.settle()
	}
	return err
}

// take asks for room.
func (q *quarantine) take(bytes int) error {
	if q.room.take(bytes) != nil {
		return errNoRoom
	}
	return nil
}

// sweep removes quarantines whose process is gone; one that is being replaced may still be at work.
func (m *mirror) sweep() error {
	dirs, err := filepath.Glob(filepath.Join(m.dir, "quarantine", "in-*"))
	for _, dir := range dirs {
		f, openErr := os.Open(dir)
		if openErr != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		f.Close()
	}
	return err
}

// current is the state after the last refresh or push.
func (m *mirror) current() *snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// stale is a snapshot that is no longer the current one.
type stale struct {
	*snapshot
	until time.Time
}

// How long, and how many, old snapshots are remembered for clients that were told of them.
const (
	staleFor  = 10 * time.Minute
	maxStales = 16
)

// snapshots are the current one and those that a client may still work with.
func (m *mirror) snapshots() []*snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []*snapshot{m.now}
	for _, s := range m.past {
		if time.Now().Before(s.until) {
			all = append(all, s.snapshot)
		}
	}
	return all
}

// offers tells which objects the client of one request may have: what a reference leads to, now or a short while ago. What merely lies in the
// store is not offered: upstream may have taken it away, or never have accepted it.
func (m *mirror) offers(ctx context.Context, set objects.Set) offer {
	all := m.snapshots()
	var reached *objects.Objects // of all at once: one walk, whatever and how much is asked for
	return func(h objects.Hash) (ok bool, err error) {
		if slices.ContainsFunc(all, func(s *snapshot) bool { return s.names(h) }) {
			return true, nil
		}
		if !set.Has(h) {
			return false, nil
		}
		if reached == nil {
			var tips []objects.Hash
			for _, s := range all {
				tips = append(tips, s.tips()...)
			}
			if reached, err = m.reach.From(ctx, set, tips); err != nil {
				return false, err
			}
		}
		return reached.Has(h), nil
	}
}

// reading says that a client is being served, until the returned function is called. The last one leaves nothing in memory.
func (m *mirror) reading() (done func()) {
	m.readers.Add(1)
	return func() {
		if m.readers.Add(-1) == 0 {
			m.store.Packs().Forget()
			if m.heavy.Swap(false) {
				debug.FreeOSMemory()
			}
		}
	}
}

// lock waits for the turn.
func (m *mirror) lock(ctx context.Context) error {
	m.waiting.Add(1)
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		m.waiting.Add(-1)
		return fmt.Errorf("waiting for upstream: %w", context.Cause(ctx))
	}
}

func (m *mirror) unlock() {
	<-m.turn
	m.waiting.Add(-1)
}

// refresh makes the mirror what upstream is now. Those who came before a refresh began share it; its failure is theirs too.
func (m *mirror) refresh(ctx context.Context) (*snapshot, error) {
	came := time.Now()
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	defer m.unlock()
	if s, err, ok := m.shared(came); ok {
		return s, err
	}
	began := time.Now()
	s, err := m.fetch(ctx)
	if ctx.Err() != nil {
		return s, err // this client's own end says nothing about upstream
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.began, m.err = began, err
	if err == nil {
		m.refreshed = began
	}
	return s, err
}

func (m *mirror) shared(came time.Time) (*snapshot, error, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.began.Before(came) {
		return nil, nil, false
	}
	if m.err != nil {
		return nil, m.err, true
	}
	return m.now, nil, true
}

// fresh tells whether a refresh succeeded within the last d.
func (m *mirror) fresh(d time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err == nil && time.Since(m.began) < d
}

// fetch lists upstream and takes what is new. The turn must be held.
func (m *mirror) fetch(ctx context.Context) (*snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, m.times.transfer)
	defer cancel()
	ctx, dog := watch(ctx, m.times.answer)
	defer dog.stop()
	s, err := m.fetchFrom(ctx, dog)
	if err != nil {
		return nil, m.explain(ctx, err)
	}
	if now := m.current(); s.same(now) {
		return now, nil
	}
	if err := m.move(s); err != nil {
		return nil, m.explain(ctx, err)
	}
	return s, nil
}

// upstreamError is what went wrong upstream, in words that the agent may read.
type upstreamError string

func (e upstreamError) Error() string { return string(e) }

// explain prefers why a context ended to what the connection made of it. What is the gate's own trouble is not called upstream's.
func (m *mirror) explain(ctx context.Context, err error) error {
	if own, ok := m.trouble(err); ok {
		return own
	}
	var quiet silence
	switch c := context.Cause(ctx); {
	case errors.As(c, &quiet) && errors.Is(err, errUnknownOutcome):
		err = fmt.Errorf("%w (%v)", errUnknownOutcome, quiet)
	case errors.As(c, &quiet):
		err = quiet
	}
	if large := new(objects.TooLargeError); errors.As(err, &large) {
		path := large.Path
		large.Path = "" // it is cleaned by itself, so that a long one cuts nothing else off
		text := "upstream's pack is over a limit: " + m.words(culprit(large.Culprit)) + fmt.Sprintf(" is over what git-gate takes of upstream (%d bytes, which no setting changes)", large.Limit) + others(large.More)
		if path != "" {
			text += fmt.Sprintf("; it is file %s in commit %.12s", m.words(path), large.Commit)
		}
		return upstreamError(text)
	}
	return upstreamError(m.words(err.Error()))
}

// words makes upstream's words fit for the agent. A credential is hidden in what is left when all is out that is not drawn: it may come with
// such characters in the middle.
func (m *mirror) words(text string) string {
	if bare := undrawn(text); m.hide(bare) != bare {
		text = m.hide(bare)
	}
	return clean(text)
}

// undrawn takes out what is not drawn, line breaks too.
func undrawn(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unseen(c) || c == unicode.ReplacementChar {
			return -1
		}
		return c
	}, text)
}

// withhold leaves out references whose names hold the credential: they can be told neither as they are nor with a part hidden.
func (m *mirror) withhold(s *snapshot) {
	s.refs = slices.DeleteFunc(s.refs, func(r ref) bool { return m.hide(r.name) != r.name })
	if m.hide(s.head) == s.head {
		return
	}
	if s.head = ""; s.headAt.IsZero() {
		s.head = "refs/heads/main"
	}
}

func (m *mirror) fetchFrom(ctx context.Context, dog *watchdog) (*snapshot, error) {
	session, err := m.up.open(ctx, uploadPack)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	adv, err := advertised(session)
	if err != nil {
		return nil, err
	}
	dog.touch()
	next := adv.snapshot()
	if adv.head.IsZero() && adv.symref() == "" {
		branch, err := m.unborn(ctx)
		if err != nil {
			return nil, err
		}
		if dog.touch(); branch != "" {
			next.head = branch
		}
	}
	m.withhold(next)
	packs := m.store.Packs()
	var wants []objects.Hash
	for _, h := range next.tips() {
		if !packs.Has(h) {
			wants = append(wants, h)
		}
	}
	if len(wants) == 0 {
		return next, nil
	}
	return next, m.take(ctx, dog, session, adv.caps, wants)
}

// take asks for objects and files the pack.
func (m *mirror) take(ctx context.Context, dog *watchdog, s session, offered capabilities, wants []objects.Hash) error {
	body := m.wantList(offered, wants)
	answer, err := s.Ask(strings.NewReader(body), int64(len(body)))
	if err != nil {
		return err
	}
	line, err := readLine(answer)
	if err != nil {
		return fmt.Errorf("reading upstream's answer: %w", unexpectedEOF(err))
	}
	if text, ok := strings.CutPrefix(line, "ERR "); ok {
		return fmt.Errorf("upstream says: %s", text)
	}
	if line != "NAK" && !strings.HasPrefix(line, "ACK ") {
		return errors.New("upstream answers neither ACK nor NAK")
	}
	in := listening{answer, dog}
	q, err := m.newQuarantine()
	if err != nil {
		return err
	}
	defer q.remove()
	pack, err := m.receive(ctx, in, offered.has("side-band-64k"), q.dir)
	if err != nil {
		return err
	}
	defer pack.Close()
	if pack.Len() > manyObjects {
		m.heavy.Store(true)
	}
	return m.adopt(ctx, pack, wants)
}

// manyObjects are so many that to index them takes tens of megabytes.
const manyObjects = 20_000

func (m *mirror) receive(ctx context.Context, in listening, banded bool, dir string) (*objects.Pack, error) {
	if !banded {
		return objects.Receive(ctx, in, dir, m.limits)
	}
	return objects.Receive(ctx, &demux{r: bufio.NewReaderSize(in, 64<<10), say: func(string) {}}, dir, m.limits)
}

// adopt files a pack of upstream's, if it brought what was wanted, with everything behind it.
func (m *mirror) adopt(ctx context.Context, pack *objects.Pack, wants []objects.Hash) error {
	others := m.store.Packs()
	for _, h := range wants {
		if !pack.Has(h) {
			return errors.New("upstream's pack lacks what it advertises")
		}
	}
	all, err := pack.Closed(ctx, others, wants)
	if err != nil {
		return fmt.Errorf("upstream's pack is not whole: %w", err)
	}
	if err := m.file(pack); err != nil {
		return err
	}
	if packs := m.store.Packs(); all && len(packs) == 1 {
		m.reach.Learn(packs[0], wants)
	}
	return nil
}

// file takes a pack into the store.
func (m *mirror) file(pack *objects.Pack) error {
	defer m.grown()
	return m.store.Adopt(pack)
}

// wantList is the request: no thin packs, so that every pack stands on its own.
func (m *mirror) wantList(offered capabilities, wants []objects.Hash) string {
	caps := "agent=airlock"
	for _, c := range []string{"side-band-64k", "ofs-delta", "no-progress"} {
		if offered.has(c) {
			caps = c + " " + caps
		}
	}
	var b strings.Builder
	for i, h := range wants {
		if i == 0 {
			writePktf(&b, "want %s %s\n", h, caps)
			continue
		}
		writePktf(&b, "want %s\n", h)
	}
	writeFlush(&b)
	for _, h := range m.current().tips() {
		writePktf(&b, "have %s\n", h)
	}
	writePkt(&b, "done\n")
	return b.String()
}

// move makes a snapshot the current one, on disk first.
func (m *mirror) move(next *snapshot) error {
	if err := m.save(next); err != nil {
		return fmt.Errorf("writing references of mirror %s: %w", m.name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.past = append([]stale{{m.now, time.Now().Add(staleFor)}}, m.past[:min(len(m.past), maxStales-1)]...)
	m.now = next
	return nil
}

const packedHeader = "# pack-refs with: peeled fully-peeled sorted \n"

// save writes HEAD and packed-refs.
func (m *mirror) save(s *snapshot) error {
	var b strings.Builder
	b.WriteString(packedHeader)
	for _, r := range s.refs {
		fmt.Fprintf(&b, "%s %s\n", r.hash, r.name)
		if !r.peeled.IsZero() {
			fmt.Fprintf(&b, "^%s\n", r.peeled)
		}
	}
	if err := replace(filepath.Join(m.dir, "packed-refs"), b.String()); err != nil {
		return err
	}
	head := "ref: " + s.head + "\n"
	if s.head == "" {
		head = s.headAt.String() + "\n"
	}
	return replace(filepath.Join(m.dir, "HEAD"), head)
}

// load reads what save wrote; an empty mirror has nothing yet.
func (m *mirror) load() (*snapshot, error) {
	s := &snapshot{head: "refs/heads/main"}
	if head, err := os.ReadFile(filepath.Join(m.dir, "HEAD")); err == nil {
		s.setHead(strings.TrimSpace(string(head)))
	}
	text, err := os.ReadFile(filepath.Join(m.dir, "packed-refs"))
	if errors.Is(err, os.ErrNotExist) {
		return s, m.save(s)
	}
	if err != nil {
		return nil, err
	}
	packs := m.store.Packs()
	for line := range strings.Lines(string(text)) {
		s.addPacked(strings.TrimSuffix(line, "\n"), packs)
	}
	return s, nil
}

// setHead reads what stands in a file HEAD.
func (s *snapshot) setHead(text string) {
	if branch, ok := strings.CutPrefix(text, "ref: "); ok {
		s.head = strings.TrimSpace(branch)
		return
	}
	if h, err := objects.ParseHash(text); err == nil {
		s.head, s.headAt = "", h
	}
}

// addPacked leaves out what has no object: the next refresh brings it again.
func (s *snapshot) addPacked(line string, packs objects.Set) {
	if peeled, ok := strings.CutPrefix(line, "^"); ok && len(s.refs) > 0 {
		s.refs[len(s.refs)-1].peeled, _ = objects.ParseHash(peeled)
		return
	}
	id, name, ok := strings.Cut(line, " ")
	h, err := objects.ParseHash(id)
	if ok && err == nil && packs.Has(h) {
		s.refs = append(s.refs, ref{name: name, hash: h})
	}
}

// replace writes a file and gives it its name last.
func replace(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), path)
}

// peel is what a tag means in the end, zero for what is no tag.
func peel(set objects.Set, h objects.Hash) objects.Hash {
	o, err := set.Peel(h)
	if err != nil || o.Hash == h {
		return objects.Hash{}
	}
	return o.Hash
}
