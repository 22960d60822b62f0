package gitgate

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"airlock/gitgate/objects"
	"airlock/internal/secrets"
)

// stdioReceiveUsage is what ReceivePack wants.
const stdioReceiveUsage = "usage: git-gate receive-pack [--stateless-rpc] [--http-backend-info-refs] DIR"

// ReceivePack takes a push into an ordinary repository on standard input and output as git-receive-pack does, so that scripts which are written
// for git's own program can drive ours. It looks at the push as the gate does; the repository itself is what is moved. No hook runs.
func ReceivePack(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var stateless, greeting bool
	flags := flag.NewFlagSet("receive-pack", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.BoolVar(&stateless, "stateless-rpc", false, "")
	flags.BoolVar(&greeting, "http-backend-info-refs", false, "")
	flags.BoolVar(&greeting, "advertise-refs", false, "")
	flags.BoolVar(new(bool), "quiet", false, "")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return usageErr(stdioReceiveUsage)
	}
	o, err := openOrdinary(flags.Arg(0), false)
	if err != nil {
		return fatal(stderr, err)
	}
	src, err := o.load()
	if err != nil {
		return fatal(stderr, err)
	}
	in, out := bufio.NewReaderSize(os.Stdin, 64<<10), bufio.NewWriterSize(stdout, 64<<10)
	if greeting || !stateless {
		q := request{service: receivePack, version: versionOf(os.Getenv("GIT_PROTOCOL"))}
		if err := errors.Join(advertise(out, q, src, stateless), out.Flush()); err != nil || greeting {
			return err
		}
	}
	t := &taking{repository: o, source: src, in: in, said: map[string]told{}, unpack: "ok"}
	if err := errors.Join(t.run(ctx, out), out.Flush()); err != nil {
		return fatal(stderr, err)
	}
	return nil
}

// taking is one push into an ordinary repository.
type taking struct {
	repository *ordinary
	source
	in *bufio.Reader

	commands
	band   *band
	said   map[string]told
	unpack string
	pack   *objects.Pack
}

func (t *taking) run(ctx context.Context, out *bufio.Writer) (err error) {
	if t.commands, err = readCommands(t.in, nil); err != nil || len(t.updates) == 0 {
		return err
	}
	t.band = &band{w: out, wide: t.caps.has("side-band-64k")}
	dir, err := os.MkdirTemp(filepath.Join(t.repository.common, "objects"), "incoming-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := t.take(ctx, dir); err != nil {
		t.unpack = explain(err)
		t.refuse(t.unpack)
	}
	t.judge(ctx)
	if err := t.apply(dir); err != nil {
		t.refuse(explain(err))
	}
	if !t.caps.has("report-status") && !t.caps.has("report-status-v2") {
		return t.band.Close()
	}
	return errors.Join(writeReport(t.band, t.caps.has("report-status-v2"), t.unpack, t.updates, t.said), t.band.Close())
}

// refuse refuses what was not refused before.
func (t *taking) refuse(why string) {
	for _, u := range t.updates {
		if _, known := t.said[u.ref]; !known {
			t.said[u.ref] = told{why: why}
		}
	}
}

// take reads the pack, and looks at all of it.
func (t *taking) take(ctx context.Context, dir string) (err error) {
	brings := false
	for _, u := range t.updates {
		brings = brings || !u.deletes()
	}
	if brings {
		limits := objects.Limits{PackBytes: 32 << 30, ObjectBytes: 512 << 20, TotalBytes: 512 << 30, Objects: 50_000_000, Alone: true}
		if t.pack, err = objects.Receive(ctx, t.in, dir, limits); err != nil {
			return err
		}
	}
	n := newNeed(ctx, t.pack, t.set, t.snap)
	if err := errors.Join(n.follow(t.updates), n.prove(t.reach)); err != nil {
		return err
	}
	scanner, err := secrets.New(secrets.Options{ArchiveDepth: 6})
	if err != nil {
		return err
	}
	s := &inspection{
		scanner: scanner, pack: t.pack, updates: t.updates, current: t.snap, options: t.options, upstream: t.set, need: n, seen: newCleared(),
		value: func(string, []byte) (string, bool) { return "", false },
	}
	hits, err := s.run(ctx)
	if err == nil && len(hits) > 0 {
		_ = t.band.Say("%s", explainHits(hits, "")) // the report says it, too
		t.refuse("secret found: " + hits[0].String())
	}
	return err
}

