package pipelock

import (
	"bytes"
	"context"
	"encoding/hex"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"

	"airlock/internal/policy"
	"airlock/internal/secrets"
	"airlock/internal/seenset"
)

// maskByte replaces each byte of a redacted value: it is legal in a header, a path, a query, a JSON
// text and a base64 one.
const maskByte = 'x'

// maxRedacted is the longest finding that is redacted, in bytes. A longer one is an archive, of
// which nothing would be left.
const maxRedacted = 32 << 10

// redactor overwrites the findings in a text in place.
type redactor struct {
	scanner *scanner
	ctx     context.Context
	surface string
	from    int                 // start of what may be changed; the rest was sent already or is context
	named   bool                // what is before from is only the name
	more    bool                // the text continues after its end
	toScan  func([]byte) []byte // returns the text to scan: the text itself and more after it; nil: the text
	llm     bool                // keys and archives are redacted, too
	held    int                 // bytes at the end of the text that are held back and scanned again
	// reported holds the keys (see keyOf) of earlier reports; nil: everything is reported.
	reported *seenset.Set[uint64]
	keyOf    func(rule string, value []byte) uint64

	newKeys []uint64 // keys of what was redacted and is to be reported
}

// hasNew reports whether something was redacted that has not been reported before.
func (o *redactor) hasNew() bool { return len(o.newKeys) > 0 }

func (o *redactor) key(rule string, value []byte) uint64 {
	if o.keyOf == nil {
		return 0
	}
	return o.keyOf(rule, value)
}

// markReported is called after the report.
func (o *redactor) markReported() {
	if o.reported != nil {
		o.reported.Add(o.newKeys...)
	}
}

// redact masks each finding, so that the text keeps its length and a scan finds nothing. The
// verdict names the rules, or says why it cannot be done.
func (o *redactor) redact(text []byte) policy.Verdict {
	var rules, done []string // those to report, and all
	for _, mask := range []func([]byte, int, int){maskValue, maskAll} {
		found, v := o.find(text)
		if !v.Allow {
			return v
		}
		for _, f := range found {
			if o.llm && strings.HasSuffix(f.Rule, "private-key") {
				f.End = privateKeyEnd(text, f.End)
			}
			if o.isHeldBack(f, text) {
				continue
			}
			if why := o.unredactable(f, text); why != "" {
				return policy.Denied("secret: "+f.Rule, "the "+o.surface+" holds "+secrets.Says(f.Rule)+", which cannot be overwritten: "+why)
			}
			end := tokenEnd(text, f.End)
			key := o.key(f.Rule, text[f.Start:end])
			if o.reported == nil || !o.reported.Has(key) {
				o.newKeys = append(o.newKeys, key)
				if !slices.Contains(rules, f.Rule) {
					rules = append(rules, f.Rule)
				}
			}
			done = append(done, f.Rule)
			if f.Parts == nil {
				mask(text, max(f.Start, o.from), end)
			}
			for _, p := range f.Parts { // what is between them stays
				maskAll(text, max(p.Start, o.from), p.End)
			}
		}
	}
	found, v := o.find(text)
	found = slices.DeleteFunc(found, func(f secrets.Finding) bool { return o.isHeldBack(f, text) })
	switch {
	case !v.Allow:
		return v
	case len(found) > 0:
		return policy.Denied("secret: "+found[0].Rule, "the "+o.surface+" holds "+secrets.Says(found[0].Rule)+", and still does after it was overwritten")
	case len(done) == 0:
		return policy.Allowed("scan")
	case len(rules) == 0:
		rules = done[:1] // all of it was reported
	}
	names := strings.Join(rules, ", ")
	return policy.Verdict{Allow: true, Rule: "secret: " + rules[0], Why: "the " + o.surface + " held what looks like a secret (" + names + "), which was overwritten"}
}

// isHeldBack reports whether a finding may continue in data that has not arrived, and lies in the
// bytes that are held back until then.
func (o *redactor) isHeldBack(f secrets.Finding, text []byte) bool {
	return o.held > 0 && o.more && f.Start >= len(text)-o.held && f.End <= len(text) && o.touchesEnd(f, text)
}

func (o *redactor) touchesEnd(f secrets.Finding, text []byte) bool {
	return len(text)-f.End < maxToken && !bytes.ContainsFunc(text[f.End:], func(c rune) bool { return c > 0x7f || charClass[c] == 0 })
}

