package egress

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"airlock/internal/secrets"
)

// formsOf returns all encodings of the values of slots. users are the user names of Basic credentials by
// slot: user and value are encoded together.
func formsOf(slots map[string]string, users map[string][]string) (forms []form) {
	for slot, value := range slots {
		marker := fmt.Appendf(nil, "[redacted:%s]", slot)
		for _, text := range secrets.Encodings(value) {
			forms = append(forms, form{text, marker})
			for _, other := range withReferences(text) {
				forms = append(forms, form{other, marker})
			}
		}
		for _, user := range users[slot] {
			for _, text := range secrets.Escapes(base64.StdEncoding.EncodeToString([]byte(user + ":" + value))) {
				forms = append(forms, form{text, marker})
			}
		}
	}
	return forms
}

// references replace the characters of base64 that are no letters or digits with HTML character
// references, in all common spellings and for all subsets of the three.
var references = func() (all []*strings.Replacer) {
	for _, spelling := range [][]string{
		{"+", "&#43;", "/", "&#47;", "=", "&#61;"},
		{"+", "&#x2b;", "/", "&#x2f;", "=", "&#x3d;"},
		{"+", "&#x2B;", "/", "&#x2F;", "=", "&#x3D;"},
	} {
		for which := 1; which < 8; which++ {
			var pairs []string
			for i := range 3 {
				if which&(1<<i) != 0 {
					pairs = append(pairs, spelling[2*i:2*i+2]...)
				}
			}
			all = append(all, strings.NewReplacer(pairs...))
		}
	}
	return all
}()

// withReferences returns the forms of a text with references; none if it has none of the characters or
// is already escaped.
func withReferences(text []byte) (all [][]byte) {
	if bytes.ContainsAny(text, "&%\\") || !bytes.ContainsAny(text, "+/=") {
		return nil
	}
	seen := map[string]bool{string(text): true}
	for _, r := range references {
		if other := r.Replace(string(text)); !seen[other] {
			seen[other] = true
			all = append(all, []byte(other))
		}
	}
	return all
}

func newRedactor(forms []form) *redactor {
	r := newAutomaton(forms, func() { redactions.Inc() })
	var lower []form
	for _, f := range forms {
		lower = append(lower, form{bytes.ToLower(f.text), f.marker})
	}
	r.names = newAutomaton(lower, func() {})
	return r
}

// all returns a complete text redacted.
func (r *redactor) all(text []byte) []byte {
	if r.empty() {
		return text
	}
	s := stream{r: r}
	if _, ok := s.clean(text); ok {
		return text
	}
	s = stream{r: r}
	return s.flush(s.feed(nil, text))
}

// header redacts every value in place, and drops fields whose names contain a form. Names are compared
// in lower case, because their case is lost in parsing.
func (r *redactor) header(h http.Header) {
	if r.empty() {
		return
	}
	for name, values := range h {
		if len(name) >= r.names.skip.window && containsForm(r.names, strings.ToLower(name)) {
			delete(h, name)
			redactions.Inc()
			continue
		}
		for i, v := range values {
			if containsForm(r, v) {
				values[i] = string(r.all([]byte(v)))
			}
		}
	}
}

// stream redacts one stream of bytes. It holds back only bytes that may be the beginning of a form.
type stream struct {
	r          *redactor
	window     window
	held       []byte // input bytes of the current window state
	keepLength bool   // markers are truncated or padded to the length of the text that they replace
	absorbing  int32  // state after the last redacted form, while a longer form may continue it; else 0
}

// clean is feed without a copy: the first n bytes of p are unchanged, the rest is held back. It does
// nothing and returns false if bytes were held back before or something has to be redacted.
func (s *stream) clean(p []byte) (n int, ok bool) {
	if len(s.held) > 0 || s.absorbing != 0 {
		return 0, false
	}
	r, w, b := s.r, s.window.clone(), breaks{}
	for i := 0; i < len(p); i++ {
		if w.state == 0 && !w.escaped {
			if i = nextCandidateWrapped(&r.skip, p, i, &b); i >= len(p) {
				break
			}
		}
		if w.next(r, p[i]); r.nodes[w.state].form != nil {
			return 0, false
		}
	}
	n = len(p) - w.heldRaw(r)
	s.window, s.held = w, append(s.held, p[n:]...)
	return n, true
}

