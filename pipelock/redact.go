package pipelock

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strings"

	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// filler stands where something was overwritten: it is legal in a header, a
// path, a query, a JSON text and a base64 one.
const filler = 'x'

// maxOverwritten is the longest finding that is overwritten, in bytes. A
// longer one is an archive, of which nothing would be left.
const maxOverwritten = 32 << 10

// overwriting is the way to pass something on without what was found in it.
type overwriting struct {
	scanner *scanner
	ctx     context.Context
	surface string
	from    int                 // where what may be changed begins; before it stands what has gone, or what gives it a meaning
	named   bool                // what stands before from is only the name
	more    bool                // the text goes on behind its end
	own     func([]byte) []byte // what of a text is scanned: the text itself, with more behind it; nil: the text
}

// overwrite puts the filler in the place of each finding, so that the text is
// as long as before and the scan finds nothing any more. The verdict tells
// the rules, or why it cannot be done.
func (o overwriting) overwrite(text []byte) policy.Verdict {
	var rules []string
	for _, fill := range []func([]byte, int, int){fillValue, fillAll} {
		found, v := o.find(text)
		if !v.Allow {
			return v
		}
		for _, f := range found {
			if why := o.obstacle(f, text); why != "" {
				return policy.Denied("secret: "+f.Rule, "the "+o.surface+" holds "+secrets.Says(f.Rule)+", which cannot be overwritten: "+why)
			}
			fill(text, max(f.Start, o.from), restOf(text, f.End))
			if !slices.Contains(rules, f.Rule) {
				rules = append(rules, f.Rule)
			}
		}
	}
	found, v := o.find(text)
	switch {
	case !v.Allow:
		return v
	case len(found) > 0:
		return policy.Denied("secret: "+found[0].Rule, "the "+o.surface+" holds "+secrets.Says(found[0].Rule)+", and still does after it was overwritten")
	case len(rules) == 0:
		return policy.Allowed("scan")
	}
	names := strings.Join(rules, ", ")
	return policy.Verdict{Allow: true, Rule: "secret: " + rules[0], Why: "the " + o.surface + " held what looks like a secret (" + names + "), which was overwritten"}
}

func (o overwriting) find(text []byte) ([]secrets.Finding, policy.Verdict) {
	seen := text
	if o.own != nil {
		if seen = o.own(text); !bytes.HasPrefix(seen, text) {
			return nil, policy.Denied("scan", "the "+o.surface+" holds what looks like a secret beside a credential of egress, and cannot be overwritten there")
		}
	}
	ctx, cancel := context.WithTimeout(o.ctx, o.scanner.within)
	defer cancel()
	found, _, err := o.scanner.find(ctx, seen)
	if err != nil {
		return nil, policy.Denied("scan", "the "+o.surface+" could not be scanned: "+brief(err.Error()))
	}
	return found, policy.Allowed("scan")
}

// restOf is where a token ends that has been found up to end: a rule may know
// less of it than there is.
func restOf(text []byte, end int) int {
	rest := text[end:min(len(text), end+maxOverwritten)]
	n := bytes.IndexFunc(rest, func(c rune) bool { return c > 0x7f || crumbClass[c] == 0 || crumbClass[c] == 4 })
	if n < 0 {
		n = len(rest)
	}
	if n > maxCrumb || looksRandom(string(rest[:n])) {
		return end + n
	}
	return end
}

// obstacle says why a finding cannot be overwritten, or nothing.
func (o overwriting) obstacle(f secrets.Finding, text []byte) string {
	switch {
	case f.Start >= len(text) || f.End > len(text):
		return "it is in a frame of its own"
	case f.End <= o.from:
		return "it stands before"
	case f.Start < o.from && !o.named:
		return "its beginning has gone already"
	case strings.HasSuffix(f.Rule, "private-key"):
		return "what was left of it could still be a part of the key"
	case o.more && !bytes.ContainsFunc(text[f.End:], func(c rune) bool { return c > 0x7f || crumbClass[c] == 0 }):
		return "it may go on in what has not come yet"
	case f.End-f.Start > maxOverwritten || bytes.IndexByte(text[f.Start:f.End], 0) >= 0:
		return "it is encoded"
	}
	return ""
}

// fillValue overwrites text[start:end] but the name that gives it a meaning.
func fillValue(text []byte, start, end int) {
	if i := bytes.IndexAny(text[start:end], ":="); i > 0 && i < end-start-minPiece && isName(text[start:start+i]) {
		start += i + 1
	}
	fillAll(text, start, end)
}

// isName tells whether a text is a name and no value.
func isName(text []byte) bool {
	name := strings.Trim(string(text), `"' `)
	if name == "" || len(name) > 50 || looksRandom(name) {
		return false
	}
	return strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz_-.") == ""
}

// kept are the bytes that give a text its form.
const kept = "\"'\\:,;&={}[]()<> \t\r\n?#/"

// fillAll overwrites what is no punctuation in text[start:end]. An escape goes
// as a whole.
func fillAll(text []byte, start, end int) {
	for i := max(0, start-2); i < start; i++ {
		if text[i] == '%' { // the rest of it would be none
			start = i
		}
	}
	for i := start; i < end; i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < end && strings.IndexByte(`"\/bfnrt`, text[i+1]) >= 0:
			i++
		case c == '\\' && i+1 < end:
			text[i] = filler
		case c < ' ' || strings.IndexByte(kept, c) >= 0:
		default:
			text[i] = filler
		}
	}
}

// redactHead overwrites what is found in a head and reads it again.
func (s *scanner) redactHead(r *http.Request, to handling) policy.Verdict {
	for _, p := range s.places(r, to) {
		v := s.look(r.Context(), p.name, p.text)
		if !isFinding(v) {
			if !v.Allow {
				return v
			}
			continue
		}
		if p.put == nil {
			continue // it may be gone when its other spelling has been overwritten
		}
		o := overwriting{scanner: s, ctx: r.Context(), surface: p.name, from: p.from, named: true}
		if v = o.overwrite(p.text); !v.Allow {
			return v
		}
		if err := to.report(wordRedacted, v); err != nil {
			return unwritten()
		}
		p.put(p.text[p.from:])
	}
	v := s.head(r, to)
	if isFinding(v) {
		v.Why += "; it cannot be overwritten there"
	}
	return v
}