// maxToken is the longest token, in bytes: what follows a finding for longer is not part of it.
const maxToken = 4 << 10

const (
	// keyLine is the least number of base64 characters in a line of a private key, keyGap the
	// most other characters before the next line.
	keyLine = 40
	keyGap  = 200
)

// privateKeyEnd returns the end of a private key that has been found up to end: its last line, or
// the last of the lines of base64 that follow.
func privateKeyEnd(text []byte, end int) int {
	most := min(len(text), end+maxRedacted)
	if i := bytes.Index(text[end:most], []byte("-----END")); i >= 0 {
		if j := bytes.Index(text[end+i+len("-----END"):most], []byte("-----")); j >= 0 && j < 64 {
			return end + i + len("-----END") + j + len("-----")
		}
	}
	run, gap, direct := 0, 0, true // characters of base64 in a row, characters since end, and whether all of them are of base64
	for at := end; at < most && gap < keyGap+keyLine; {
		c, n := escapedByte(text[at:most])
		at, gap = at+n, gap+1
		if !isBase64(rune(c)) && c != '=' {
			run, direct = 0, false
			continue
		}
		if run++; run >= keyLine || direct {
			end, gap = at, 0
		}
	}
	return end
}

// escapedByte returns the first character of a text and its length in bytes. One that is written as
// %4D, \x4d or \u004d is one character, also where the backslash is doubled.
func escapedByte(text []byte) (c byte, n int) {
	for _, prefix := range []string{"%", `\x`, `\u00`, `\\x`, `\\u00`} {
		if n := len(prefix) + 2; len(text) >= n && string(text[:len(prefix)]) == prefix {
			var b [1]byte
			if _, err := hex.Decode(b[:], text[len(prefix):n]); err == nil {
				return b[0], n
			}
		}
	}
	return text[0], 1
}

func (o *redactor) find(text []byte) ([]secrets.Finding, policy.Verdict) {
	seen := text
	if o.toScan != nil {
		if seen = o.toScan(text); !bytes.HasPrefix(seen, text) {
			return nil, policy.Denied("scan", "the "+o.surface+" holds what looks like a secret beside a credential of egress, and cannot be overwritten there")
		}
	}
	ctx, cancel := context.WithTimeout(o.ctx, o.scanner.within)
	defer cancel()
	found, _, err := o.scanner.find(ctx, seen)
	if err != nil {
		return nil, policy.Denied("scan", "the "+o.surface+" could not be scanned: "+oneLine(err.Error()))
	}
	return found, policy.Allowed("scan")
}

// tokenEnd returns the end of a token that has been found up to end: a rule may match less than the
// whole token.
func tokenEnd(text []byte, end int) int {
	rest := text[end:min(len(text), end+maxRedacted)]
	n := bytes.IndexFunc(rest, func(c rune) bool { return c > 0x7f || charClass[c] == 0 || charClass[c] == 4 })
	if n < 0 {
		n = len(rest)
	}
	if n > maxFragment || looksRandom(string(rest[:n])) {
		return end + n
	}
	return end
}

// unredactable says why a finding cannot be redacted; empty when it can.
func (o *redactor) unredactable(f secrets.Finding, text []byte) string {
	switch {
	case f.Start >= len(text) || f.End > len(text):
		return "it is in a frame of its own"
	case f.End <= o.from:
		return "it stands before"
	case f.Start < o.from && !o.named:
		return "its beginning has gone already"
	case strings.HasSuffix(f.Rule, "private-key") && !o.llm:
		return "what was left of it could still be a part of the key"
	case o.more && o.touchesEnd(f, text):
		return "it may go on in what has not come yet"
	case f.End-f.Start > maxRedacted && !o.llm || bytes.IndexByte(text[f.Start:f.End], 0) >= 0:
		return "it is encoded"
	}
	return ""
}

// maskValue masks text[start:end] except the name that gives it a meaning.
func maskValue(text []byte, start, end int) {
	if i := bytes.IndexAny(text[start:end], ":="); i > 0 && i < end-start-minInFragment && isName(text[start:start+i]) {
		start += i + 1
	}
	maskAll(text, start, end)
}

// isName reports whether a text is a name and not a value.
func isName(text []byte) bool {
	name := strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return 'n'
		}
		return c
	}, strings.Trim(string(text), `"' `))
	if name == "" || len(name) > 50 || looksRandom(name) {
		return false
	}
	return strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz_-.") == ""
}

