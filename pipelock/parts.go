package pipelock

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"mime"
	"net/http"
	"net/textproto"
	"strings"

	"airlock/internal/inflate"
	"airlock/internal/policy"
)

// parts reads a multipart body (RFC 2046 §5.1) as what it is made of. What is
// written plainly is seen in the window that it stands in; here is what a part
// says in an encoding of its own.
type parts struct {
	delimiter []byte
	open      http.Header // of the part in which the last window ended; nil: none
}

// newParts is nil for what is not multipart.
func newParts(contentType string) *parts {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(media, "multipart/") || params["boundary"] == "" {
		return nil
	}
	return &parts{delimiter: []byte("--" + params["boundary"])}
}

// look reads the parts of a window. A part that does not end in it goes on in
// the next one.
func (p *parts) look(ctx context.Context, s *scanner, text []byte, ended bool) policy.Verdict {
	if p == nil {
		return policy.Allowed("scan")
	}
	rest := text
	for first := true; ; first = false {
		part, after, whole := bytes.Cut(rest, p.delimiter)
		var v policy.Verdict
		if first {
			v = p.decoded(ctx, s, p.open, part, whole)
		} else {
			v = p.part(ctx, s, part, whole || ended)
		}
		if !v.Allow || !whole {
			return v
		}
		rest, p.open = after, nil
	}
}

// part reads one part from its header on.
func (p *parts) part(ctx context.Context, s *scanner, text []byte, whole bool) policy.Verdict {
	head, body, found := bytes.Cut(text, []byte("\r\n\r\n"))
	if !found {
		if head, body, found = bytes.Cut(text, []byte("\n\n")); !found {
			return policy.Allowed("scan") // the end, or a header that is not whole
		}
	}
	h, _ := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(bytes.TrimLeft(head, "\r\n"), "\r\n\r\n"...)))).ReadMIMEHeader() // what it cannot read is no coding
	if !whole {
		p.open = http.Header(h)
	}
	if v := p.names(ctx, s, http.Header(h)); !v.Allow {
		return v
	}
	return p.decoded(ctx, s, http.Header(h), body, whole)
}

// names reads the name of a field and of a file where they are encoded.
func (p *parts) names(ctx context.Context, s *scanner, h http.Header) policy.Verdict {
	_, params, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	if err != nil {
		return policy.Allowed("scan") // it was read as it stands
	}
	var text []byte
	for _, value := range params {
		text = append(append(text, value...), '\n')
		if plain, err := new(mime.WordDecoder).DecodeHeader(value); err == nil && plain != value {
			text = append(append(text, plain...), '\n')
		}
	}
	return s.look(ctx, "name of a multipart field", text)
}

// decoded reads what a part says in its own encoding.
func (p *parts) decoded(ctx context.Context, s *scanner, h http.Header, body []byte, whole bool) policy.Verdict {
	if h == nil {
		return policy.Allowed("scan")
	}
	transfer := strings.ToLower(strings.TrimSpace(h.Get("Content-Transfer-Encoding")))
	codings := inflate.Codings(h)
	if len(codings) == 0 && transfer != "quoted-printable" && transfer != "base64" {
		return policy.Allowed("scan")
	}
	if len(codings) > 0 && !whole {
		return policy.Denied("scan", "a compressed part of a multipart body this long cannot be scanned")
	}
	plain := body
	switch transfer {
	case "quoted-printable":
		plain = unquoted(body)
	case "base64":
		plain = unbase64(body)
	}
	if len(codings) > 0 {
		inside, done, err := s.inflate(ctx, codings, bytes.TrimSuffix(bytes.TrimSuffix(plain, []byte("\n")), []byte("\r")))
		if err != nil {
			return policy.Denied("scan", "a part of the multipart body could not be inflated: "+err.Error())
		}
		defer done()
		plain = inside
	}
	return s.look(ctx, "part of the multipart body", plain)
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

// unbase64 undoes base64, whatever stands between its characters.
func unbase64(text []byte) []byte {
	run := bytes.Map(func(r rune) rune {
		if r < 0x80 && r != '=' && (crumbClass[r] != 0 && crumbClass[r] < 4 || r == '+' || r == '/') {
			return r
		}
		return -1
	}, text)
	out := make([]byte, base64.RawStdEncoding.DecodedLen(len(run)))
	n, _ := base64.RawStdEncoding.Decode(out, run) // up to where it is some
	return out[:n]
}