// feed appends to out the redacted bytes of p that are not held back.
func (s *stream) feed(out, p []byte) []byte {
	r, w := s.r, &s.window
	var b breaks
	from := 0 // s.held and then p[from:] have not been appended yet
	for i := 0; i < len(p); i++ {
		if s.absorbs(p[i]) {
			from = i + 1
			if s.keepLength {
				out = append(out, '*')
			}
			continue
		}
		if w.state == 0 && !w.escaped {
			if i = nextCandidateWrapped(&r.skip, p, i, &b); i >= len(p) {
				break
			}
		}
		if w.next(r, p[i]); r.nodes[w.state].form == nil || w.escaped {
			continue
		}
		// Everything that the state covers is redacted: a longer form that contains this one may have
		// begun.
		m, raw := r.nodes[w.state].form, w.heldRaw(r)
		pending := append(s.held, p[from:i+1]...)
		out = append(out, pending[:len(pending)-raw]...)
		out = append(out, s.markerOf(m, raw)...)
		r.found()
		s.absorbing = w.state
		s.held, from = s.held[:0], i+1
		*w = window{}
	}
	pending := len(s.held) + len(p) - from
	clear := pending - w.heldRaw(r)
	n := min(clear, len(s.held))
	out = append(out, s.held[:n]...)
	s.held = append(s.held[:0], s.held[n:]...)
	out = append(out, p[from:from+clear-n]...)
	s.held = append(s.held, p[from+clear-n:]...)
	return out
}

// absorbs reports whether a byte continues the form that was redacted before it.
func (s *stream) absorbs(c byte) bool {
	if s.absorbing != 0 {
		s.absorbing = s.r.childOf(s.absorbing, c)
	}
	return s.absorbing != 0
}

// markerOf returns the replacement of a form that takes length bytes of input.
func (s *stream) markerOf(f *form, length int) []byte {
	switch {
	case !s.keepLength:
		return f.marker
	case len(f.marker) >= length:
		return f.marker[:length]
	}
	return append(bytes.Clone(f.marker), bytes.Repeat([]byte("*"), length-len(f.marker))...)
}

// switchRedactor continues with another redactor. Bytes held back are fed again, because they may begin a
// form of that one.
func (s *stream) switchRedactor(out []byte, r *redactor) []byte {
	if r == s.r {
		return out
	}
	held := s.held
	s.r, s.window, s.held, s.absorbing = r, window{}, nil, 0
	return s.feed(out, held)
}

// flush appends the bytes held back, at the end of the stream.
func (s *stream) flush(out []byte) []byte {
	out = append(out, s.held...)
	s.held, s.window = s.held[:0], window{}
	return out
}

// reader redacts a body while it is read.
type reader struct {
	body   io.ReadCloser
	stream stream
	now    func() *redactor // returns the current redactor; nil: it does not change
	buf    []byte           // a copy of the input that has to be changed
	out    []byte           // redacted, not yet read
	err    error
}

func newReader(body io.ReadCloser, r *redactor, keepLength bool) *reader {
	return &reader{body: body, stream: stream{r: r, keepLength: keepLength}}
}

// Read implements io.Reader. Input without a form is returned without a copy.
func (d *reader) Read(p []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil || len(p) == 0 {
			return 0, d.err
		}
		n, err := d.body.Read(p)
		d.out, d.err = d.out[:0], err
		if d.now != nil {
			d.out = d.stream.switchRedactor(d.out, d.now())
		}
		if clean, ok := d.stream.clean(p[:n]); ok && len(d.out) == 0 && err == nil {
			if clean > 0 {
				return clean, nil
			}
			continue
		} else if !ok {
			d.buf = append(d.buf[:0], p[:n]...)
			d.out = d.stream.feed(d.out, d.buf)
		} else {
			d.out = append(d.out, p[:clean]...)
		}
		if err != nil {
			d.out = d.stream.flush(d.out)
		}
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// Buffered reports whether a Read would return at once.
func (d *reader) Buffered() bool {
	b, ok := d.body.(interface{ Buffered() bool })
	return len(d.out) > 0 || d.err != nil || ok && b.Buffered()
}

func (d *reader) Close() error { return d.body.Close() }
