// Package orders looks at text that comes from outside for what is meant for
// an agent and not for a person: phrases that give it orders, marks of a
// system prompt or a tool call, and characters that nobody sees. It is pure,
// holds a kilobyte, and looks once at each byte.
package orders

import (
	"bytes"
	"regexp"
	"slices"
	"sync"
	"unicode/utf8"
)

// Rules that a finding can have.
const (
	Override = "instructions overridden" // "ignore all previous instructions"
	Marker   = "marks of a system prompt"
	ToolCall = "marks of a tool call"
	Conceal  = "kept from the user" // "do not tell the user"
	Exfil    = "secrets asked for"  // "send the API keys to …"
	Address  = "addressed to an agent"
	Unseen   = "addressed to an agent, and not shown" // in a comment or an element that is not displayed
	Tags     = "tag characters"
	Width    = "characters without width"
	Variants = "a run of variation selectors"
	Bidi     = "text in reversed order"
)

const (
	// reach is how far around an anchor the words of a phrase may stand, in
	// bytes of normal text.
	reach = 160
	// kept is how much normal text is kept.
	kept = 1 << 10
	// together is how far apart anchors may stand whose phrases are looked for at
	// once: a text full of anchors costs no more than one that is searched whole.
	together = 512
	// runs of characters that nobody sees, from which on they are no accident.
	// A flag has five tags and their end, behind a black flag.
	minTags, minFlag, minWidth, minVariants = 2, 7, 6, 4
)

// anchor is a rare word that a phrase has. Without a pattern it is the phrase.
type anchor struct {
	text, rule string
	pattern    *regexp.Regexp
}

// anchors stand in normal form: lower case, one space, no quotation marks, no
// asterisks, underscores and backticks.
var anchors = sync.OnceValue(func() []anchor {
	override := regexp.MustCompile(`\b(ignore|ignoring|disregard|disregarding|forget|override|overriding|bypass|discard|abandon)( \S+){0,4} (previous|prior|above|earlier|preceding|foregoing|your|system|original|initial|existing)( \S+){0,2} (instructions?|prompts?|directives|guidelines|orders|programming|constraints|rules)\b`)
	exfil := regexp.MustCompile(`\b(send|post|upload|exfiltrate|forward|leak|transmit|submit|append|include|e-?mail)\b.{0,80}\b(api ?keys?|credentials|passwords?|secrets|access tokens?|environment variables|private keys?|ssh keys?)\b.{0,80}\b(to|at|in|into|as)\b.{0,30}(https?://|this (url|address|endpoint|server|page)|the (url|query|following)|[a-z0-9.-]+@[a-z])`)
	conceal := regexp.MustCompile(`\b(do not|dont|never|without) (tell|telling|inform|informing|mention|mentioning|reveal|revealing|alert|alerting|notify|notifying|show|showing|ask|asking|disclose|disclosing)\b.{0,40}\b(the |any |your |to )?(user|human|operator|developer|person|owner)\b`)
	address := regexp.MustCompile(`\b(attention|important|note|notice|message|warning|instructions?|hello|dear|if you are)\b.{0,20}\b(ai|llm|language model|coding|autonomous|automated) ?(agents?|assistants?|models?|bots?|crawlers?)\b`)
	unseen := regexp.MustCompile(`(<!--|display: ?none|visibility: ?hidden|font-size: ?0|opacity: ?0[;" >])[^\x00]{0,120}\b(ai|llm|language model|coding|autonomous) ?(agents?|assistants?|models?)\b`)
	var all []anchor
	add := func(rule string, pattern *regexp.Regexp, texts ...string) {
		for _, text := range texts {
			all = append(all, anchor{text, rule, pattern})
		}
	}
	add(Override, override, "instructions", "instruction ", "prompt", "directives", "guidelines", "your rules", "your programming", "prior rules", "previous rules", "constraints", "orders")
	add(Exfil, exfil, "api key", "apikey", "credentials", "password", "secrets", "access token", "environment variable", "private key", "ssh key")
	add(Conceal, conceal, "do not tell", "dont tell", "never tell", "without telling", "do not inform", "dont inform", "never inform", "without informing", "do not mention", "dont mention", "never mention", "without mentioning",
		"do not reveal", "dont reveal", "never reveal", "do not alert", "dont alert", "do not notify", "dont notify", "without notifying", "do not disclose", "dont disclose", "without asking", "do not ask", "dont ask", "do not show", "dont show")
	for _, p := range []anchor{{rule: Address, pattern: address}, {rule: Unseen, pattern: unseen}} {
		add(p.rule, p.pattern, "ai agent", "ai assistant", "ai model", "ai bot", "ai crawler", "llm", "language model", "coding agent", "coding assistant", "autonomous agent", "automated agent")
	}
	add(Marker, nil, "<|imstart|>", "<|imend|>", "<|system|>", "<|startheaderid|>", "<|eotid|>", "<<sys>>", "[/inst]", "<system-reminder>", "</system-reminder>", "<systemprompt>", "</systemprompt>",
		"begin system prompt", "new system prompt:", "end of system prompt")
	add(ToolCall, nil, "<toolcall>", "</toolcall>", "<functioncalls>", "</functioncalls>", "<function=", "<invoke name=", "<tooluse>", "<|toolcallsbegin|>", "<|toolcallbegin|>", "[toolcalls]")
	return all
})

