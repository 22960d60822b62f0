package egress

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"

	"airlock/internal/secrets"
)

// redactor finds every form of the pair's credentials in what an upstream
// sends, in one pass (Aho–Corasick, CACM 18(6), 1975). The zero of its
// states is "nothing that a form begins with was seen".
type redactor struct {
	class [256]byte // byte → column; 0: stands in no form
	width int
	next  []int32 // state × column → state
	depth []int32 // state → bytes of the input that it stands for
	match []match // state → the form that ends there
	found func()  // told of each match in a stream; never nil
}

// match is the form that ends in a state. A zero length means none.
type match struct {
	length int
	marker []byte
}

// formsOf are the forms of the slots' values. Users of Basic authentication
// are given with each slot, because the pair is encoded as one.
func formsOf(slots map[string]string, users map[string][]string) (forms []form) {
	for slot, value := range slots {
		marker := fmt.Appendf(nil, "[redacted:%s]", slot)
		for _, text := range secrets.Forms(value) {
			forms = append(forms, form{text, marker})
		}
		for _, user := range users[slot] {
			forms = append(forms, form{[]byte(base64.StdEncoding.EncodeToString([]byte(user + ":" + value))), marker})
		}
	}
	return forms
}

func newRedactor(forms []form) *redactor {
	return newAutomaton(forms, func() { redactions.Inc() })
}

// form is one text to look for, and what takes its place.
type form struct{ text, marker []byte }

func newAutomaton(forms []form, found func()) *redactor {
	r := &redactor{width: 1, found: found}
	for _, f := range forms {
		for _, c := range f.text {
			if r.class[c] == 0 {
				r.class[c] = byte(min(r.width, 255))
				r.width = min(r.width+1, 256)
			}
		}
	}
	r.addState(0)
	for _, f := range forms {
		r.addForm(f.text, f.marker)
	}
	r.link()
	return r
}

func (r *redactor) addState(depth int32) int32 {
	r.next = append(r.next, slices.Repeat([]int32{-1}, r.width)...)
	r.depth = append(r.depth, depth)
	r.match = append(r.match, match{})
	return int32(len(r.depth) - 1)
}

func (r *redactor) addForm(text, marker []byte) {
	state := int32(0)
	for i, c := range text {
		at := int(state)*r.width + int(r.class[c])
		if r.next[at] < 0 {
			// Not in one statement: adding a state may move r.next.
			added := r.addState(int32(i + 1))
			r.next[at] = added
		}
		state = r.next[at]
	}
	if r.match[state].length == 0 {
		r.match[state] = match{len(text), marker}
	}
}

// link turns the trie into an automaton: breadth first, each missing edge
// becomes that of the longest proper suffix.
func (r *redactor) link() {
	fail := make([]int32, len(r.depth))
	var queue []int32
	for col := range r.width {
		if to := r.next[col]; to > 0 {
			queue = append(queue, to)
		} else {
			r.next[col] = 0
		}
	}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		if r.match[state].length == 0 {
			r.match[state] = r.match[fail[state]]
		}
		for col := range r.width {
			at := int(state)*r.width + col
			over := r.next[int(fail[state])*r.width+col]
			if to := r.next[at]; to >= 0 {
				fail[to] = over
				queue = append(queue, to)
			} else {
				r.next[at] = over
			}
		}
	}
}

// empty tells whether there is nothing to look for.
func (r *redactor) empty() bool { return r == nil || len(r.depth) <= 1 }

// all redacts a text that is there as a whole.
func (r *redactor) all(text []byte) []byte {
	if r.empty() {
		return text
	}
	s := stream{r: r}
	return s.flush(s.feed(nil, text))
}

// header redacts every value in place.
func (r *redactor) header(h http.Header) {
	if r.empty() {
		return
	}
	for _, values := range h {
		for i, v := range values {
			values[i] = string(r.all([]byte(v)))
		}
	}
}

// stream is the redaction of one flow of bytes. It holds back no more than
// what a form may have begun with.
type stream struct {
	r          *redactor
	state      int32
	held       []byte // bytes that state stands for
	keepLength bool   // markers are cut or padded to the length of what they replace
}

// feed appends to out what may go on of p.
func (s *stream) feed(out, p []byte) []byte {
	r := s.r
	state := s.state
	from := 0 // p[from:] has not been appended yet; s.held stands before it
	for i, c := range p {
		state = r.next[int(state)*r.width+int(r.class[c])]
		m := &r.match[state]
		if m.length == 0 {
			continue
		}
		pending := append(s.held, p[from:i+1]...)
		out = append(out, pending[:len(pending)-m.length]...)
		out = append(out, s.marker(m)...)
		r.found()
		s.held, from, state = s.held[:0], i+1, 0
	}
	s.state = state
	pending := len(s.held) + len(p) - from
	clear := pending - int(r.depth[state])
	n := min(clear, len(s.held))
	out = append(out, s.held[:n]...)
	s.held = append(s.held[:0], s.held[n:]...)
	out = append(out, p[from:from+clear-n]...)
	s.held = append(s.held, p[from+clear-n:]...)
	return out
}

func (s *stream) marker(m *match) []byte {
	if !s.keepLength {
		return m.marker
	}
	if len(m.marker) >= m.length {
		return m.marker[:m.length]
	}
	return append(bytes.Clone(m.marker), bytes.Repeat([]byte("*"), m.length-len(m.marker))...)
}

// flush appends what was held back: nothing follows.
func (s *stream) flush(out []byte) []byte {
	out = append(out, s.held...)
	s.held, s.state = s.held[:0], 0
	return out
}

// reader redacts a body while it is read.
type reader struct {
	body   io.ReadCloser
	stream stream
	buf    []byte
	out    []byte // redacted, not yet read
	err    error
}

func newReader(body io.ReadCloser, r *redactor, keepLength bool) *reader {
	return &reader{body: body, stream: stream{r: r, keepLength: keepLength}, buf: make([]byte, 32<<10)}
}

func (d *reader) Read(p []byte) (int, error) {
	for len(d.out) == 0 {
		if d.err != nil {
			return 0, d.err
		}
		n, err := d.body.Read(d.buf)
		d.out = d.stream.feed(d.out[:0], d.buf[:n])
		if err != nil {
			d.err = err
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
