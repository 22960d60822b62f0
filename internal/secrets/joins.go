package secrets

import (
	"slices"
	"strings"
)

const (
	// maxPiece is how much of the beginning and of the end of a long string is joined with its
	// neighbours, in bytes.
	maxPiece = 256
	// maxNames bounds by how many keys values are put together.
	maxNames = 256
)

// rejoin joins what is in pieces: the strings of JSON and of source code, in order and by key, and
// the values of a query. What was put together is not taken apart again.
func rejoin(s input) (views []view) {
	if s.view != nil && s.view.preciseOnly {
		return nil
	}
	for _, pieces := range [][]piece{s.quoted(double), s.quoted(escaped), s.quoted(single), s.quoted(backtick), s.pairs()} {
		if len(pieces) < 2 || !slices.ContainsFunc(pieces, func(p piece) bool { return s.isNew(p.from, p.to) }) {
			continue
		}
		if v := glue(s.text, pieces); len(v.parts) > 0 {
			v.preciseOnly, v.joined = true, true
			views = append(views, v)
		}
	}
	return views
}

// piece is a string in a text, and its key; that of a key is asKey.
type piece struct {
	from, to int
	key      string
}

// asKey marks the pieces that are keys themselves.
const asKey = "\x00"

// quote is a kind of quotes.
type quote int

const (
	double   quote = iota // "
	escaped               // \", those of JSON inside of JSON
	single                // '
	backtick              // `
	quotes
)

// marksOfQuotes are the bytes that end them.
var marksOfQuotes = [quotes]byte{'"', '"', '\'', '`'}

// size is how many bytes a quote has.
func (q quote) size() int {
	if q == escaped {
		return 2
	}
	return 1
}

// quoted lists the strings between two quotes of a kind: those of JSON, of JSON inside of JSON, and
// of most languages.
func (s input) quoted(q quote) []piece {
	if !s.index.quotedKnown[q] {
		s.index.quotedKnown[q] = true
		s.index.quotedLists[q] = s.strings(s.index.quotedLists[q][:0], q)
	}
	return s.index.quotedLists[q]
}

func (s input) strings(all []piece, q quote) []piece {
	text, key := s.text, ""
	for at := s.quote(q, 0); at < len(text); {
		at += q.size()
		end := s.closing(q, at)
		if end == len(text) {
			return all
		}
		p := piece{at, end, key}
		next := end + q.size()
		for next < len(text) && text[next] <= ' ' {
			next++
		}
		if next < len(text) && text[next] == ':' {
			key, p.key = text[at:end], asKey
		}
		all = append(all, p)
		at = s.quote(q, end+q.size())
	}
	return all
}

// quote is where the next quote of a kind begins, or the length of the text.
func (s input) quote(q quote, at int) int {
	for at += q.size() - 1; at < len(s.text); at++ {
		at = s.index.next(ofQuote, at)
		if at < len(s.text) && s.text[at] == marksOfQuotes[q] && (q != escaped || s.text[at-1] == '\\') {
			return at - q.size() + 1
		}
	}
	return len(s.text)
}

// closing is where the quote is that ends the string that begins at, or the length of the text.
func (s input) closing(q quote, at int) int {
	for end := s.quote(q, at); ; end = s.quote(q, end+1) {
		if end == len(s.text) || q == escaped {
			return end
		}
		back := 0
		for end-back > at && s.text[end-back-1] == '\\' {
			back++
		}
		if back%2 == 0 {
			return end
		}
	}
}

// maxName is the longest name of a parameter, in bytes.
const maxName = 64

// pairs lists the values of a query or a form, or of cookies. Other text may be before the first
// and after the last.
func (s input) pairs() (all []piece) {
	text, sep := s.text, byte('&')
	if strings.IndexByte(text, sep) < 0 {
		sep = ';'
	}
	for at := 0; at < len(text); {
		end := len(text)
		if i := strings.IndexByte(text[at:], sep); i >= 0 {
			end = at + i
		}
		if from, name := parameter(text[at:end], at == 0); name != "" {
			all = append(all, piece{at + from, end, name})
		}
		at = end + 1
	}
	return all
}

// parameter is where the value of a parameter begins, and its name.
func parameter(text string, first bool) (from int, name string) {
	i := strings.IndexByte(text[:min(len(text), maxName)], '=')
	if first {
		i = strings.LastIndexByte(text, '=')
		text = text[:max(0, i)]
		from = max(0, i-maxName)
	}
	if i < 0 {
		return 0, ""
	}
	name = text[from:i]
	if at := strings.LastIndexAny(name, " \t\r\n\"'(?"); at >= 0 {
		if !first && strings.TrimLeft(name[:at+1], " ") != "" {
			return 0, ""
		}
		name = name[at+1:]
	}
	return i + 1, name
}

// glue makes the view of pieces: values in order, keys in order, the values under each key.
func glue(text string, pieces []piece) view {
	w := viewBuilder{source: text}
	var values, keys []piece
	by := map[string][]piece{}
	var names []string
	for _, p := range pieces {
		if p.key == asKey {
			keys = append(keys, p)
			continue
		}
		values = append(values, p)
		if p.key == "" || by[p.key] == nil && len(names) == maxNames {
			continue
		}
		if by[p.key] == nil {
			names = append(names, p.key)
		}
		by[p.key] = append(by[p.key], p)
	}
	w.chains(values)
	w.chains(keys)
	for _, name := range names {
		if len(by[name]) < len(values) {
			w.chains(by[name])
		}
	}
	return w.view()
}