// Scanner looks at one text as it passes by.
type Scanner struct {
	text  []byte // normal text; the last kept bytes of it at least
	from  int    // how much of it stands before text
	state uint16 // of the machine
	due   []due
	found []string // rules, each once

	pending [utf8.UTFMax]byte // the beginning of a character
	have    int

	escape                  byte // what follows a backslash in JSON is being read
	code                    rune
	digits                  int
	high                    rune // the first half of a pair
	flag                    bool // a black flag stands before the tags
	tags, narrow, selectors int  // how many of a kind stand in a row
}

// due are anchors of one rule, whose phrase is looked for once the text behind
// the last is there.
type due struct {
	anchor      uint16 // the first
	first, last int
}

// Write looks at more of the text, and returns rules that were not found
// before.
func (s *Scanner) Write(p []byte) (found []string) {
	n := len(s.found)
	m := machine()
	for _, c := range p {
		if c < utf8.RuneSelf && s.have == 0 && s.escape == 0 && c != '\\' {
			s.tags, s.narrow, s.selectors, s.high = 0, 0, 0, 0
			if c = fold[c]; c != 0 {
				s.put(m, c)
			}
			continue
		}
		s.slow(m, c)
	}
	s.trim()
	return s.found[n:]
}

// End is the end of the text: phrases that waited for more are looked for now.
func (s *Scanner) End() (found []string) {
	n := len(s.found)
	for _, d := range s.due {
		s.check(d)
	}
	s.due = nil
	return s.found[n:]
}

// slow takes bytes that are a part of something.
func (s *Scanner) slow(m *automaton, c byte) {
	switch {
	case s.escape != 0:
		s.escaped(m, c)
	case c == '\\' && s.have == 0:
		s.escape = '\\'
	default:
		s.pending[s.have] = c
		s.have++
		if part := s.pending[:s.have]; utf8.FullRune(part) {
			r, size := utf8.DecodeRune(part)
			rest := [utf8.UTFMax]byte(s.pending)
			left := s.have - size
			s.have = 0
			s.character(m, r)
			for _, c := range rest[size : size+left] { // a bad sequence ends before it
				s.Write([]byte{c})
			}
		}
	}
}

// escaped reads what JSON writes behind a backslash.
func (s *Scanner) escaped(m *automaton, c byte) {
	if s.escape == '\\' {
		s.escape = 0
		switch c {
		case 'n', 'r', 't':
			s.character(m, ' ')
		case 'u':
			s.escape, s.code, s.digits = 'u', 0, 0
		case '\\':
			s.escape = '\\' // written twice
		default:
			s.slowOrPlain(m, c)
		}
		return
	}
	d := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
	if c >= '0' && c <= '9' {
		d = int(c - '0')
	}
	if d < 0 {
		s.escape = 0
		s.slowOrPlain(m, c)
		return
	}
	s.code, s.digits = s.code<<4|rune(d), s.digits+1
	if s.digits < 4 {
		return
	}
	s.escape = 0
	switch {
	case s.code >= 0xd800 && s.code < 0xdc00:
		s.high = s.code
	case s.code >= 0xdc00 && s.code < 0xe000 && s.high != 0:
		r := (s.high-0xd800)<<10 | (s.code - 0xdc00) + 0x10000
		s.high = 0
		s.character(m, r)
	default:
		s.character(m, s.code)
	}
}

