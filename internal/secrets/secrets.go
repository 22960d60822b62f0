// Package secrets finds credentials in bytes: the one door to gitleaks' rules, shared by git-gate
// (everything in a push) and pipelock (everything in a request).
//
// It answers with positions and rule names, never with the matched text, and it fails closed: an
// error, a panic in a rule, or a context that ended is an error, upon which the caller refuses.
// Nothing in the data can excuse a finding: no `gitleaks:allow`, no path, no ignore file. UTF-16
// and UTF-32 text, encodings (base64, hex, percent, escapes) and, when asked for, archives are
// looked into.
package secrets

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// ErrTooLarge says that an archive inflates to more than Options.MaxInflate; such data was not
// fully seen.
var ErrTooLarge = errors.New("archive inflates to more than the limit")

// Finding is a place in the data where a secret is. It never holds the secret itself.
type Finding struct {
	Rule string // gitleaks' rule id, or the name of a known value
	// Member is the file of an archive that the secret is in, with "!" before a file of a further
	// archive; empty elsewhere, and where the name itself may hold the secret.
	Member string
	Line   int // counted from 1
	// Offset is where the line starts, in bytes.
	Offset int
	// Start and End enclose what a redaction must replace, in bytes of the scanned data. Inside an
	// archive or a decoded text they enclose the encoded whole.
	Start, End int
	// Parts are the pieces of a finding that was joined from several; what is between them is not
	// part of it. nil: it is in one piece.
	Parts []Part
}

// Part is a piece of a finding, in bytes of the scanned data.
type Part struct{ Start, End int }

// String names the rule and the line, never the text.
func (f Finding) String() string { return fmt.Sprintf("%s in line %d", f.Rule, f.Line) }

// Options say what a Scanner looks for. The zero value is gitleaks' built-in rules and opaque
// archives.
type Options struct {
	// Config is a gitleaks TOML of the operator's; empty means the built-in rules.
	// `extend.useDefault` and `disabledRules` work, `extend.path` and `extend.url` are refused.
	Config string
	// Known are exact values to look for, by the name that a finding shall bear.
	Known map[string]Digest
	// ArchiveDepth is how many archives inside each other are opened (zip, 7z, tar, gzip, bzip2,
	// zstd, xz, …); 0 opens none.
	ArchiveDepth int
	// Remember makes a Scanner look only at what is new in a text of which it has seen the rest, in
	// blocks of 16 KiB; of strings and archives it sees the whole in any case. It is for clients
	// that send the same text again and again.
	Remember bool
	// MaxInflate bounds the bytes that one Scan inflates from archives; 0 means 64 MiB.
	MaxInflate int64
}

// Scanner looks for secrets. It is safe for concurrent use.
type Scanner struct {
	rules func() (*ruleset, error)
	known *matcher
	cache *blockCache // nil: nothing is remembered
	opts  Options
}

// New compiles the operator's rules, if there are any; the built-in ones are compiled by the first
// Scan.
func New(opts Options) (*Scanner, error) {
	if opts.MaxInflate == 0 {
		opts.MaxInflate = 64 << 20
	}
	s := &Scanner{rules: builtin, known: newMatcher(opts.Known), opts: opts}
	if opts.Remember {
		s.cache = newBlockCache()
	}
	if opts.Config == "" {
		return s, nil
	}
	rules, err := compileCustom(opts.Config)
	if err != nil {
		return nil, fmt.Errorf("compiling scan rules: %w", err)
	}
	s.rules = func() (*ruleset, error) { return rules, nil }
	return s, nil
}

var builtin = sync.OnceValues(compileBuiltin)

// Warm reads the rules now (about 3 ms), so that the first Scan does not. Each is compiled when a
// text first has one of its words.
func (s *Scanner) Warm() error {
	_, err := s.rules()
	return err
}

// Scan returns every finding in data, which must not change meanwhile, in order of place. When err
// is not nil the data was not fully seen and must be refused.
func (s *Scanner) Scan(ctx context.Context, data []byte) ([]Finding, error) {
	return s.ScanFile(ctx, "", data)
}

// ScanPart is Scan for a part of something longer. It also reports whether data ends inside
// compressed data, or inside base64 of it: then what follows can only be read together with it.
func (s *Scanner) ScanPart(ctx context.Context, data []byte) (found []Finding, open bool, err error) {
	found, err = s.run(ctx, "", data, func(r *run) ([]span, error) {
		spans, err := r.scan(data, s.opts.ArchiveDepth)
		open = r.open
		return spans, err
	})
	return found, open, err
}

