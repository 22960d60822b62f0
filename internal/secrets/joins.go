package secrets

import (
	"slices"
	"strings"
)

const (
	// maxPiece is how much of the beginning and of the end of a long string is joined with its neighbours, in bytes.
	maxPiece = 256
	// maxNames bounds by how many keys values are put together.
	maxNames = 256
)

// rejoin puts together what stands in pieces: the strings of JSON and of source code, in order and by key, and the values of a query.
func rejoin(s sight) (views []view) {
	for _, pieces := range [][]piece{quoted(s.text), pairs(s.text)} {
		if len(pieces) < 2 || !slices.ContainsFunc(pieces, func(p piece) bool { return s.fresh(p.from, p.to) }) {
			continue
		}
		v := glue(s.text, pieces)
		v.loose, v.joined = true, true
		views = append(views, v)
	}
	return views
}

// piece is a string in a text, and the key under which it stands; that of a key is its own mark.
type piece struct {
	from, to int
	key      string
}

// asKey marks the pieces that are keys themselves.
const asKey = "\x00"

// quoted lists the strings in double quotes.
func quoted(text string) (all []piece) {
	key := ""
	for at := strings.IndexByte(text, '"') + 1; at > 0; {
		end := closing(text, at)
		if end < 0 {
			return all
		}
		p := piece{at, end, key}
		rest := text[end+1:]
		next := strings.IndexByte(rest, '"')
		if i := strings.IndexFunc(rest[:max(0, min(next, 64))], func(c rune) bool { return c > ' ' }); i >= 0 && rest[i] == ':' {
			key, p.key = text[at:end], asKey
		}
		all = append(all, p)
		if next < 0 {
			return all
		}
		at = end + 1 + next + 1
	}
	return all
}

// closing is where the quote is that ends the string that begins at.
func closing(text string, at int) int {
	for from := at; ; {
		i := strings.IndexByte(text[from:], '"')
		if i < 0 {
			return -1
		}
		end := from + i
		back := 0
		for end-back > at && text[end-back-1] == '\\' {
			back++
		}
		if back%2 == 0 {
			return end
		}
		from = end + 1
	}
}

// maxPair is how far from its beginning, or else from its end, the equals sign of a parameter is looked for, in bytes.
const maxPair = 1 << 12

// pairs lists the values of a query or a form, and of cookies.
func pairs(text string) (all []piece) {
	if strings.IndexByte(text, '=') < 0 {
		return nil
	}
	sep := byte('&')
	if strings.IndexByte(text, sep) < 0 {
		sep = ';'
	}
	at := 0
	for at < len(text) {
		end := len(text)
		if i := strings.IndexByte(text[at:], sep); i >= 0 {
			end = at + i
		}
		i := strings.IndexByte(text[at:min(end, at+maxPair)], '=')
		if i < 0 && end-at > maxPair { // other text before the first
			at = end - maxPair
			i = strings.IndexByte(text[at:end], '=')
		}
		if i >= 0 {
			all = append(all, piece{at + i + 1, end, strings.TrimSpace(text[at : at+i])})
		}
		at = end + 1
	}
	return all
}

// glue makes the view of pieces: values in order, keys in order, the values under each key.
func glue(text string, pieces []piece) view {
	w := weaver{source: text}
	by := map[string][]piece{}
	var names []string
	for _, keys := range []bool{false, true} {
		w.cut()
		for _, p := range pieces {
			if (p.key == asKey) == keys {
				w.ends(p)
			}
			if !keys && p.key != asKey && p.key != "" && (by[p.key] != nil || len(by) < maxNames) {
				if by[p.key] == nil {
					names = append(names, p.key)
				}
				by[p.key] = append(by[p.key], p)
			}
		}
	}
	for _, name := range names {
		if len(by[name]) < 2 || len(names) == 1 {
			continue
		}
		w.cut()
		for _, p := range by[name] {
			w.ends(p)
		}
	}
	return w.view()
}

// ends takes over a piece, of a long one only what may go on in its neighbours.
func (w *weaver) ends(p piece) {
	if p.to-p.from <= 2*maxPiece {
		w.copy(p.from, p.to)
		return
	}
	w.copy(p.from, p.from+maxPiece)
	w.cut()
	w.copy(p.to-maxPiece, p.to)
}

// minLine is the shortest line, and minTail the shortest last one, of a text that was wrapped.
const (
	minLine = 4
	maxLine = 256
)

// unfold joins the lines of something that was wrapped: of equal length, without a space in them. Other text may stand before the first one and
// behind the last.
func unfold(s sight) (views []view) {
	text := s.text
	for _, sep := range []string{"\n", `\n`} {
		var edits []edit
		var before stretch // what the line before ends with, if that may go on
		for from := 0; from <= len(text); {
			end := len(text)
			if i := strings.Index(text[from:], sep); i >= 0 {
				end = from + i
			}
			head, tail := lineEnds(text, from, end)
			n := before.end - before.start
			if whole := head == tail; n >= minLine && (n >= minRun || whole) && head.end > head.start && head.end-head.start <= n {
				edits = append(edits, edit{from: before.end, to: head.start})
				if head.end-head.start < n && whole { // the last one
					tail = stretch{}
				}
			}
			before = tail
			from = end + len(sep)
		}
		views = append(views, s.weave(edits, false)...)
	}
	return views
}

// lineEnds are the runs with which a line begins and ends, without what indents it. They are one where nothing else is in it.
func lineEnds(text string, from, end int) (head, tail stretch) {
	for end > from && (text[end-1] == '\r' || text[end-1] == ' ') {
		end--
	}
	if end > from+1 && text[end-2:end] == `\r` {
		end -= 2
	}
	for from < end && (text[from] == ' ' || text[from] == '\t' || text[from] == '>') {
		from++
	}
	head, tail = stretch{from, from}, stretch{end, end}
	for head.end < min(end, from+maxLine) && unquoted(text[head.end]) {
		head.end++
	}
	for tail.start > max(from, end-maxLine) && unquoted(text[tail.start-1]) {
		tail.start--
	}
	return head, tail
}

// unquoted tells whether a byte may be a part of something that was wrapped.
func unquoted(c byte) bool { return class[c]&isGraph != 0 && c != '"' && c != '\'' && c != '`' }