func (s *Scanner) slowOrPlain(m *automaton, c byte) {
	if c < utf8.RuneSelf {
		s.character(m, rune(c))
		return
	}
	s.slow(m, c)
}

// character takes one, and counts those that nobody sees.
func (s *Scanner) character(m *automaton, r rune) {
	s.high = 0
	switch {
	case r >= 0xe0000 && r <= 0xe007f:
		s.tags++
		if s.tags == minTags && !s.flag || s.tags == minFlag {
			s.find(Tags)
		}
		return
	case r == 0x200b, r == 0x200c, r == 0x200d, r >= 0x2060 && r <= 0x2064, r == 0xfeff, r == 0x180e, r == 0x00ad, r == 0x034f:
		if s.narrow++; s.narrow == minWidth {
			s.find(Width)
		}
		return
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0100 && r <= 0xe01ef:
		if s.selectors++; s.selectors == minVariants {
			s.find(Variants)
		}
		return
	case r == 0x202d, r == 0x202e:
		s.find(Bidi)
		return
	}
	s.tags, s.narrow, s.selectors, s.flag = 0, 0, 0, r == 0x1f3f4
	switch {
	case r < utf8.RuneSelf:
		if c := fold[r]; c != 0 {
			s.put(m, c)
		}
	case r == 0xa0, r >= 0x2000 && r <= 0x200a, r == 0x202f, r == 0x3000:
		s.put(m, ' ')
	case r >= 0x2018 && r <= 0x201f: // quotation marks
	default:
		s.put(m, '?') // a letter of another alphabet
	}
}

// put takes a byte of normal text.
func (s *Scanner) put(m *automaton, c byte) {
	if c == ' ' && len(s.text) > 0 && s.text[len(s.text)-1] == ' ' {
		return
	}
	s.text = append(s.text, c)
	s.state = m.next[int(s.state)*classes+int(m.class[c])]
	for _, a := range m.ends[s.state] {
		if known := anchors()[a]; known.pattern == nil {
			s.find(known.rule)
		} else if !slices.Contains(s.found, known.rule) {
			s.await(a, s.from+len(s.text))
		}
	}
	if len(s.text) >= 4*kept {
		s.trim()
	}
	if len(s.due) > 0 {
		s.due = slices.DeleteFunc(s.due, func(d due) bool {
			over := s.from+len(s.text) >= d.last+reach
			if over {
				s.check(d)
			}
			return over
		})
	}
}

// await puts an anchor to others of its rule that stand near.
func (s *Scanner) await(anchor uint16, at int) {
	for i := range s.due {
		if d := &s.due[i]; anchors()[d.anchor].pattern == anchors()[anchor].pattern && at-d.first <= together {
			d.last = at
			return
		}
	}
	s.due = append(s.due, due{anchor, at, at})
}

// trim forgets text that no phrase reaches any more.
func (s *Scanner) trim() {
	if more := len(s.text) - kept; more > 0 {
		s.text = append(s.text[:0], s.text[more:]...)
		s.from += more
	}
}

// check looks for the phrase around anchors.
func (s *Scanner) check(d due) {
	a := anchors()[d.anchor]
	if slices.Contains(s.found, a.rule) {
		return
	}
	from, to := max(0, d.first-s.from-reach-len(a.text)), min(len(s.text), d.last-s.from+reach)
	if a.pattern.Match(s.text[from:to]) {
		s.find(a.rule)
	}
}

func (s *Scanner) find(rule string) {
	if !slices.Contains(s.found, rule) {
		s.found = append(s.found, rule)
	}
}

// fold is the normal form of an ASCII character; 0: it has none.
var fold = func() (t [utf8.RuneSelf]byte) {
	for i := range t {
		switch c := byte(i); {
		case c >= 'A' && c <= 'Z':
			t[i] = c + 'a' - 'A'
		case c <= ' ':
			t[i] = ' '
		case c == '"', c == '\'', c == '*', c == '_', c == '`', c == 0x7f:
		default:
			t[i] = c
		}
	}
	return t
}()
