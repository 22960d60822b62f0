package pipelock

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"mime"
	"net/http"
	"net/textproto"
	"regexp"
	"strings"
	"unicode/utf8"

	"airlock/internal/inflate"
	"airlock/internal/policy"
)

// parts reads a multipart body (RFC 2046 §5.1) as what it is made of. What is
// written plainly is seen in the window that it is in; here is what a part
// says in an encoding of its own.
type parts struct {
	delimiter []byte
	open      http.Header // of the part in which the last window ended; nil: none
	messages  bool        // it is gRPC instead
	skip      int64       // how far after the last window the next message begins
}

// newParts is zero for what is neither multipart nor gRPC.
func newParts(contentType string) parts {
	media, params, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil && strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), "multipart/"):
		return parts{delimiter: []byte("--")} // another parser may accept it
	case err != nil:
	case strings.HasPrefix(media, "application/grpc"):
		return parts{messages: true}
	case strings.HasPrefix(media, "multipart/") && params["boundary"] != "":
		return parts{delimiter: []byte("--" + params["boundary"])}
	}
	return parts{}
}

// scan reads the parts of a window, of which what is new begins at from, and
// returns what is to be asked about the next one. A part that does not end in
// it goes on there, but where it is open: then it must be seen with it.
func (p parts) scan(ctx context.Context, s *scanner, text []byte, from int, ended bool) (after parts, v policy.Verdict, open bool) {
	switch {
	case p.messages:
		return p.compressedMessages(ctx, s, text[from:])
	case p.delimiter == nil:
		return p, policy.Allowed("scan"), false
	}
	rest := text
	for first := true; ; first = false {
		part, after, whole := bytes.Cut(rest, p.delimiter)
		if first {
			v, open = p.decoded(ctx, s, p.open, part, false, whole)
		} else {
			v, open = p.part(ctx, s, part, whole || ended)
		}
		if !v.Allow || !whole {
			return p, v, open
		}
		rest, p.open = after, nil
	}
}

// messageHead is the prefix of each gRPC message: whether it is
// compressed, and its length.
const messageHead = 5

// compressedMessages reads those of gRPC's messages that are compressed. The
// others are seen in the window that they are in.
func (p parts) compressedMessages(ctx context.Context, s *scanner, text []byte) (after parts, v policy.Verdict, open bool) {
	v = policy.Allowed("scan")
	for p.skip < int64(len(text)) {
		text = text[p.skip:]
		p.skip = 0
		if len(text) < messageHead {
			return p, v, true
		}
		n := int64(binary.BigEndian.Uint32(text[1:]))
		if text[0] == 1 {
			whole := int64(len(text)) >= messageHead+n
			if v = s.scanText(ctx, "message", text[messageHead:min(int64(len(text)), messageHead+n)]); !v.Allow || !whole {
				return p, v, !whole
			}
		}
		p.skip = messageHead + n
	}
	p.skip -= int64(len(text))
	return p, v, false
}

// part reads one part from its header on.
func (p *parts) part(ctx context.Context, s *scanner, text []byte, whole bool) (v policy.Verdict, open bool) {
	head, body, found := bytes.Cut(text, []byte("\r\n\r\n"))
	if !found {
		if head, body, found = bytes.Cut(text, []byte("\n\n")); !found {
			return policy.Allowed("scan"), false // the end, or a header that is not whole
		}
	}
	h := partHeader(string(head))
	if !whole {
		p.open = h
	}
	if v := p.names(ctx, s, h); !v.Allow {
		return v, false
	}
	if isBinary(body) { // by itself: what is compressed may have no mark but where it begins
		if v, open := s.scanTextPart(ctx, "part of the multipart body", body); !v.Allow || open && !whole {
			return v, open
		}
	}
	return p.decoded(ctx, s, h, body, true, whole)
}

// partHeader reads the header of a part line by line, whatever is between
// those that can be read.
func partHeader(head string) http.Header {
	h := http.Header{}
	head = folded.ReplaceAllString(head, " ")
	for line := range strings.Lines(head) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			h.Add(textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)), strings.TrimSpace(value))
		}
	}
	return h
}