// ScanFile is Scan for data with a known path. The path only adds the rules that want one (a `.p12`
// file, a password in `*.tf`); it never excuses anything.
func (s *Scanner) ScanFile(ctx context.Context, path string, data []byte) (found []Finding, err error) {
	return s.run(ctx, path, data, func(r *run) ([]span, error) { return r.scan(data, s.opts.ArchiveDepth) })
}

// WantsPath reports whether some rule is about files of such a path: then the same data may be a
// finding there and none elsewhere. It errs on the side of yes.
func (s *Scanner) WantsPath(path string) bool {
	rules, err := s.rules()
	if err != nil {
		return true
	}
	r := &run{rules: rules, path: path}
	return slices.ContainsFunc(rules.paths, r.wantsPath)
}

// run does one scan and says what came of it.
func (s *Scanner) run(ctx context.Context, path string, data []byte, scan func(*run) ([]span, error)) (found []Finding, err error) {
	defer func() {
		if r := recover(); r != nil {
			found, err = nil, errors.New("scanning: a rule panicked") // r may quote the data
		}
	}()
	rules, err := s.rules()
	if err != nil {
		return nil, fmt.Errorf("compiling built-in scan rules: %w", err)
	}
	run := &run{ctx: ctx, scanner: s, rules: rules, path: path, budget: s.opts.MaxInflate, viewBudget: max(minViewBudget, viewFactor*len(data)), chargesLeft: minCharges + len(data)/bytesPerCharge, interleavedLeft: minInterleaved + len(data)/bytesPerCharge}
	defer run.release()
	spans, err := scan(run)
	if err != nil {
		return nil, fmt.Errorf("scanning: %w", err)
	}
	if run.nested && len(spans) == 0 {
		return nil, fmt.Errorf("scanning: %w", ErrNested)
	}
	return locate(data, spans), nil
}

// span is a finding before its line is known.
type span struct {
	rule       string
	start, end int
	parts      []stretch // of a finding in pieces, in order; nil: it is in one piece
	member     string    // of an archive, in which it is
	secret     int       // where the secret in it ends; 0 where that is not known
	// decoded says that start and end enclose the encoded whole, which may reach beyond the secret
	// in it.
	decoded bool
}

// locate sorts, drops doubles, and counts lines.
func locate(data []byte, spans []span) []Finding {
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end), cmp.Compare(a.rule, b.rule))
	})
	spans = withoutGeneric(merge(spans))
	found := make([]Finding, 0, len(spans))
	line, at, start := 1, 0, 0
	for _, s := range spans {
		line += bytes.Count(data[at:s.start], []byte{'\n'})
		if i := bytes.LastIndexByte(data[at:s.start], '\n'); i >= 0 {
			start = at + i + 1
		}
		at = s.start
		found = append(found, Finding{Parts: partsOf(s), Rule: s.rule, Member: s.member, Line: line, Offset: start, Start: s.start, End: s.end})
	}
	return found
}

func partsOf(s span) (all []Part) {
	for _, p := range s.parts {
		all = append(all, Part{p.start, p.end})
	}
	return all
}

// merge joins what one rule says of places that overlap.
func merge(spans []span) []span {
	last := map[string]int{}
	out := spans[:0]
	for _, s := range spans {
		if i, ok := last[s.rule]; ok && s.start < out[i].end && s.parts == nil && out[i].parts == nil {
			out[i].end = max(out[i].end, s.end)
			continue
		}
		last[s.rule] = len(out)
		out = append(out, s)
	}
	return out
}

// withoutGeneric drops what a generic rule says of a place that a precise rule names too. The spans
// are sorted by start.
func withoutGeneric(spans []span) []span {
	generic := func(s span) bool { return strings.HasPrefix(s.rule, "generic") }
	var starts, furthest []int // of the precise ones; reach is the farthest end so far
	for _, s := range spans {
		if !generic(s) && s.rule != Unreadable { // to let an archive in lets in nothing else that was found in it
			starts = append(starts, s.start)
			furthest = append(furthest, max(s.end, last(furthest)))
		}
	}
	return slices.DeleteFunc(spans, func(s span) bool {
		n, _ := slices.BinarySearch(starts, s.end) // how many begin before s ends
		return generic(s) && n > 0 && furthest[n-1] > s.start
	})
}

func last(ends []int) int {
	if len(ends) == 0 {
		return 0
	}
	return ends[len(ends)-1]
}
