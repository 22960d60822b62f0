package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	maxLine   = 64 << 10 // bytes of a child's line; the rest is dropped and the line is marked
	ringLines = 4096     // lines that may wait for the reader of the output …
	ringBytes = 4 << 20  // … and their bytes
	maxWrite  = 64 << 10 // bytes of one write
)

// output writes the lines of all daemons to one stream, each marked with its daemon. It never blocks
// on the reader of that stream: lines that do not fit into the ring are dropped and counted, and a
// notice takes their place. Its methods may be called concurrently.
type output struct {
	json bool
	mask masker
	now  func() time.Time

	mu         sync.Mutex
	ready      sync.Cond // signalled when the ring is not empty, or closed is set
	ring       [][]byte
	bytes      int
	closed     bool
	unreported uint64 // lines dropped since the last notice
	dropped    uint64 // lines dropped in all
}

func newOutput(json bool, mask masker) *output {
	o := &output{json: json, mask: mask, now: time.Now}
	o.ready.L = &o.mu
	return o
}

// write writes lines to w until close, and then what is left.
func (o *output) write(w io.Writer) {
	for {
		text, ok := o.next()
		if !ok {
			return
		}
		if _, err := w.Write(text); err != nil { // the error cannot be reported anywhere else
			o.mu.Lock()
			o.dropped += uint64(bytes.Count(text, []byte("\n")))
			o.mu.Unlock()
		}
	}
}

// next waits for lines and removes them from the ring. It returns false after close.
func (o *output) next() (text []byte, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.ring) == 0 && o.unreported == 0 && !o.closed {
		o.ready.Wait()
	}
	n := 0
	for n < len(o.ring) && (n == 0 || len(text)+len(o.ring[n]) <= maxWrite) {
		text = append(text, o.ring[n]...)
		n++
	}
	o.ring, o.bytes = slices.Delete(o.ring, 0, n), o.bytes-len(text)
	if len(o.ring) == 0 {
		o.ring = nil // frees the memory of a burst
		text = append(text, o.droppedNotice()...)
	}
	return text, len(text) > 0
}

// droppedNotice returns a line with the number of lines that were dropped here, or nil.
func (o *output) droppedNotice() []byte {
	if o.unreported == 0 {
		return nil
	}
	line := o.format("supervisor", "stdout", fmt.Appendf(nil, "%d lines were lost: nobody read them in time", o.unreported), false)
	o.unreported = 0
	return line
}

// close ends write once all waiting lines are written.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.ready.Broadcast()
}

// droppedLines returns how many lines were dropped.
func (o *output) droppedLines() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// add queues one line of a daemon. cut reports whether the line was truncated.
func (o *output) add(daemon, stream string, line []byte, cut bool) {
	full := o.format(daemon, stream, o.mask.mask(line, cut), cut)
	o.mu.Lock()
	defer o.mu.Unlock()
	notice := 0
	if o.unreported > 0 {
		notice = 1
	}
	if len(o.ring)+notice >= ringLines || o.bytes+len(full) > ringBytes {
		o.unreported++
		o.dropped++
		return
	}
	o.ring = append(o.ring, full)
	o.bytes += len(full)
	if notice > 0 {
		note := o.droppedNotice()
		o.ring = slices.Insert(o.ring, len(o.ring)-1, note)
		o.bytes += len(note)
	}
	o.ready.Signal()
}

// copy reads a child's stream line by line until it ends.
func (o *output) copy(daemon, stream string, r io.ReadCloser) {
	defer r.Close()
	var line []byte
	cut := false
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			part, after, ends := bytes.Cut(rest, []byte("\n"))
			if room := maxLine - len(line); len(part) > room {
				part, cut = part[:room], true
			}
			line = append(line, part...)
			if ends {
				o.add(daemon, stream, line, cut)
				line, cut = nil, false
			}
			rest = after
		}
		if err != nil {
			if len(line) > 0 {
				o.add(daemon, stream, line, cut)
			}
			return
		}
	}
}

const cutMark = "… (cut)"

// format returns a line of the output with its line end.
func (o *output) format(daemon, stream string, line []byte, cut bool) []byte {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if o.json {
		return o.formatJSON(daemon, stream, line, cut)
	}
	full := append(make([]byte, 0, len(daemon)+len(line)+4), "["+daemon+"] "...)
	full = appendPrintable(full, line)
	if cut {
		full = append(full, cutMark...)
	}
	return append(full, '\n')
}

// appendPrintable appends text with control characters, direction marks and invalid UTF-8 escaped as
// in Go, so that it cannot control a terminal.
func appendPrintable(to, text []byte) []byte {
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			to = fmt.Appendf(to, `\x%02x`, text[0])
		case r == '\t' || unicode.IsGraphic(r):
			to = append(to, text[:n]...)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			to = append(to, quoted[1:len(quoted)-1]...)
		}
		text = text[n:]
	}
	return to
}

// formatJSON returns a line as one JSON object. If the line is an object itself, its fields are added
// to the supervisor's own, which they cannot replace.
func (o *output) formatJSON(daemon, stream string, line []byte, cut bool) []byte {
	line = bytes.ToValidUTF8(line, []byte("\uFFFD"))
	fields := map[string]json.RawMessage{}
	if !bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("{")) || json.Unmarshal(line, &fields) != nil {
		msg := string(line)
		if cut {
			msg += cutMark
		}
		fields = map[string]json.RawMessage{"msg": quote(msg)}
	}
	level := "INFO"
	if stream == "stderr" {
		level = "WARN" // standard error is not a logger's output, but for example a crash
	}
	own := []field{
		{"time", orElse(fields["time"], quote(o.now().UTC().Format(time.RFC3339Nano)))},
		{"level", orElse(fields["level"], quote(level))},
		{"daemon", quote(daemon)}, {"stream", quote(stream)},
		{"msg", orElse(fields["msg"], quote(""))},
	}
	for _, name := range keys(fields) {
		own = append(own, field{name, fields[name]})
	}
	full := []byte("{")
	for i, f := range own {
		if i > 0 {
			full = append(full, ',')
		}
		full = append(append(full, quote(f.name)...), ':')
		full = append(full, f.value...)
	}
	return append(full, "}\n"...)
}

// field is a member of a JSON object.
type field struct {
	name  string
	value json.RawMessage
}

// keys returns the names of a child's own fields, sorted. Names that equal one of the supervisor's in
// another case are left out: many JSON parsers do not distinguish them.
func keys(fields map[string]json.RawMessage) []string {
	var names []string
	for name := range fields {
		ours := slices.ContainsFunc([]string{"time", "level", "daemon", "stream", "msg"}, func(own string) bool { return strings.EqualFold(own, name) })
		if !ours {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func orElse(v, other json.RawMessage) json.RawMessage {
	if len(v) == 0 {
		return other
	}
	return v
}

func quote(s string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string and a buffer cannot fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
