// Package promptinjection detects prompt injection in foreign text: phrases that instruct an agent,
// markers of a system prompt or a tool call, and invisible characters. It does no I/O. A Scanner
// reads each byte once and keeps about a kilobyte of text; it belongs to one goroutine.
package promptinjection

import (
	"bytes"
	"regexp"
	"slices"
	"sync"
	"unicode/utf8"
)

// Rules of findings. They appear in the audit and in metrics.
const (
	Override      = "instructions overridden" // "ignore all previous instructions"
	Marker        = "marks of a system prompt"
	ToolCall      = "marks of a tool call"
	Conceal       = "kept from the user" // "do not tell the user"
	Exfil         = "secrets asked for"  // "send the API keys to …"
	Address       = "addressed to an agent"
	HiddenAddress = "addressed to an agent, and not shown" // in a comment or in an element that is not displayed
	TagChars      = "tag characters"
	ZeroWidth     = "characters without width"
	Variants      = "a run of variation selectors"
	Bidi          = "text in reversed order"
)

const (
	// maxDistance is how far from a keyword the other words of a phrase may be, in bytes of
	// normalised text.
	maxDistance = 160
	// historySize is how much normalised text is kept, in bytes.
	historySize = 1 << 10
	// mergeDistance is how far apart keywords of one rule may be to be matched with one search. It
	// bounds the cost of text that is full of keywords.
	mergeDistance = 512
	// Lengths of runs of invisible characters that do not occur by accident. The emoji of a regional
	// flag is a black flag, five tag characters and a cancel tag.
	minTags, minFlag, minZeroWidth, minVariants = 2, 7, 6, 4
)

// keyword is a word that a phrase of a rule contains; its occurrences are the places at which the
// pattern is tried. Without a pattern the keyword alone is a finding.
type keyword struct {
	text, rule string
	pattern    *regexp.Regexp
}

// keywords returns the keywords of all rules in normal form: lower case, single spaces, no quotation
// marks, asterisks, underscores or backticks.
var keywords = sync.OnceValue(func() []keyword {
	override := regexp.MustCompile(`\b(ignore|ignoring|disregard|disregarding|forget|override|overriding|bypass|discard|abandon)( \S+){0,4} (previous|prior|above|earlier|preceding|foregoing|your|system|original|initial|existing)( \S+){0,2} (instructions?|prompts?|directives|guidelines|orders|programming|constraints|rules)\b`)
	exfil := regexp.MustCompile(`\b(send|post|upload|exfiltrate|forward|leak|transmit|submit|append|include|e-?mail)\b.{0,80}\b(api ?keys?|credentials|passwords?|secrets|access tokens?|environment variables|private keys?|ssh keys?)\b.{0,80}\b(to|at|in|into|as)\b.{0,30}(https?://|this (url|address|endpoint|server|page)|the (url|query|following)|[a-z0-9.-]+@[a-z])`)
	conceal := regexp.MustCompile(`\b(do not|dont|never|without) (tell|telling|inform|informing|mention|mentioning|reveal|revealing|alert|alerting|notify|notifying|show|showing|ask|asking|disclose|disclosing)\b.{0,40}\b(the |any |your |to )?(user|human|operator|developer|person|owner)\b`)
	address := regexp.MustCompile(`\b(attention|important|note|notice|message|warning|instructions?|hello|dear|if you are)\b.{0,20}\b(ai|llm|language model|coding|autonomous|automated) ?(agents?|assistants?|models?|bots?|crawlers?)\b`)
	unseen := regexp.MustCompile(`(<!--|display: ?none|visibility: ?hidden|font-size: ?0|opacity: ?0[;" >])[^\x00]{0,120}\b(ai|llm|language model|coding|autonomous) ?(agents?|assistants?|models?)\b`)
	var all []keyword
	add := func(rule string, pattern *regexp.Regexp, texts ...string) {
		for _, text := range texts {
			all = append(all, keyword{text, rule, pattern})
		}
	}
	add(Override, override, "instructions", "instruction ", "prompt", "directives", "guidelines", "your rules", "your programming", "prior rules", "previous rules", "constraints", "orders")
	add(Exfil, exfil, "api key", "apikey", "credentials", "password", "secrets", "access token", "environment variable", "private key", "ssh key")
	add(Conceal, conceal, "do not tell", "dont tell", "never tell", "without telling", "do not inform", "dont inform", "never inform", "without informing", "do not mention", "dont mention", "never mention", "without mentioning",
		"do not reveal", "dont reveal", "never reveal", "do not alert", "dont alert", "do not notify", "dont notify", "without notifying", "do not disclose", "dont disclose", "without asking", "do not ask", "dont ask", "do not show", "dont show")
	for _, p := range []keyword{{rule: Address, pattern: address}, {rule: HiddenAddress, pattern: unseen}} {
		add(p.rule, p.pattern, "ai agent", "ai assistant", "ai model", "ai bot", "ai crawler", "llm", "language model", "coding agent", "coding assistant", "autonomous agent", "automated agent")
	}
	add(Marker, nil, "<|imstart|>", "<|imend|>", "<|system|>", "<|startheaderid|>", "<|eotid|>", "<<sys>>", "[/inst]", "<system-reminder>", "</system-reminder>", "<systemprompt>", "</systemprompt>",
		"begin system prompt", "new system prompt:", "end of system prompt")
	add(ToolCall, nil, "<toolcall>", "</toolcall>", "<functioncalls>", "</functioncalls>", "<function=", "<invoke name=", "<tooluse>", "<|toolcallsbegin|>", "<|toolcallbegin|>", "[toolcalls]")
	return all
})