// keptBytes are the bytes that give a text its form.
const keptBytes = "\"'\\:,;&={}[]()<> \t\r\n?#/"

// maskAll masks text[start:end] except punctuation. An escape is masked as a whole.
func maskAll(text []byte, start, end int) {
	for i := max(0, start-2); i < start; i++ {
		if text[i] == '%' { // the rest of it would be none
			start = i
		}
	}
	start = afterEscape(text, start)
	for i := start; i < end; i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < end && strings.IndexByte(`"\/bfnrt`, text[i+1]) >= 0:
			i++
		case c == '\\' && i+1 < end:
			text[i] = maskByte
		case c < ' ' || strings.IndexByte(keptBytes, c) >= 0:
		default:
			text[i] = maskByte
		}
	}
}

// afterEscape returns the end of the escape that contains start, as in JSON strings: \n, \u00e9. A
// match may begin inside one.
func afterEscape(text []byte, start int) int {
	for i := start - 1; i >= max(0, start-5); i-- {
		if text[i] != '\\' {
			continue
		}
		first := i
		for first > 0 && text[first-1] == '\\' {
			first--
		}
		if (i-first)%2 == 1 { // a backslash that is escaped itself
			return start
		}
		end := i + 2
		if i+1 < len(text) && (text[i+1] == 'u' || text[i+1] == 'x') {
			end = i + 6
			if text[i+1] == 'x' {
				end = i + 4
			}
		}
		return max(start, min(end, len(text)))
	}
	return start
}

// redactHead redacts the findings in a head and scans it again.
func (s *scanner) redactHead(r *http.Request, to scanContext) policy.Verdict {
	for _, p := range s.places(r, to) {
		v := s.scanText(r.Context(), p.name, p.text)
		if !isFinding(v) {
			if !v.Allow {
				return v
			}
			continue
		}
		if p.put == nil {
			continue // it may be gone when its other spelling has been overwritten
		}
		o := redactor{scanner: s, ctx: r.Context(), surface: p.name, from: p.from, named: true, llm: to.llm}
		s.trackReported(&o, to)
		if v = o.redact(p.text); !v.Allow {
			return v
		}
		if o.hasNew() && to.report(wordRedacted, v) != nil {
			return unwritten()
		}
		o.markReported()
		p.put(p.text[p.from:])
	}
	v := s.head(r, to)
	if isFinding(v) {
		v.Why += "; it cannot be overwritten there"
	}
	return v
}

// trackReported makes a redactor skip reports that were made before, on a route to a model: its
// client sends the same text again with every turn. Elsewhere each redaction is reported.
func (s *scanner) trackReported(o *redactor, to scanContext) {
	o.keyOf = func(rule string, value []byte) uint64 {
		var h maphash.Hash
		h.SetSeed(reportedSeed)
		_, _ = h.WriteString(to.host.String() + "\x00" + rule + "\x00")
		_, _ = h.Write(value)
		return h.Sum64()
	}
	if to.llm {
		o.reported = &s.reported
	}
}

var reportedSeed = maphash.MakeSeed()

// checksums are the fields that sign or sum up a body (RFC 9530, RFC 9421, RFC 1864, those of
// storage services and webhooks). A body that one of them covers cannot be changed on its way.
var checksums = []string{
	"Content-Digest", "Repr-Digest", "Digest", "Content-Md5", "Signature", "Signature-Input", "X-Signature", "X-Hub-Signature", "X-Hub-Signature-256",
	"X-Amz-Content-Sha256", "X-Goog-Hash", "X-Ms-Content-Crc64", "X-Ms-Content-Sha256",
}

// signed reports whether the head of a request signs or sums up its body.
func signed(h http.Header) bool {
	if slices.ContainsFunc(checksums, func(name string) bool { return h.Get(name) != "" }) {
		return true
	}
	for name, values := range h {
		if strings.HasPrefix(name, "X-Amz-Checksum-") || name == "Authorization" && slices.ContainsFunc(values, signs) {
			return true
		}
	}
	return false
}

// signs reports whether a credential signs the request.
func signs(authorization string) bool {
	return slices.ContainsFunc([]string{"AWS4-", "Signature ", "HMAC", "hmac", "GOOG4-"}, func(scheme string) bool { return strings.HasPrefix(authorization, scheme) })
}
