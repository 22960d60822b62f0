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

// A crumb is a short run of characters that looks drawn by chance, as a part
// of a token does. What one destination got of them lately is remembered, and
// each new one is read together with those: a secret may go out in pieces, in
// two fields of one request or in several requests.
const (
	minCrumb, maxCrumb = 8, 200
	// keptCrumbs is how many are remembered a host, and keptFor how long.
	keptCrumbs = 32
	keptFor    = 10 * time.Minute
	// crumbHosts bounds how many hosts are remembered.
	crumbHosts = 256
	// minPiece is what each of two pieces must have of a finding, in bytes: a
	// shorter one is there by chance.
	minPiece = 3
	// maxTogether bounds what is read together for one request, in bytes.
	maxTogether = 256 << 10
)

// trails are the crumbs of each host.
type trails struct {
	mu    sync.Mutex
	hosts map[policy.Host]*trail
}

type trail struct {
	last   time.Time
	crumbs []crumb // the oldest first
}

type crumb struct {
	text  string
	of    string // the run that it is a part of, or says in other words; empty: it is one itself
	opens bool   // a secret may begin in it
	at    time.Time
}

// twice tells whether two crumbs say the same of one run.
func (c crumb) twice(b crumb) bool {
	if cmp.Or(c.of, c.text) != cmp.Or(b.of, b.text) {
		return false
	}
	return c.of == "" || b.of == "" || strings.Contains(c.text, b.text) || strings.Contains(b.text, c.text)
}

// follow adds what is new of some crumbs and returns it, with what the host
// had before, the oldest first.
func (t *trails) follow(h policy.Host, crumbs []crumb, opens func(string) bool, now time.Time) (fresh, before []crumb) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := t.hosts[h]
	if own == nil {
		t.makeRoom()
		own = &trail{}
		t.hosts[h] = own
	}
	own.crumbs = slices.DeleteFunc(own.crumbs, func(c crumb) bool { return now.Sub(c.at) > keptFor })
	before = slices.Clone(own.crumbs)
	for _, c := range crumbs {
		if !slices.ContainsFunc(own.crumbs, func(had crumb) bool { return had.text == c.text }) {
			c.opens, c.at = opens(c.text), now
			fresh, own.crumbs = append(fresh, c), append(own.crumbs, c)
		}
	}
	own.last = now
	own.crumbs = slices.Delete(own.crumbs, 0, max(0, len(own.crumbs)-keptCrumbs))
	return fresh, before
}

// forget takes back what did not leave.
func (t *trails) forget(h policy.Host, crumbs []crumb) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if own := t.hosts[h]; own != nil {
		own.crumbs = slices.DeleteFunc(own.crumbs, func(c crumb) bool { return slices.Contains(crumbs, c) })
	}
}

