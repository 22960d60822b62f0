package gitgate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"airlock/gitgate/objects"
)

// versionOf reads what a client says of protocols ("version=2", perhaps among other things between colons): the highest that is spoken here.
func versionOf(text string) int {
	version := 0
	for word := range strings.SplitSeq(text, ":") {
		switch word {
		case "version=1":
			version = max(version, 1)
		case "version=2":
			version = 2
		}
	}
	return version
}

// advertiseV2 is what a client of protocol v2 is told first (gitprotocol-v2(5)).
func advertiseV2(w io.Writer, allows features) error {
	var errs []error
	fetch := "fetch=shallow wait-for-done"
	if allows.filter {
		fetch += " filter"
	}
	list := "ls-refs=unborn"
	if allows.born {
		list = "ls-refs"
	}
	for _, line := range []string{"version 2", agentName, list, fetch, "server-option", "object-format=sha1"} {
		errs = append(errs, writePkt(w, line+"\n"))
	}
	return errors.Join(append(errs, writeFlush(w))...)
}

// command is one request of v2.
type command struct {
	name string
	args []string // but for the lines of a fetch that name an object:

	wants, haves, shallow []objects.Hash

	tab      *tab
	kept     int // bytes of args, as they are counted
	prefixes int
}

const (
	// maxCommand bounds the arguments of one command as they come, in bytes: enough for maxWants.
	maxCommand = 64 << 20
	// maxText bounds those that are kept as text.
	maxText = 32 << 20
	// maxArg bounds one of them: no reference has a longer name.
	maxArg = 1100
)

// readCommand reads a request; io.EOF and errFlush say that there is none. What it keeps goes on the tab.
func readCommand(r *bufio.Reader, t *tab) (c command, err error) {
	c.tab = t
	size, args := 0, false
	for first := true; ; first = false {
		line, err := readLine(r)
		switch {
		case err == errFlush && first:
			return c, errFlush
		case err == errFlush:
			return c, c.check()
		case err == errDelim && !args && !first:
			args = true
			continue
		case err == errDelim && args:
			return c, errRefused("expected flush after " + c.name + " arguments")
		case (err == io.EOF || err == io.ErrUnexpectedEOF) && first:
			return c, io.EOF
		case err != nil:
			return c, fmt.Errorf("reading command: %w", unexpectedEOF(err))
		}
		if size += len(line) + 4; size > maxCommand {
			return c, errRefused("too many arguments")
		}
		read := c.capability
		if args {
			read = c.arg
		}
		if err := read(line); err != nil {
			return c, err
		}
	}
}

// arg keeps a line behind the capabilities.
func (c *command) arg(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	if names := map[string]*[]objects.Hash{"want": &c.wants, "have": &c.haves, "shallow": &c.shallow}[word]; names != nil && c.name == "fetch" {
		h, err := objects.ParseHash(rest)
		if err != nil {
			return errRefused(word + " without an object name: 40 hexadecimal digits were wanted")
		}
		if len(*names) >= maxWants {
			return errRefused("too many lines that begin with " + word)
		}
		*names = append(*names, h)
		return c.tab.take(keepOne)
	}
	if len(line) > maxArg {
		return errRefused(fmt.Sprintf("an argument of %d bytes; at most %d are read", len(line), maxArg))
	}
	if word == "ref-prefix" {
		if c.prefixes++; c.prefixes > maxPrefixes+1 {
			return nil // there are too many to compare already
		}
	}
	if c.kept += len(line) + keepOne; c.kept > maxText {
		return errRefused("too many arguments")
	}
	c.args = append(c.args, line)
	return c.tab.take(len(line) + keepOne)
}

// capability reads a line in front of the arguments.
func (c *command) capability(line string) error {
	key, value, _ := strings.Cut(line, "=")
	switch key {
	case "command":
		if c.name != "" {
			return errRefused("command '" + clean(value) + "' requested after already requesting command '" + c.name + "'")
		}
		if value != "ls-refs" && value != "fetch" {
			return errRefused("invalid command '" + clean(value) + "': ls-refs and fetch are here")
		}
		c.name = value
	case "object-format":
		if value != "sha1" {
			return errRefused("mismatched object format: server sha1; client " + clean(value))
		}
	case "agent", "server-option", "session-id":
	default:
		return errRefused("unknown capability '" + clean(line) + "': agent, server-option and object-format are here")
	}
	return nil
}

func (c *command) check() error {
	if c.name == "" {
		return errRefused("no command requested: ls-refs and fetch are here")
	}
	return nil
}

// speaker answers the commands of one client.
type speaker struct {
	in     *bufio.Reader
	out    *bufio.Writer
	list   func(context.Context) (source, error) // the repository as it is upstream now
	recent func(context.Context) (source, error) // as it was a moment ago, for a client that has been told of it
	budget *budget                               // of what is kept of requests; nil has no end
	walks  turns
}

// serve answers commands until the client leaves; a stateless client sends one.
func (s *speaker) serve(ctx context.Context, stateless bool) error {
	for {
		err := s.one(ctx)
		if err == io.EOF || err == errFlush {
			return nil
		}
		if err != nil || stateless {
			return err
		}
	}
}

// one reads a command and answers it.
func (s *speaker) one(ctx context.Context) error {
	t := s.budget.open()
	defer t.settle()
	c, err := readCommand(s.in, t)
	if err != nil {
		return err
	}
	if err := s.answer(ctx, c); err != nil {
		return err
	}
	return s.out.Flush()
}