// Scanner scans one text that is written to it in pieces. Its zero value is ready for use.
type Scanner struct {
	text       []byte // normalised text: at least its last historySize bytes
	dropped    int    // bytes of normalised text that were before text
	state      uint16 // of the matcher
	candidates []candidate
	found      []string // rules, each once

	pending    [utf8.UTFMax]byte // the first bytes of a multibyte character
	pendingLen int

	escape                      byte // '\\' after a backslash, 'u' in a \u escape, else 0
	code                        rune // of the \u escape so far
	digits                      int  // of code
	high                        rune // a high surrogate whose low one has not come yet
	afterFlag                   bool // the tag characters follow a black flag
	tags, zeroWidths, selectors int  // lengths of the current runs
}

// candidate is a range of text with one or more keywords of a rule. The pattern is tried once
// maxDistance bytes after the last keyword have come.
type candidate struct {
	keyword     uint16 // index of the first keyword
	first, last int    // offsets of the ends of the first and the last keyword
}

// Write scans the next piece of the text and returns the rules that were not found before.
func (s *Scanner) Write(p []byte) (found []string) {
	n := len(s.found)
	m := matcher()
	for _, c := range p {
		if c < utf8.RuneSelf && s.pendingLen == 0 && s.escape == 0 && c != '\\' {
			s.tags, s.zeroWidths, s.selectors, s.high = 0, 0, 0, 0
			if c = fold[c]; c != 0 {
				s.put(m, c)
			}
			continue
		}
		s.writeMultibyte(m, c)
	}
	s.trim()
	return s.found[n:]
}

// End marks the end of the text: it tries the patterns of the remaining candidates and returns the
// rules that were not found before.
func (s *Scanner) End() (found []string) {
	n := len(s.found)
	for _, d := range s.candidates {
		s.matchCandidate(d)
	}
	s.candidates = nil
	return s.found[n:]
}

// writeMultibyte takes a byte of a multibyte character or of an escape.
func (s *Scanner) writeMultibyte(m *automaton, c byte) {
	switch {
	case s.escape != 0:
		s.writeEscaped(m, c)
	case c == '\\' && s.pendingLen == 0:
		s.escape = '\\'
	default:
		s.pending[s.pendingLen] = c
		s.pendingLen++
		if part := s.pending[:s.pendingLen]; utf8.FullRune(part) {
			r, size := utf8.DecodeRune(part)
			rest := [utf8.UTFMax]byte(s.pending)
			left := s.pendingLen - size
			s.pendingLen = 0
			s.character(m, r)
			for _, c := range rest[size : size+left] { // bytes after an invalid sequence
				s.Write([]byte{c})
			}
		}
	}
}