// makeRoom forgets the host that has been silent longest, where there are too
// many.
func (t *trails) makeRoom() {
	if t.hosts == nil {
		t.hosts = map[policy.Host]*trail{}
	}
	if len(t.hosts) < crumbHosts {
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

// together reads what stands apart as if it did not: each row from its
// begin to its end, each crumb that this host has not had before with the
// others, and each crumb with each word of the same request.
func (s *scanner) together(ctx context.Context, h policy.Host, rows ...[]string) policy.Verdict {
	p := puzzle{engine: s.engine, clean: &s.rows}
	var crumbs, words []string
	var runs, parts []crumb
	part := func(of string) func(string) {
		return func(text string) {
			if looksRandom(text) {
				parts = append(parts, crumb{text: text, of: of})
			}
		}
	}
	for _, row := range rows {
		p.row(row)
		for _, text := range row {
			eachRun(text, func(run string) {
				if looksRandom(run) {
					crumbs, runs = append(crumbs, run), append(runs, crumb{text: run})
				} else if len(run) >= 4 && len(run) <= maxCrumb {
					words = append(words, run)
				}
				subRuns(run, part(run))
			})
			for _, plain := range plainer(text) {
				eachRun(plain, part(""))
			}
		}
	}
	if len(crumbs) == 0 && len(parts) == 0 && len(p.sums) == 0 {
		return policy.Allowed("scan")
	}
	fresh, before := s.trails.follow(h, append(runs, parts...), s.engine.Opens, time.Now())
	p.fresh(fresh, before)
	p.words(crumbs, words)
	v := s.lookTogether(ctx, &p)
	if !v.Allow {
		s.trails.forget(h, fresh)
		return v
	}
	s.rows.Add(p.sums...)
	return v
}

// lookTogether scans what was put together.
func (s *scanner) lookTogether(ctx context.Context, p *puzzle) policy.Verdict {
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	found := p.known.crossing(s.engine.Known(bytes.Join(p.known.pieces, nil)))
	for _, m := range p.any {
		if len(found) > 0 {
			break
		}
		var err error
		if found, err = s.engine.Pieces(ctx, m.pieces); err != nil {
			return policy.Denied("scan", "the request could not be scanned: "+brief(err.Error()))
		}
		found = m.crossing(found)
	}
	if len(found) > 0 {
		return policy.Denied("secret: "+found[0].Rule, "pieces that go to one host hold together what looks like a secret ("+found[0].Rule+")")
	}
	return policy.Allowed("scan")
}

// puzzle is what pieces make in the orders that are tried: in the one mosaic what only
// known values are looked for in, in the others what may be a secret of any rule. Each of those
// is a text of its own: lines would be taken for one that was wrapped.
type puzzle struct {
	engine *secrets.Scanner
	clean  *seenset.Set[uint64]
	known  mosaic
	any    []mosaic
	size   int
	sums   []uint64 // of what is in it and was not clean before
}

// add puts pieces behind each other; opens tells that a secret may begin in
// the first one.
func (p *puzzle) add(opens bool, pieces ...string) {
	if opens {
		var m mosaic
		m.join(pieces...)
		p.any, p.size = append(p.any, m), p.size+m.size
	}
	if p.engine.HasKnown() {
		p.known.join(pieces...)
	}
}

// row adds a row that was not clean before: from its begin to its end, and
// the other way round. What no token is made of stands for nothing in it.
func (p *puzzle) row(row []string) {
	row = slices.DeleteFunc(slices.Clone(row), func(text string) bool { return isNumber(text) || !isRun(text) })
	total, sum := 0, uint64(len(row))
	for _, text := range row {
		total += len(text)
		sum = sum*prime + maphash.String(seed, text)
	}
	if len(row) < 2 || total < minSecret || p.full(2*total) || p.clean.Has(sum) {
		return
	}
	p.sums = append(p.sums, sum)
	p.add(p.engine.Opens(strings.Join(row, "")), row...)
	slices.Reverse(row)
	p.add(p.engine.Opens(strings.Join(row, "")), row...)
}

func (p *puzzle) full(more int) bool {
	return p.size+more > maxTogether || p.known.size+more > maxTogether
}

// minSecret is shorter than every secret that a precise rule knows.
const minSecret = 16

// fresh adds each new crumb with each other one, in both orders, and with the
// last ones as three and four.
func (p *puzzle) fresh(fresh, before []crumb) {
	for i, a := range fresh {
		others := append(slices.Clone(before), fresh[:i]...)
		for _, b := range others {
			if p.full(0) {
				return
			}
			if a.twice(b) {
				continue
			}
			p.add(a.opens, a.text, b.text)
			p.add(b.opens, b.text, a.text)
		}
		if a.of != "" {
			continue
		}
		others = slices.DeleteFunc(others, func(c crumb) bool { return c.of != "" })
		for n := 2; n <= 3 && n <= len(others); n++ {
			row := append(slices.Clone(others[len(others)-n:]), a)
			p.add(row[0].opens, texts(row)...)
			slices.Reverse(row)
			p.add(row[0].opens, texts(row)...)
		}
	}
}

func texts(crumbs []crumb) (all []string) {
	for _, c := range crumbs {
		all = append(all, c.text)
	}
	return all
}

// words adds each crumb with each word, where they were not clean before.
func (p *puzzle) words(crumbs, words []string) {
	opens := p.opener()
	for _, b := range words {
		if isNumber(b) {
			continue
		}
		own := maphash.String(seed, b)
		for _, a := range crumbs {
			sum := own*prime + maphash.String(seed, a)
			if len(a)+len(b) < minSecret || p.clean.Has(sum) {
				continue
			}
			if p.full(0) {
				return
			}
			p.add(opens(a), a, b)
			p.add(opens(b), b, a)
			p.sums = append(p.sums, sum)
		}
	}
}

// opener remembers what it was asked.
func (p *puzzle) opener() func(string) bool {
	known := map[string]bool{}
	return func(text string) bool {
		opens, ok := known[text]
		if !ok {
			opens = p.engine.Opens(text)
			known[text] = opens
		}
		return opens
	}
}

// mosaic is a text of pieces, with the places where they meet.
type mosaic struct {
	pieces [][]byte
	size   int
	seams  []int // within a word
	starts []int // of pieces
}

var newline = []byte{'\n'}

// join adds pieces as one word.
func (m *mosaic) join(pieces ...string) {
	for i, p := range pieces {
		if i > 0 {
			m.seams = append(m.seams, m.size)
		}
		m.starts = append(m.starts, m.size)
		m.pieces, m.size = append(m.pieces, []byte(p)), m.size+len(p)
	}
	m.pieces, m.size = append(m.pieces, newline), m.size+1
}

// crossing are the findings that no piece holds alone, and that are hardly
// there by chance.
func (m *mosaic) crossing(found []secrets.Finding) []secrets.Finding {
	if len(found) == 0 {
		return nil
	}
	text := bytes.Join(m.pieces, nil)
	return slices.DeleteFunc(found, func(f secrets.Finding) bool { return !m.crosses(f.Start, f.End) || !m.begins(text, f) })
}

// crosses tells whether a finding has enough of two pieces.
func (m *mosaic) crosses(start, end int) bool {
	i := sort.SearchInts(m.seams, start+minPiece)
	return i < len(m.seams) && m.seams[i] <= end-minPiece
}

// border tells whether a piece begins or ends there.
func (m *mosaic) border(text []byte, at int) bool {
	_, begins := slices.BinarySearch(m.starts, at)
	return begins || at >= len(text) || text[at] == '\n' || at > 0 && text[at-1] == '\n'
}

// begins tells whether a finding stands as a token that was cut does: with a
// mark near its begin, as most have, or from the begin of a piece to the end of one; and with
// enough of the first piece, unless all are short.
func (m *mosaic) begins(text []byte, f secrets.Finding) bool {
	if !bytes.ContainsAny(text[f.Start:min(f.End, f.Start+marked)], "_-.") && !(m.border(text, f.Start) && m.border(text, f.End)) {
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
	return first >= minPiece || longest <= minPiece+1
}

// marked is how near to its begin a token has what is neither a letter nor a digit,
// if it has.
const marked = 8

// eachRun calls f for each run of characters of which tokens are made.
func eachRun(text string, f func(string)) {
	for i := 0; i < len(text); {
		start := i
		for i < len(text) && crumbClass[text[i]] != 0 {
			i++
		}
		if i > start {
			f(text[start:i])
		}
		i++
	}
}

// isRun tells whether a text is one run.
func isRun(text string) bool {
	for i := range len(text) {
		if crumbClass[text[i]] == 0 && text[i] != '=' {
			return false
		}
	}
	return text != ""
}

// crumbClass says of a byte what it is in a token: 1 lower case, 2 upper case, 3 a
// digit, 4 something else.
var crumbClass = func() (t [256]byte) {
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

// minHex is the shortest run of hexadecimal digits that is a crumb: text in
// hexadecimal is mostly digits.
const minHex = 16

// looksRandom tells whether a run changes between lower case, upper case and
// digits as words do not, or is hexadecimal. A UUID is none: with its hyphens it is no part of
// anything.
func looksRandom(run string) bool {
	if len(run) < minCrumb || len(run) > maxCrumb || isUUID(run) {
		return false
	}
	changes, last, inHex := 0, byte(0), len(run) >= minHex
	for i := range len(run) {
		c := crumbClass[run[i]]
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

// isNumber tells whether a value is one that each request has another of: a
// UUID, or a short number.
func isNumber(s string) bool {
	return isUUID(s) || len(s) >= 4 && len(s) < 12 && strings.Trim(s, "0123456789") == ""
}

// isUUID tells whether a text has the form of RFC 9562 §4.
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
