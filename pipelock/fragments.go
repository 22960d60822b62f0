package pipelock

import (
	"bytes"
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"airlock/internal/policy"
	"airlock/internal/secrets"
	"airlock/internal/seenset"
)

// A fragment is a short random-looking run that could be part of a token. Recent fragments per host
// are joined with new ones to detect a secret sent in pieces, in two fields of one request or in
// several requests.
const (
	// minFragment and maxFragment bound the length of a fragment, in bytes.
	minFragment, maxFragment = 8, 200
	// maxFragments is how many fragments are kept per host, and historyTTL for how long.
	maxFragments = 32
	historyTTL   = 10 * time.Minute
	// maxHistories bounds the number of hosts with a history.
	maxHistories = 256
	// minInFragment is how many bytes of a finding each of two fragments must hold: a shorter
	// overlap is chance.
	minInFragment = 3
	// maxCandidateBytes bounds the joined text that is scanned for one request.
	maxCandidateBytes = 256 << 10
)

// histories holds the recent fragments of each host.
type histories struct {
	mu    sync.Mutex
	hosts map[policy.Host]*history
}

// history holds the recent fragments of one host.
type history struct {
	last      time.Time
	fragments []fragment // the oldest first
}

type fragment struct {
	text     string
	source   string // the run that it is part of or decoded from; empty: it is a run itself
	mayStart bool   // a secret may start in it
	at       time.Time
}

// sameRun reports whether two fragments come from the same run.
func (c fragment) sameRun(b fragment) bool {
	if cmp.Or(c.source, c.text) != cmp.Or(b.source, b.text) {
		return false
	}
	return c.source == "" || b.source == "" || strings.Contains(c.text, b.text) || strings.Contains(b.text, c.text)
}

// add records the fragments that are new for the host. It returns these and the host's earlier
// fragments, oldest first.
func (t *histories) add(
	h policy.Host, fragments []fragment, mayStart func(string) bool, now time.Time,
) (added, before []fragment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.hosts[h]
	if own == nil {
		t.evictOldest()
		own = &history{}
		t.hosts[h] = own
	}
	own.fragments = slices.DeleteFunc(own.fragments, func(c fragment) bool { return now.Sub(c.at) > historyTTL })
	before = slices.Clone(own.fragments)
	for _, c := range fragments {
		if !slices.ContainsFunc(own.fragments, func(had fragment) bool { return had.text == c.text }) {
			c.mayStart, c.at = mayStart(c.text), now
			added, own.fragments = append(added, c), append(own.fragments, c)
		}
	}
	own.last = now
	own.fragments = slices.Delete(own.fragments, 0, max(0, len(own.fragments)-maxFragments))
	return added, before
}

// remove deletes fragments of a request that was refused.
func (t *histories) remove(h policy.Host, fragments []fragment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own := t.hosts[h]; own != nil {
		own.fragments = slices.DeleteFunc(own.fragments, func(c fragment) bool { return slices.Contains(fragments, c) })
	}
}

// evictOldest deletes the history of the least recently used host when there are too many.
func (t *histories) evictOldest() {
	if t.hosts == nil {
		t.hosts = map[policy.Host]*history{}
	}
	if len(t.hosts) < maxHistories {
		return
	}
	var oldest policy.Host
	for h, own := range t.hosts {
		if oldest.IsZero() || own.last.Before(t.hosts[oldest].last) {
			oldest = h
		}
	}
	delete(t.hosts, oldest)
}

// scanJoined scans separate pieces of a request as if they were joined: each row from its first to
// its last piece, each new fragment with the host's other fragments, and each random run with each
// word of the same request.
func (s *scanner) scanJoined(ctx context.Context, h policy.Host, rows ...[]string) policy.Verdict {
	p := candidates{engine: s.engine, clean: &s.cleanRows}
	var randomRuns, words []string
	var runs, parts []fragment
	part := func(of string) func(string) {
		return func(text string) {
			if looksRandom(text) {
				parts = append(parts, fragment{text: text, source: of})
			}
		}
	}
	for _, row := range rows {
		p.joinRow(row)
		for _, text := range row {
			eachRun(text, func(run string) {
				if looksRandom(run) {
					randomRuns, runs = append(randomRuns, run), append(runs, fragment{text: run})
				} else if len(run) >= 4 && len(run) <= maxFragment {
					words = append(words, run)
				}
				subRuns(run, part(run))
			})
			for _, plain := range plainer(text) {
				eachRun(plain, part(""))
			}
		}
	}
	if len(randomRuns) == 0 && len(parts) == 0 && len(p.newSums) == 0 {
		return policy.Allowed("scan")
	}
	added, before := s.histories.add(h, append(runs, parts...), s.engine.MayStart, time.Now())
	p.joinFragments(added, before)
	p.joinWords(randomRuns, words)
	v := s.scanCandidates(ctx, &p)
	if !v.Allow {
		s.histories.remove(h, added)
		return v
	}
	s.cleanRows.Add(p.newSums...)
	return v
}

