package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
)

const (
	// minKeywordPrefix is how many bytes of a keyword must be at the end of a piece for the rest to
	// be awaited.
	minKeywordPrefix = 3
	// minWrapped is the shortest piece that is tried as base64 or hexadecimal, in bytes.
	minWrapped = 8
)

// MayStart reports whether a secret that a rule knows may start in a piece, of which the rest
// follows: the piece contains a keyword or ends in the beginning of one, as it is or in base64 or
// hexadecimal. It is much faster than a scan.
func (s *Scanner) MayStart(piece string) bool {
	rules, err := s.rules()
	if err != nil {
		return true // the scan says why
	}
	if s.mayStartPlain(rules, piece) {
		return true
	}
	if len(piece) < minWrapped {
		return false
	}
	for shift := range 2 {
		rest := piece[shift:]
		if plain, err := hex.DecodeString(rest[:len(rest)&^1]); err == nil && s.mayStartPlain(rules, string(plain)) {
			return true
		}
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(piece, "="))
	for shift := range 4 {
		rest := standard[shift:]
		if len(rest)%4 == 1 {
			rest = rest[:len(rest)-1]
		}
		if plain, err := base64.RawStdEncoding.DecodeString(rest); err == nil && s.mayStartPlain(rules, string(plain)) {
			return true
		}
	}
	return false
}

func (s *Scanner) mayStartPlain(rules *ruleset, piece string) bool {
	if rules.words.in(piece) || slices.ContainsFunc(rules.always, func(i int) bool { return !rules.rules[i].pathOnly && !rules.rules[i].pathed }) {
		return true
	}
	openings := rules.keywordPrefixes()
	for n := minKeywordPrefix; n <= min(len(piece), maxKeywordPrefix); n++ {
		if _, ok := openings[strings.ToLower(piece[len(piece)-n:])]; ok {
			return true
		}
	}
	return false
}

// keywordPrefixCache holds the prefixes of keywords, by ruleset.
var keywordPrefixCache sync.Map

func (rs *ruleset) keywordPrefixes() map[string]struct{} {
	if all, ok := keywordPrefixCache.Load(rs); ok {
		return all.(map[string]struct{})
	}
	all, _ := keywordPrefixCache.LoadOrStore(rs, prefixesOf(rs.words.folded))
	return all.(map[string]struct{})
}

// maxKeywordPrefix bounds the length of these prefixes.
const maxKeywordPrefix = 12

// prefixesOf returns the prefixes of keywords.
func prefixesOf(keywords []string) map[string]struct{} {
	all := map[string]struct{}{}
	for _, k := range keywords {
		k = strings.ToLower(k)
		for n := minKeywordPrefix; n < min(len(k), maxKeywordPrefix+1); n++ {
			all[k[:n]] = struct{}{}
		}
	}
	return all
}

// Known returns the lines of data that hold known values: as they are, or in a line that is base64
// or hexadecimal from its start. It looks for nothing else.
func (s *Scanner) Known(data []byte) (found []Finding) {
	if !s.HasKnown() {
		return nil
	}
	start := 0
	for line := range bytes.Lines(data) {
		for _, text := range append(plainForms(line), line) {
			for _, at := range s.known.findAll(string(text)) {
				end := start + len(line)
				if &text[0] == &line[0] { // as it is
					found = append(found, Finding{Rule: at.rule, Start: start + at.start, End: start + at.end})
				} else {
					found = append(found, Finding{Rule: at.rule, Start: start, End: end})
				}
			}
		}
		start += len(line)
	}
	return found
}

// plainForms returns what a line may decode to.
func plainForms(line []byte) (all [][]byte) {
	text := string(bytes.TrimRight(line, "=\n"))
	if plain, err := hex.DecodeString(text[:len(text)&^1]); err == nil && len(plain) >= MinLength {
		return [][]byte{plain}
	}
	if len(text)%4 == 1 {
		text = text[:len(text)-1]
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if plain, err := alphabet.DecodeString(text); err == nil && len(plain) >= MinLength {
			return [][]byte{plain}
		}
	}
	return nil
}

// IsKnown reports whether a finding's rule is the name of a known value.
func (s *Scanner) IsKnown(rule string) bool {
	_, ok := s.opts.Known[rule]
	return ok
}

// HasKnown reports whether there are known values.
func (s *Scanner) HasKnown() bool { return len(s.known.groups) > 0 }