func (s *speaker) answer(ctx context.Context, c command) error {
	if c.name == "ls-refs" {
		l, err := parseListing(c.args)
		if err != nil {
			return err
		}
		src, err := s.list(ctx)
		if err != nil {
			return err
		}
		// A stateful client's fetch is about what it has just been shown.
		s.recent = func(context.Context) (source, error) { return src, nil }
		l.unborn = l.unborn && !src.allows.born
		return l.write(s.out, src.snap)
	}
	src, err := s.recent(ctx)
	if err != nil {
		return err
	}
	return (&fetchingV2{fetching: fetching{source: src, out: s.out, tab: c.tab, walks: s.walks}}).run(ctx, c)
}

// listing is a parsed ls-refs.
type listing struct {
	symrefs, peel, unborn bool
	prefixes              []string
}

// maxPrefixes is how many prefixes are compared; with more, all references are shown, as the protocol allows.
const maxPrefixes = 65536

func parseListing(args []string) (l listing, err error) {
	for _, arg := range args {
		prefix, isPrefix := strings.CutPrefix(arg, "ref-prefix ")
		switch {
		case arg == "symrefs":
			l.symrefs = true
		case arg == "peel":
			l.peel = true
		case arg == "unborn":
			l.unborn = true
		case isPrefix:
			l.prefixes = append(l.prefixes, prefix)
		default:
			return l, errRefused("unexpected line '" + clean(arg) + "' in ls-refs: symrefs, peel, unborn and ref-prefix are here")
		}
	}
	if len(l.prefixes) > maxPrefixes {
		l.prefixes = nil
	}
	return l, nil
}

func (l listing) shows(name string) bool {
	for _, p := range l.prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(l.prefixes) == 0
}

func (l listing) write(w io.Writer, s *snapshot) error {
	var errs []error
	if l.shows("HEAD") {
		errs = append(errs, l.head(w, s))
	}
	for _, r := range s.refs {
		if !l.shows(r.name) {
			continue
		}
		line := r.hash.String() + " " + r.name
		if l.symrefs && r.target != "" {
			line += " symref-target:" + r.target
		}
		if l.peel && !r.peeled.IsZero() {
			line += " peeled:" + r.peeled.String()
		}
		if err := writePkt(w, line+"\n"); err != nil {
			return err
		}
	}
	return errors.Join(append(errs, writeFlush(w))...)
}

func (l listing) head(w io.Writer, s *snapshot) error {
	at, symref := s.headHash(), ""
	if l.symrefs && s.head != "" {
		symref = " symref-target:" + s.head
	}
	switch {
	case !at.IsZero():
		return writePktf(w, "%s HEAD%s\n", at, symref)
	case l.unborn && symref != "":
		return writePktf(w, "unborn HEAD%s\n", symref)
	}
	return nil
}

// fetchingV2 is a fetch of protocol v2: all that the client has to say comes at once.
type fetchingV2 struct {
	fetching
	done    bool
	patient bool // wait-for-done: no pack before the client says so
}

func (f *fetchingV2) run(ctx context.Context, c command) error {
	f.caps, f.seen = capabilities{"side-band-64k"}, map[objects.Hash]bool{}
	if err := f.hear(ctx, c); err != nil {
		return err
	}
	if len(f.wants) == 0 && !f.patient {
		return nil
	}
	for _, h := range c.haves {
		if _, err := f.note(h); err != nil {
			return err
		}
	}
	if len(c.haves) > 0 && !f.done {
		if enough, err := f.acknowledgments(ctx); err != nil || !enough {
			return err
		}
	}
	if len(f.wants) == 0 {
		return errRefused("fetch without a want")
	}
	shallow, opened, err := f.bound(ctx)
	if err != nil {
		return err
	}
	if f.deepen.on() || len(f.cut) > 0 {
		err := errors.Join(writePkt(f.out, "shallow-info\n"), writeBounds(f.out, shallow, opened), writeDelim(f.out))
		if err != nil {
			return err
		}
	}
	if err := writePkt(f.out, "packfile\n"); err != nil {
		return err
	}
	return f.send(ctx)
}

// hear takes in all but the haves.
func (f *fetchingV2) hear(ctx context.Context, c command) error {
	for _, line := range c.args {
		if err := f.arg(line); err != nil {
			return err
		}
	}
	for _, h := range c.shallow {
		f.shallow(h)
	}
	for _, h := range c.wants {
		if err := f.addWant(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// arg reads one argument.
func (f *fetchingV2) arg(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	switch line {
	case "thin-pack", "ofs-delta", "no-progress", "include-tag":
		f.caps = append(f.caps, line)
		return nil
	case "done":
		f.done = true
		return nil
	case "wait-for-done":
		f.patient = true
		return nil
	case "deepen-relative":
		f.deepen.relative = true
		return nil
	}
	ok, err := f.option(word, rest)
	if !ok && err == nil {
		return errRefused("unexpected line: '" + clean(line) + "' in fetch")
	}
	return err
}

// acknowledgments answers the haves; enough says that a pack follows in the same answer.
func (f *fetchingV2) acknowledgments(ctx context.Context) (enough bool, err error) {
	errs := []error{writePkt(f.out, "acknowledgments\n")}
	if len(f.common) == 0 {
		errs = append(errs, writePkt(f.out, "NAK\n"))
	}
	for _, h := range f.common {
		errs = append(errs, writePktf(f.out, "ACK %s\n", h))
	}
	if !f.patient {
		if enough, err = f.enough(ctx); err != nil {
			return false, err
		}
	}
	if !enough {
		return false, errors.Join(append(errs, writeFlush(f.out))...)
	}
	return true, errors.Join(append(errs, writePkt(f.out, "ready\n"), writeDelim(f.out))...)
}