// scanCandidates scans the joined texts.
func (s *scanner) scanCandidates(ctx context.Context, p *candidates) policy.Verdict {
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	found := p.knownOnly.spanning(s.engine.Known(bytes.Join(p.knownOnly.pieces, nil)))
	for _, m := range p.anyRule {
		if len(found) > 0 {
			break
		}
		var err error
		if found, err = s.engine.Pieces(ctx, m.pieces); err != nil {
			return policy.Denied("scan", "the request could not be scanned: "+oneLine(err.Error()))
		}
		found = m.spanning(found)
	}
	if len(found) > 0 {
		return policy.Denied("secret: "+found[0].Rule, "pieces that go to one host hold together what looks like a secret ("+found[0].Rule+")")
	}
	return policy.Allowed("scan")
}

// candidates holds the joined texts to scan. knownOnly is scanned for known values only, the texts
// in anyRule for secrets of any rule. Each of the latter is scanned by itself, because lines of one
// text would be read as one wrapped string.
type candidates struct {
	engine    *secrets.Scanner
	clean     *seenset.Set[uint64]
	knownOnly candidate
	anyRule   []candidate
	size      int
	newSums   []uint64 // of what is in it and was not clean before
}

// join adds a candidate made of pieces in this order. mayStart says that a secret may start in the
// first piece.
func (p *candidates) join(mayStart bool, pieces ...string) {
	if mayStart {
		var m candidate
		m.append(pieces...)
		p.anyRule, p.size = append(p.anyRule, m), p.size+m.size
	}
	if p.engine.HasKnown() {
		p.knownOnly.append(pieces...)
	}
}

// joinRow adds a row that has not been scanned clean, forwards and backwards. Texts that cannot be
// part of a token are skipped.
func (p *candidates) joinRow(row []string) {
	row = slices.DeleteFunc(slices.Clone(row), func(text string) bool { return isNumber(text) || !isRun(text) })
	total, sum := 0, uint64(len(row))
	for _, text := range row {
		total += len(text)
		sum = sum*prime + maphash.String(seed, text)
	}
	if len(row) < 2 || total < minSecret || p.full(2*total) || p.clean.Has(sum) {
		return
	}
	p.newSums = append(p.newSums, sum)
	p.join(p.engine.MayStart(strings.Join(row, "")), row...)
	slices.Reverse(row)
	p.join(p.engine.MayStart(strings.Join(row, "")), row...)
}

func (p *candidates) full(more int) bool {
	return p.size+more > maxCandidateBytes || p.knownOnly.size+more > maxCandidateBytes
}

// minSecret is shorter than every secret that a precise rule knows.
const minSecret = 16

// joinFragments joins each new fragment with each other one, in both orders, and with the last ones
// to rows of three and four.
func (p *candidates) joinFragments(added, before []fragment) {
	for i, a := range added {
		others := append(slices.Clone(before), added[:i]...)
		for _, b := range others {
			if p.full(0) {
				return
			}
			if a.sameRun(b) {
				continue
			}
			p.join(a.mayStart, a.text, b.text)
			p.join(b.mayStart, b.text, a.text)
		}
		if a.source != "" {
			continue
		}
		others = slices.DeleteFunc(others, func(c fragment) bool { return c.source != "" })
		for n := 2; n <= 3 && n <= len(others); n++ {
			row := append(slices.Clone(others[len(others)-n:]), a)
			p.join(row[0].mayStart, texts(row)...)
			slices.Reverse(row)
			p.join(row[0].mayStart, texts(row)...)
		}
	}
}

func texts(fragments []fragment) (all []string) {
	for _, c := range fragments {
		all = append(all, c.text)
	}
	return all
}

// joinWords joins each random run with each word, unless that pair has been scanned clean.
func (p *candidates) joinWords(randomRuns, words []string) {
	mayStart := p.mayStartCache()
	for _, b := range words {
		if isNumber(b) {
			continue
		}
		own := maphash.String(seed, b)
		for _, a := range randomRuns {
			sum := own*prime + maphash.String(seed, a)
			if len(a)+len(b) < minSecret || p.clean.Has(sum) {
				continue
			}
			if p.full(0) {
				return
			}
			p.join(mayStart(a), a, b)
			p.join(mayStart(b), b, a)
			p.newSums = append(p.newSums, sum)
		}
	}
}

// mayStartCache returns a caching form of the engine's check.
func (p *candidates) mayStartCache() func(string) bool {
	known := map[string]bool{}
	return func(text string) bool {
		mayStart, ok := known[text]
		if !ok {
			mayStart = p.engine.MayStart(text)
			known[text] = mayStart
		}
		return mayStart
	}
}

