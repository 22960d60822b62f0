package pipelock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/promptinjection"
)

// maxWhole bounds what is read of an answer before it begins, in bytes: an
// answer that blocks is refused with its reason where all of it is so short,
// and cut where it is longer or a stream.
const maxWhole = 64 << 10

// answers say what is done about text that gives an agent orders.
type answers struct {
	on, block bool
	skip      []policy.Pattern
}

func newAnswers(f *bundle.AnswerScan) answers {
	if f == nil {
		return answers{}
	}
	return answers{on: true, block: f.Action == actionBlock, skip: f.Skip}
}

// read reports whether answers of the host are looked at.
func (a answers) read(h policy.Host) bool {
	return a.on && !slices.ContainsFunc(a.skip, func(p policy.Pattern) bool { return p.Matches(h) })
}

// watch looks at an answer's text as it passes by. It refuses one that can be
// refused as a whole.
func (p *exchange) watch(res *http.Response) error {
	s := p.s
	if !s.answers.read(p.authority.Host) || !s.rules.reads(p.authority.Host) || !isTextType(res.Header.Get("Content-Type")) || p.method == http.MethodHead {
		return nil
	}
	if coding := res.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		if s.answers.block {
			return &refusedError{v: policy.Denied("answer: compressed", "the answer cannot be read: it is compressed, although plain text was asked for")}
		}
		return nil
	}
	w := &watched{ReadCloser: res.Body, pass: p, events: strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")}
	res.Body = w
	if !s.answers.block || w.events || res.ContentLength < 0 || res.ContentLength > maxWhole {
		return nil
	}
	whole, err := io.ReadAll(w)
	if err != nil {
		return err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{bytes.NewReader(whole), w}
	return nil
}

// isTextType reports whether a person or an agent would read it.
func isTextType(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		kind, _, _ = strings.Cut(strings.ToLower(contentType), ";")
	}
	switch _, sub, _ := strings.Cut(kind, "/"); {
	case strings.HasPrefix(kind, "text/"), kind == "":
		return true
	case strings.HasPrefix(kind, "application/"):
		return strings.HasSuffix(sub, "json") || strings.HasSuffix(sub, "xml") || sub == "x-ndjson" || sub == "yaml"
	}
	return false
}

// watched is a body that is looked at in passing. It holds nothing back.
type watched struct {
	io.ReadCloser
	pass   *exchange
	events bool
	scan   promptinjection.Scanner
	last   []byte // is to be read before err
	err    error
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	if len(w.last) > 0 { // alone, so that it is sent before the end
		n := copy(p, w.last)
		w.last = w.last[n:]
		return n, nil
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.ReadCloser.Read(p)
	found := w.scan.Write(p[:n])
	if err == io.EOF {
		found = append(slices.Clone(found), w.scan.End()...)
	}
	for _, rule := range found {
		if w.err = w.pass.ordered(rule); w.err != nil {
			return w.abort(p)
		}
	}
	return n, err
}

// abort ends the answer in place of what was found. An event says why, where
// there are events.
func (w *watched) abort(p []byte) (int, error) {
	var refused *refusedError
	if w.events && errors.As(w.err, &refused) {
		text, err := json.Marshal(map[string]httpd.Refusal{"error": {By: bundle.Pipelock, Rule: refused.v.Rule, Why: refused.v.Why, URL: w.pass.url(), Ask: httpd.AskOperator}})
		if err == nil {
			w.last = fmt.Appendf(nil, "\n\nevent: error\ndata: %s\n\n", text)
		}
	}
	return w.Read(p)
}

// Buffered implements what forward asks a body: whether more is there already.
func (w *watched) Buffered() bool {
	if w.err != nil {
		return false
	}
	ahead, ok := w.ReadCloser.(interface{ Buffered() bool })
	return ok && ahead.Buffered()
}

// ordered writes a finding in an answer down. It is an error where the answer
// must not go on.
func (p *exchange) ordered(rule string) error {
	orderings.Inc(rule)
	v := policy.Denied("answer: "+rule, "the answer has what is meant for an agent and not for a person: "+rule)
	if !p.s.answers.block {
		if err := p.s.report(p, wordWarn, v); err != nil {
			return &refusedError{v: unwritten(), reported: true}
		}
		return nil
	}
	if err := p.s.report(p, "", v); err != nil {
		v = unwritten()
	}
	return &refusedError{v: v, reported: true}
}
