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

// formsOf are the forms of the slots' values. Users of Basic authentication
// are given with each slot, because the pair is encoded as one.
func formsOf(slots map[string]string, users map[string][]string) (forms []form) {
	for slot, value := range slots {
		marker := fmt.Appendf(nil, "[redacted:%s]", slot)
		for _, text := range secrets.Forms(value) {
			forms = append(forms, form{text, marker})
			for _, other := range withReferences(text) {
				forms = append(forms, form{other, marker})
			}
		}
		for _, user := range users[slot] {
			for _, text := range secrets.Spellings(base64.StdEncoding.EncodeToString([]byte(user + ":" + value))) {
				forms = append(forms, form{text, marker})
			}
		}
	}
	return forms
}

// references are the character references of HTML for the three characters of base64
// that are no letters and digits, in the spellings of those who escape one or two of
// them and nothing else.
var references = func() (all []*strings.Replacer) {
	for _, spelling := range [][]string{{"+", "&#43;", "/", "&#47;", "=", "&#61;"}, {"+", "&#x2b;", "/", "&#x2f;", "=", "&#x3d;"}, {"+", "&#x2B;", "/", "&#x2F;", "=", "&#x3D;"}} {
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

// withReferences are the forms of a text with references in it; none where it has
// none of the characters, or is escaped already.
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

// all redacts a text that is there as a whole.
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

// header redacts every value in place, and drops a field whose name holds a
// form: there is nothing to put in its place. A name has lost its case on the
// way here.
func (r *redactor) header(h http.Header) {
	if r.empty() {
		return
	}
	for name, values := range h {
		if len(name) >= r.names.skip.window && holds(r.names, strings.ToLower(name)) {
			delete(h, name)
			redactions.Inc()
			continue
		}
		for i, v := range values {
			if holds(r, v) {
				values[i] = string(r.all([]byte(v)))
			}
		}
	}
}

// stream is the redaction of one flow of bytes. It holds back no more than
// what a form may have begun with.
type stream struct {
	r          *redactor
	window     window
	held       []byte // bytes that the window stands for
	keepLength bool   // markers are cut or padded to the length of what they replace
	absorbing  int32  // the state of what was taken out last: what leads on from there belongs to a longer form; 0: nothing does
}

// clean is feed without a copy: the first n bytes of p go on as they are, the
// rest is held back. It does nothing, and says so, where something was held
// back before or must be taken out.
func (s *stream) clean(p []byte) (n int, ok bool) {
	if len(s.held) > 0 || s.absorbing != 0 {
		return 0, false
	}
	r, w, b := s.r, s.window.clone(), breaks{}
	for i := 0; i < len(p); i++ {
		if w.state == 0 && !w.escaped {
			if i = aheadWrapped(&r.skip, p, i, &b); i >= len(p) {
				break
			}
		}
		if w.next(r, p[i]); r.nodes[w.state].form != nil {
			return 0, false
		}
	}
	n = len(p) - w.raw(r)
	s.window, s.held = w, append(s.held, p[n:]...)
	return n, true
}

// feed appends to out what may go on of p.
func (s *stream) feed(out, p []byte) []byte {
	r, w := s.r, &s.window
	var b breaks
	from := 0 // p[from:] has not been appended yet; s.held stands before it
	for i := 0; i < len(p); i++ {
		if s.absorbs(p[i]) {
			from = i + 1
			if s.keepLength {
				out = append(out, '*')
			}
			continue
		}
		if w.state == 0 && !w.escaped {
			if i = aheadWrapped(&r.skip, p, i, &b); i >= len(p) {
				break
			}
		}
		if w.next(r, p[i]); r.nodes[w.state].form == nil || w.escaped {
			continue
		}
		// All that the state stands for goes: a longer form that has this one in
		// it may have begun.
		m, raw := r.nodes[w.state].form, w.raw(r)
		pending := append(s.held, p[from:i+1]...)
		out = append(out, pending[:len(pending)-raw]...)
		out = append(out, s.markerOf(m, raw)...)
		r.found()
		s.absorbing = w.state
		s.held, from = s.held[:0], i+1
		*w = window{}
	}
	pending := len(s.held) + len(p) - from
	clear := pending - w.raw(r)
	n := min(clear, len(s.held))
	out = append(out, s.held[:n]...)
	s.held = append(s.held[:0], s.held[n:]...)
	out = append(out, p[from:from+clear-n]...)
	s.held = append(s.held, p[from+clear-n:]...)
	return out
}

// absorbs tells whether a byte goes with what was taken out before it.
func (s *stream) absorbs(c byte) bool {
	if s.absorbing != 0 {
		s.absorbing = s.r.childOf(s.absorbing, c)
	}
	return s.absorbing != 0
}

// markerOf is what takes the place of a form with which length bytes go.
func (s *stream) markerOf(f *form, length int) []byte {
	switch {
	case !s.keepLength:
		return f.marker
	case len(f.marker) >= length:
		return f.marker[:length]
	}
	return append(bytes.Clone(f.marker), bytes.Repeat([]byte("*"), length-len(f.marker))...)
}

// switchRedactor goes on with another redactor. What is held back may also begin what
// that one looks for.
func (s *stream) switchRedactor(out []byte, r *redactor) []byte {
	if r == s.r {
		return out
	}
	held := s.held
	s.r, s.window, s.held, s.absorbing = r, window{}, nil, 0
	return s.feed(out, held)
}

// flush appends what was held back: nothing follows.
func (s *stream) flush(out []byte) []byte {
	out = append(out, s.held...)
	s.held, s.window = s.held[:0], window{}
	return out
}

// reader redacts a body while it is read.
type reader struct {
	body   io.ReadCloser
	stream stream
	now    func() *redactor // the one of the moment; nil: always the same
	buf    []byte           // what was read where something is to be changed
	out    []byte           // redacted, not yet read
	err    error
}

func newReader(body io.ReadCloser, r *redactor, keepLength bool) *reader {
	return &reader{body: body, stream: stream{r: r, keepLength: keepLength}}
}

// Read implements io.Reader. What holds nothing stays where it was read to.
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

// Buffered tells whether a Read would return at once.
func (d *reader) Buffered() bool {
	b, ok := d.body.(interface{ Buffered() bool })
	return len(d.out) > 0 || d.err != nil || ok && b.Buffered()
}

func (d *reader) Close() error { return d.body.Close() }