// chains joins pieces as far as a token may go on from one to the next: one that is in the middle
// has nothing else in it.
func (w *viewBuilder) chains(pieces []piece) {
	var chain []part // of the source; their ends are not known yet
	length := 0
	flush := func() {
		if len(chain) > 1 && length >= minRun {
			w.separate()
			for _, p := range chain {
				w.copy(p.from, p.to)
			}
		}
		chain, length = chain[:0], 0
	}
	for _, p := range pieces {
		text := w.source[p.from:p.to]
		head := 0
		for head < min(len(text), maxPiece) && inToken[text[head]] {
			head++
		}
		if head == 0 {
			flush()
		} else if chain = append(chain, part{from: p.from, to: p.from + head}); head < len(text) {
			length += head
			flush()
		} else {
			length += head
			continue // it goes on
		}
		tail := len(text)
		for tail > max(head, len(text)-maxPiece) && inToken[text[tail-1]] {
			tail--
		}
		if tail < len(text) {
			chain = append(chain, part{from: p.from + tail, to: p.to})
			length += len(text) - tail
		}
	}
	flush()
}

// inToken are the bytes of which tokens, and encodings of them, are made.
var inToken = func() (t [256]bool) {
	for c := range 256 {
		t[c] = class[c]&isB64 != 0 || c == '=' || c == '.' || c == '~' || c == '%' || c == '\\' || c >= 0x80
	}
	return t
}()

// minLine is the shortest line, and minTail the shortest last one, of a text that was wrapped.
const (
	minLine = 4
	maxLine = 256
)

// unfold joins the lines of something that was wrapped: of equal length, without a space in them.
// Other text may be before the first one and after the last, if the lines are base64 or the like.
func unfold(s input) (views []view) {
	for _, sep := range []string{"\n", `\n`} {
		views = append(views, s.applyEdits(s.unfolded(sep), false)...)
	}
	return views
}

func (s input) unfolded(sep string) (edits []edit) {
	text := s.text
	if s.lineEnd(sep, 0) == len(text) {
		return nil
	}
	var before stretch // what the line before ends with, if that may go on
	whole := false     // that is all of the line
	for from := 0; from <= len(text); {
		end := s.lineEnd(sep, from)
		line := trimmed(text, from, end)
		if before.size() == 0 && !s.open(line) {
			whole, from = false, end+len(sep)
			continue
		}
		head := line
		if !s.solid(line) {
			head.end = line.start
			for n := before.size(); n > 0 && head.end < line.end && head.size() <= n && class[text[head.end]]&isB64 != 0; {
				head.end++
			}
		}
		if head != line && head.end < line.end && text[head.end] == ':' { // a name
			head.end = head.start
		}
		n := before.size()
		joined := n >= minLine && head.size() > 0 && head.size() <= n && s.continues(before, head, head == line) &&
			(n >= minRun || head == line && (whole || class[text[head.start]]&isB64 != 0))
		if joined {
			edits = append(edits, edit{from: before.end, to: head.start})
		}
		switch {
		case head == line && joined && line.size() < n: // the last one
			before = stretch{}
		case head == line && line.size() > 0 && s.wrapped(line):
			before = line
		default:
			before = s.tailRun(line)
		}
		whole = before == line
		from = end + len(sep)
	}
	return edits
}

// open reports whether something may continue after a line.
func (s input) open(line stretch) bool {
	return line.size() >= minLine && (class[s.text[line.end-1]]&class[s.text[line.end-minLine]]&isB64 != 0 || s.solid(line))
}

// continues reports whether what a line begins with may go on with what the one before ends with,
// by what the two are made of.
func (s input) continues(before, head stretch, all bool) bool {
	if s.index.end(ofB64, before.start) >= before.end {
		return class[s.text[head.start]]&isB64 != 0 || s.text[head.start] == '='
	}
	return all && (head.size() == before.size() || head.size() >= minLine && !s.index.looksLikeWords(head, 25))
}

// lineEnd is where the next line ends, or the length of the text.
func (s input) lineEnd(sep string, at int) int {
	if at >= len(s.text) {
		return len(s.text)
	}
	if len(sep) == 1 {
		return s.index.next(ofLine, at)
	}
	for ; at < len(s.text); at++ {
		if at = s.index.next(ofSlash, at); at+1 < len(s.text) && s.text[at+1] == sep[1] {
			return at
		}
	}
	return len(s.text)
}

// wrapped reports whether a line may be one of several that were one: encoded, and not code.
func (s input) wrapped(line stretch) bool {
	return (line.size() >= minHex || s.index.end(ofB64, line.start) >= line.end) && !s.index.looksLikeWords(line, 25)
}

// trimmed is a line without what indents it and ends it.
func trimmed(text string, from, end int) stretch {
	for end > from && (text[end-1] == '\r' || text[end-1] == ' ') {
		end--
	}
	if end > from+1 && text[end-2:end] == `\r` {
		end -= 2
	}
	for from < end && (text[from] == ' ' || text[from] == '\t' || text[from] == '>') {
		from++
	}
	return stretch{from, end}
}

// solid reports whether a line is one run.
func (s input) solid(line stretch) bool {
	return line.size() > 0 && line.size() <= maxLine && s.index.end(ofGraphic, line.start) >= line.end
}

// tailRun is the run of base64 with which a line ends, if it is no word.
func (s input) tailRun(line stretch) stretch {
	at := line.end
	for at > max(line.start, line.end-maxLine) && class[s.text[at-1]]&isB64 != 0 {
		at--
	}
	if run := (stretch{at, line.end}); run.size() >= minLine && !s.index.looksLikeWords(run, 25) {
		return run
	}
	return stretch{}
}