var (
	folded  = regexp.MustCompile(`\r?\n[ \t]+`)
	comment = regexp.MustCompile(`\([^()]*\)`)
)

// transferCoding is the first word of a Content-Transfer-Encoding, without
// what some write around it.
func transferCoding(h http.Header) string {
	words := strings.FieldsFunc(comment.ReplaceAllString(strings.ToLower(h.Get("Content-Transfer-Encoding")), " "), func(c rune) bool { return strings.ContainsRune(" \t;,\"'", c) })
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// names reads the name of a field and of a file where they are encoded.
func (p *parts) names(ctx context.Context, s *scanner, h http.Header) policy.Verdict {
	_, params, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	if err != nil {
		return policy.Allowed("scan") // it was scanned as it is
	}
	var text []byte
	for _, value := range params {
		text = append(append(text, value...), '\n')
		if plain, err := new(mime.WordDecoder).DecodeHeader(value); err == nil && plain != value {
			text = append(append(text, plain...), '\n')
		}
	}
	return s.scanText(ctx, "name of a multipart field", text)
}

// isBinary reports whether data begins with bytes that no text has.
func isBinary(data []byte) bool {
	begin := data[:min(len(data), 64)]
	return bytes.ContainsFunc(begin[:len(begin)&^3], func(c rune) bool { return c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == utf8.RuneError })
}

// decoded reads what a part says in its own encoding.
func (p *parts) decoded(ctx context.Context, s *scanner, h http.Header, body []byte, began, whole bool) (v policy.Verdict, open bool) {
	if h == nil {
		return policy.Allowed("scan"), false
	}
	transfer := transferCoding(h)
	codings := inflate.Codings(h)
	if len(codings) == 0 && transfer != "quoted-printable" && transfer != "base64" {
		return policy.Allowed("scan"), false
	}
	if len(codings) > 0 && !whole {
		return policy.Allowed("scan"), true
	}
	plain := body
	switch transfer {
	case "quoted-printable":
		plain = unquoted(body)
	case "base64":
		plain = unbase64(body)
		for range 3 { // a part that began before may go on anywhere in a group
			if body = afterCharacter(body); began || len(body) == 0 {
				break
			}
			plain = append(append(plain, '\n'), unbase64(body)...)
		}
	}
	if len(codings) > 0 {
		inside, done, err := s.inflate(ctx, codings, bytes.TrimSuffix(bytes.TrimSuffix(plain, []byte("\n")), []byte("\r")))
		if err != nil {
			return policy.Denied("scan", "a part of the multipart body could not be inflated: "+oneLine(err.Error())), false
		}
		defer done()
		plain = inside
	}
	v, open = s.scanTextPart(ctx, "part of the multipart body", plain)
	return v, open && !whole
}

// unquoted undoes quoted-printable (RFC 2045 §6.7). What is none is left as it
// is: who receives it may be as patient.
func unquoted(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		var c [1]byte
		switch {
		case bytes.HasPrefix(rest, []byte("=\r\n")):
			i += 2
		case bytes.HasPrefix(rest, []byte("=\n")):
			i++
		case rest[0] == '=' && len(rest) > 2 && decodesHex(c[:], rest[1:3]):
			out = append(out, c[0])
			i += 2
		default:
			out = append(out, rest[0])
		}
	}
	return out
}

func decodesHex(to, digits []byte) bool {
	_, err := hex.Decode(to, digits)
	return err == nil
}

// afterCharacter is what follows the first character of base64.
func afterCharacter(text []byte) []byte {
	i := bytes.IndexFunc(text, isBase64)
	if i < 0 {
		return nil
	}
	return text[i+1:]
}

func isBase64(r rune) bool {
	return r < 0x80 && r != '=' && (charClass[r] != 0 && charClass[r] < 4 || r == '+' || r == '/')
}

// unbase64 undoes base64, whatever is between its characters.
func unbase64(text []byte) []byte {
	run := bytes.Map(func(r rune) rune {
		if isBase64(r) {
			return r
		}
		return -1
	}, text)
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(run)))
	n, _ := base64.RawStdEncoding.Decode(out, run) // up to where it is some
	return out[:n]
}