// writeEscaped takes a byte of a JSON escape, after its backslash.
func (s *Scanner) writeEscaped(m *automaton, c byte) {
	if s.escape == '\\' {
		s.escape = 0
		switch c {
		case 'n', 'r', 't':
			s.character(m, ' ')
		case 'u':
			s.escape, s.code, s.digits = 'u', 0, 0
		case '\\':
			s.escape = '\\' // JSON within JSON
		default:
			s.writeUnescaped(m, c)
		}
		return
	}
	d := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
	if c >= '0' && c <= '9' {
		d = int(c - '0')
	}
	if d < 0 {
		s.escape = 0
		s.writeUnescaped(m, c)
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

// writeUnescaped takes a byte that turned out to be no part of an escape.
func (s *Scanner) writeUnescaped(m *automaton, c byte) {
	if c < utf8.RuneSelf {
		s.character(m, rune(c))
		return
	}
	s.writeMultibyte(m, c)
}

// character takes a decoded character. It counts invisible ones and normalises the others.
func (s *Scanner) character(m *automaton, r rune) {
	s.high = 0
	switch {
	case r >= 0xe0000 && r <= 0xe007f:
		s.tags++
		if s.tags == minTags && !s.afterFlag || s.tags == minFlag {
			s.report(TagChars)
		}
		return
	case r == 0x200b, r == 0x200c, r == 0x200d, r >= 0x2060 && r <= 0x2064, r == 0xfeff, r == 0x180e, r == 0x00ad, r == 0x034f:
		if s.zeroWidths++; s.zeroWidths == minZeroWidth {
			s.report(ZeroWidth)
		}
		return
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0100 && r <= 0xe01ef:
		if s.selectors++; s.selectors == minVariants {
			s.report(Variants)
		}
		return
	case r == 0x202d, r == 0x202e:
		s.report(Bidi)
		return
	}
	s.tags, s.zeroWidths, s.selectors, s.afterFlag = 0, 0, 0, r == 0x1f3f4
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

// put appends a byte of normalised text and feeds it to the matcher.
func (s *Scanner) put(m *automaton, c byte) {
	if c == ' ' && len(s.text) > 0 && s.text[len(s.text)-1] == ' ' {
		return
	}
	s.text = append(s.text, c)
	s.state = m.next[int(s.state)*classes+int(m.class[c])]
	for _, a := range m.ends[s.state] {
		if known := keywords()[a]; known.pattern == nil {
			s.report(known.rule)
		} else if !slices.Contains(s.found, known.rule) {
			s.addCandidate(a, s.dropped+len(s.text))
		}
	}
	if len(s.text) >= 4*historySize {
		s.trim()
	}
	if len(s.candidates) > 0 {
		s.candidates = slices.DeleteFunc(s.candidates, func(d candidate) bool {
			complete := s.dropped+len(s.text) >= d.last+maxDistance
			if complete {
				s.matchCandidate(d)
			}
			return complete
		})
	}
}

// addCandidate extends a candidate of the same rule that is near the keyword, or adds a new one.
func (s *Scanner) addCandidate(index uint16, at int) {
	for i := range s.candidates {
		if d := &s.candidates[i]; keywords()[d.keyword].pattern == keywords()[index].pattern && at-d.first <= mergeDistance {
			d.last = at
			return
		}
	}
	s.candidates = append(s.candidates, candidate{index, at, at})
}

// trim drops all but the last historySize bytes: no pattern is tried on text before them.
func (s *Scanner) trim() {
	if more := len(s.text) - historySize; more > 0 {
		s.text = append(s.text[:0], s.text[more:]...)
		s.dropped += more
	}
}

// matchCandidate tries the pattern around the keywords of d.
func (s *Scanner) matchCandidate(d candidate) {
	a := keywords()[d.keyword]
	if slices.Contains(s.found, a.rule) {
		return
	}
	from, to := max(0, d.first-s.dropped-maxDistance-len(a.text)), min(len(s.text), d.last-s.dropped+maxDistance)
	if a.pattern.Match(s.text[from:to]) {
		s.report(a.rule)
	}
}

// report adds a rule to the findings.
func (s *Scanner) report(rule string) {
	if !slices.Contains(s.found, rule) {
		s.found = append(s.found, rule)
	}
}

// fold maps an ASCII character to its normal form; 0: it is dropped.
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