// candidate is a text of pieces, with the positions at which they meet.
type candidate struct {
	pieces [][]byte
	size   int
	joints []int // positions between two joined pieces
	starts []int // of pieces
}

var newline = []byte{'\n'}

// append adds pieces that are joined to one word.
func (m *candidate) append(pieces ...string) {
	for i, p := range pieces {
		if i > 0 {
			m.joints = append(m.joints, m.size)
		}
		m.starts = append(m.starts, m.size)
		m.pieces, m.size = append(m.pieces, []byte(p)), m.size+len(p)
	}
	m.pieces, m.size = append(m.pieces, newline), m.size+1
}

// spanning returns the findings that lie in more than one piece and are unlikely to be chance.
func (m *candidate) spanning(found []secrets.Finding) []secrets.Finding {
	if len(found) == 0 {
		return nil
	}
	text := bytes.Join(m.pieces, nil)
	return slices.DeleteFunc(found, func(f secrets.Finding) bool {
		return !m.spansJoint(f.Start, f.End) || !m.plausible(text, f)
	})
}

// spansJoint reports whether a finding has at least minInFragment bytes on both sides of a joint.
func (m *candidate) spansJoint(start, end int) bool {
	i := sort.SearchInts(m.joints, start+minInFragment)
	return i < len(m.joints) && m.joints[i] <= end-minInFragment
}

// atPieceEdge reports whether a piece begins or ends at this position.
func (m *candidate) atPieceEdge(text []byte, at int) bool {
	_, begins := slices.BinarySearch(m.starts, at)
	return begins || at >= len(text) || text[at] == '\n' || at > 0 && text[at-1] == '\n'
}

// plausible reports whether a finding looks like a token that was split: punctuation near its
// start, as most tokens have, or a match of whole pieces; and enough bytes in the first piece,
// unless all pieces are short.
func (m *candidate) plausible(text []byte, f secrets.Finding) bool {
	if !bytes.ContainsAny(text[f.Start:min(f.End, f.Start+punctuationWithin)], "_-.") && !(m.atPieceEdge(text, f.Start) && m.atPieceEdge(text, f.End)) {
		return false
	}
	i, _ := slices.BinarySearch(m.starts, f.Start+1)
	first, longest, from := 0, 0, f.Start
	for ; from < f.End; i++ {
		to := f.End
		if i < len(m.starts) {
			to = min(to, m.starts[i])
		}
		if first == 0 {
			first = to - from
		}
		longest, from = max(longest, to-from), to
	}
	return first >= minInFragment || longest <= minInFragment+1
}

// punctuationWithin is within how many bytes from its start a token has punctuation, if it has any.
const punctuationWithin = 8

// eachRun calls f for each run of token characters.
func eachRun(text string, f func(string)) {
	for i := 0; i < len(text); {
		start := i
		for i < len(text) && charClass[text[i]] != 0 {
			i++
		}
		if i > start {
			f(text[start:i])
		}
		i++
	}
}

// isRun reports whether a text is a single run of token characters.
func isRun(text string) bool {
	for i := range len(text) {
		if charClass[text[i]] == 0 && text[i] != '=' {
			return false
		}
	}
	return text != ""
}

// charClass is the class of a token character: 1 lower case, 2 upper case, 3 digit, 4 punctuation,
// 0 for all others.
var charClass = func() (t [256]byte) {
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = 1, 2
	}
	for c := '0'; c <= '9'; c++ {
		t[c] = 3
	}
	for _, c := range "+/-_.~" {
		t[c] = 4
	}
	return t
}()

// minHex is the shortest run of hexadecimal digits that is a fragment: text in hexadecimal is
// mostly digits.
const minHex = 16

// looksRandom reports whether a run changes between lower case, upper case and digits more often
// than words do, or is hexadecimal. A UUID is excluded: with its hyphens it is not part of a token.
func looksRandom(run string) bool {
	if len(run) < minFragment || len(run) > maxFragment || isUUID(run) {
		return false
	}
	changes, last, inHex := 0, byte(0), len(run) >= minHex
	for i := range len(run) {
		c := charClass[run[i]]
		inHex = inHex && isHexDigit(run[i])
		if c == 4 || c == 0 {
			continue
		}
		if last != 0 && c != last {
			changes++
		}
		last = c
	}
	return inHex || changes*6 >= len(run) || changes >= 3
}

// isNumber reports whether a value is likely to differ in every request: a UUID or a short number.
func isNumber(s string) bool {
	return isUUID(s) || len(s) >= 4 && len(s) < 12 && strings.Trim(s, "0123456789") == ""
}

// isUUID reports whether a text has the form of RFC 9562 §4.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'):
			return false
		}
	}
	return true
}