// judge applies the rules of the gate, and those of the repository's own configuration.
func (t *taking) judge(ctx context.Context) {
	all := t.set
	if t.pack != nil {
		all = append(objects.Set{t.pack}, t.set...)
	}
	refused := false
	for _, u := range t.updates {
		if _, known := t.said[u.ref]; known {
			refused = true
			continue
		}
		f := facts{current: t.snap.get(u.ref), known: u.deletes() || all.Has(u.new), conflict: conflictOf(t.snap, t.updates, u), other: otherThanCommit(all, u)}
		v := rules{}.update(u, f)
		why := v.Why
		if v.Allow {
			why = t.denied(ctx, all, u)
		}
		if why != "" {
			t.said[u.ref], refused = told{why: why}, true
		}
	}
	if refused && t.caps.has("atomic") {
		t.refuse("atomic push failure")
	}
}

// denied is what git's receive.deny… settings say.
func (t *taking) denied(ctx context.Context, all objects.Set, u update) string {
	o := t.repository
	current := t.snap.head == u.ref && !o.enabled("core.bare")
	switch policy := o.setting("receive.denycurrentbranch"); {
	case u.deletes() && o.enabled("receive.denydeletes"):
		return "deletion prohibited"
	case current && u.deletes():
		return "deletion of the current branch prohibited"
	case current && policy != "ignore" && policy != "warn" && policy != "false":
		return "branch is currently checked out"
	}
	if !u.creates() && !u.deletes() && o.enabled("receive.denynonfastforwards") {
		if forward, err := all.IsAncestor(ctx, u.old, u.new); err != nil || !forward {
			return "non-fast-forward"
		}
	}
	return ""
}

// apply files the objects that are needed, then moves the references.
func (t *taking) apply(dir string) error {
	var updates []update
	for _, u := range t.updates {
		if _, refused := t.said[u.ref]; !refused {
			updates = append(updates, u)
		}
	}
	if len(updates) == 0 {
		return nil
	}
	if t.pack != nil {
		n := newNeed(context.Background(), t.pack, t.set, t.snap)
		if err := n.follow(updates); err != nil {
			return err
		}
		pack, err := n.fresh(context.Background(), dir, objects.Limits{PackBytes: 32 << 30, ObjectBytes: 512 << 20, TotalBytes: 512 << 30, Objects: 50_000_000})
		if err != nil {
			return err
		}
		if err := t.file(pack); err != nil {
			return err
		}
	}
	for _, u := range updates {
		t.said[u.ref] = told{}
		if err := t.repository.move(u); err != nil {
			t.said[u.ref] = told{why: "failed to update ref: " + clean(err.Error())}
		}
	}
	return nil
}

// file gives a pack its place: the index last, so that a pack that is seen is whole.
func (t *taking) file(pack *objects.Pack) error {
	if pack.Len() == 0 {
		return nil
	}
	from := strings.TrimSuffix(pack.File(), ".pack")
	to := filepath.Join(t.repository.common, "objects", "pack", filepath.Base(from))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	for _, suffix := range []string{".pack", ".idx"} {
		if err := os.Rename(from+suffix, to+suffix); err != nil {
			return fmt.Errorf("filing pack: %w", err)
		}
	}
	return nil
}

// lock takes a file as git does: by making another one beside it, which takes its place in the end.
func lock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(path+".lock", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if !errors.Is(err, fs.ErrExist) || time.Now().After(end) {
			return f, err
		}
	}
}

// move changes one reference, if it still is what it was.
func (o *ordinary) move(u update) error {
	path := filepath.Join(o.common, filepath.FromSlash(u.ref))
	f, err := lock(path)
	if err != nil {
		return errors.New("it cannot be locked")
	}
	defer os.Remove(f.Name()) // it is gone when it was renamed
	defer f.Close()
	if now := o.current(u.ref); now != u.old {
		return errors.New("the reference has moved")
	}
	if u.deletes() {
		return errors.Join(o.unpackRef(u.ref), ignoreAbsent(os.Remove(path)))
	}
	if _, err := fmt.Fprintln(f, u.new); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// current is what a reference is now.
func (o *ordinary) current(name string) objects.Hash {
	if text, err := os.ReadFile(filepath.Join(o.common, filepath.FromSlash(name))); err == nil {
		h, _ := objects.ParseHash(strings.TrimSpace(string(text))) // zero when it is no name
		return h
	}
	text, _ := os.ReadFile(filepath.Join(o.common, "packed-refs")) // absent: no reference is packed
	for line := range strings.Lines(string(text)) {
		if id, packed, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && packed == name {
			h, _ := objects.ParseHash(id)
			return h
		}
	}
	return objects.Hash{}
}

// unpackRef takes a reference out of packed-refs.
func (o *ordinary) unpackRef(name string) error {
	path := filepath.Join(o.common, "packed-refs")
	f, err := lock(path)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		return ignoreAbsent(err)
	}
	var rest strings.Builder
	drop := false
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "^") {
			_, packed, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			drop = packed == name
		}
		if !drop {
			rest.WriteString(line)
		}
	}
	if _, err := io.WriteString(f, rest.String()); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
