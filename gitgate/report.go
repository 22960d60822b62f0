package gitgate

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"unicode"

	"airlock/gitgate/objects"
)

// told is what becomes of one reference.
type told struct {
	why string // why it was refused; "" is ok
	// more is what upstream really did, where that is not what was asked: for each reference that it moved instead, the lines of
	// report-status-v2, as "refname refs/changes/1", "old-oid …", "new-oid …", "forced-update".
	more [][]string
}

// plain tells whether upstream did just what it was asked.
func (t told) plain() bool { return t.why == "" && len(t.more) == 0 }

// writeReport tells a client what became of its updates. Only a client of report-status-v2 is told more than ok or not.
func writeReport(w io.Writer, v2 bool, unpack string, updates []update, said map[string]told) error {
	var b strings.Builder
	writePktf(&b, "unpack %s\n", unpack)
	for _, u := range updates {
		t := said[u.ref]
		if t.why != "" {
			writePktf(&b, "ng %s %s\n", u.ref, t.why)
			continue
		}
		if !v2 || len(t.more) == 0 {
			t.more = [][]string{nil}
		}
		for _, options := range t.more {
			writePktf(&b, "ok %s\n", u.ref)
			for _, o := range options {
				writePktf(&b, "option %s\n", o)
			}
		}
	}
	writeFlush(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// maxReport bounds what an upstream may say of a push, in bytes.
const maxReport = 16 << 20

// upstreamReport is what upstream says of a push.
type upstreamReport struct {
	unpack string // "unpack ok", or what went wrong
	said   map[string]told

	last string // the reference that options belong to; "" is none
}

// readReport reads report-status or report-status-v2, up to its flush. What is said of references that nobody asked about
// counts for nothing.
func readReport(r *bufio.Reader, asked map[string]bool) (*upstreamReport, error) {
	p := &upstreamReport{said: map[string]told{}}
	for size := 0; ; {
		line, err := readLine(r)
		if err == errFlush {
			return p, nil
		}
		if err != nil {
			return nil, unexpectedEOF(err)
		}
		if size += len(line) + 4; size > maxReport {
			return nil, errors.New("upstream's report does not end")
		}
		p.add(line, asked)
	}
}

func (p *upstreamReport) add(line string, asked map[string]bool) {
	word, rest, _ := strings.Cut(line, " ")
	name, why, _ := strings.Cut(rest, " ")
	switch {
	case p.unpack == "":
		p.unpack = line
	case word == "option":
		p.option(rest)
	case word == "ok" && asked[name]:
		t, again := p.said[name]
		p.last = name
		if t.why != "" {
			p.last = "" // it was refused before: that stays
			return
		}
		if again {
			t.more = append(t.more, nil)
		}
		p.said[name] = t
	case word == "ng" && asked[name]:
		if why == "" {
			why = "refused"
		}
		p.said[name], p.last = told{why: why}, ""
	default:
		p.last = ""
	}
}

// maxMore bounds how many references upstream may have moved instead of one.
const maxMore = 100

// option takes a line that says more about the reference before it.
func (p *upstreamReport) option(text string) {
	t, ok := p.said[p.last]
	if !ok || p.last == "" || !validOption(text) || len(t.more) > maxMore {
		return
	}
	if len(t.more) == 0 {
		t.more = [][]string{nil}
	}
	last := len(t.more) - 1
	if len(t.more[last]) < 4 {
		t.more[last] = append(t.more[last], text)
	}
	p.said[p.last] = t
}

// validOption tells an option that a client may be handed (gitprotocol-pack, "Report Status").
func validOption(text string) bool {
	key, value, _ := strings.Cut(text, " ")
	switch key {
	case "refname":
		return validRef(value)
	case "old-oid", "new-oid":
		_, err := objects.ParseHash(value)
		return err == nil
	}
	return text == "forced-update"
}

const (
	// maxSpeech bounds what of upstream's words a client is told, in bytes.
	maxSpeech = 256 << 10
	// maxSentence bounds one line of it; whatever is longer is not told.
	maxSentence = 16 << 10
)

// speech passes on what upstream says to people, line by line: a credential that it echoes in pieces is met as a whole, and
// nothing of it steers a terminal.
type speech struct {
	hide func(string) string
	say  func(string)
	line []byte
	told int
	cut  bool // the line is too long
}

func (s *speech) add(text string) {
	for len(text) > 0 {
		end := strings.IndexAny(text, "\r\n")
		if end < 0 {
			s.keep(text)
			return
		}
		s.keep(text[:end+1])
		s.end()
		text = text[end+1:]
	}
}

func (s *speech) keep(text string) {
	if s.cut = s.cut || len(s.line)+len(text) > maxSentence; !s.cut {
		s.line = append(s.line, text...)
	}
}

// end passes on what is left.
func (s *speech) end() {
	line := string(s.line)
	if s.cut {
		line = "(a line that is too long)\n"
	}
	s.line, s.cut = s.line[:0], false
	if line == "" || s.told > maxSpeech {
		return
	}
	if s.told += len(line); s.told > maxSpeech {
		line = "(and more)\n"
	}
	s.say(s.hide(tame(line))) // in this order: what is taken out may stand in the middle of a credential
}

// tame takes out what steers a terminal.
func tame(text string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n', c == '\r', c == '\t':
			return c
		case unicode.IsControl(c), unseen(c):
			return -1
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
}
