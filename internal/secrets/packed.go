package secrets

import (
	"bytes"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	"airlock/internal/inflate"
	"airlock/internal/unpack"
)

// packed looks into the archives and compressed data that a text holds, anywhere in it: as they
// are, or anywhere in what base64 or hex, plain or wrapped into lines, decodes to.
func (r *run) packed(in input, runs []stretch, archives int) (spans []span, err error) {
	if r.scanner.opts.ArchiveDepth == 0 {
		return nil, nil
	}
	add := func(s stretch, o opened) {
		r.open = r.open || o.open && s.end >= len(in.text)-maxPadding // otherwise all of it is there
		for _, in := range o.found {
			spans = append(spans, span{rule: in.rule, member: in.member, start: s.start, end: s.end, decoded: true})
		}
	}
	blocks := func(runs []stretch, c *code) {
		for _, b := range blocksOf(in.text, runs) {
			if err == nil && in.isNew(b.start, b.end) {
				var o opened
				o, err = r.openBlock(b.body, c, archives)
				add(b.stretch, o)
			}
		}
	}
	blocks(runs, &base64Code)
	blocks(inside(in.text, runs, isHex, minHex), &hexCode)
	var data []byte
	for _, at := range marksIn(in) {
		if data == nil {
			data = []byte(in.text)
		}
		if err == nil && at > 0 && in.isNew(at, at+4) { // at the very beginning it has been opened
			var o opened
			o, err = r.openData(data[at:], false, archives) // each of several has a mark of its own
			add(stretch{at, len(in.text)}, o)
		}
	}
	return spans, err
}

// encodedBlock is a run of base64 or hex in a text, or several that line ends separate, and these
// as one.
type encodedBlock struct {
	stretch
	body string
}

// blocksOf joins the runs that follow each other in lines. The last line of a block may be shorter
// than a run.
func blocksOf(text string, runs []stretch) (all []encodedBlock) {
	for i := 0; i < len(runs); {
		b := encodedBlock{runs[i], text[runs[i].start:runs[i].end]}
		diff := addedLine(text, b.start)
		if diff {
			b.body = b.body[1:]
		}
		var lines []byte
		for i++; ; i++ {
			next := nextLine(text, b.end)
			if next < 0 {
				break
			}
			if lines == nil {
				lines = []byte(b.body)
			}
			end := next
			for end < len(text) && class[text[end]]&isB64 != 0 {
				end++
			}
			from := next
			if diff = diff && text[next] == '+'; diff {
				from++
			}
			lines = append(lines, text[from:end]...)
			b.end = end
			if i >= len(runs) || runs[i].start != next {
				for i < len(runs) && runs[i].start < end {
					i++
				}
				break
			}
		}
		if lines != nil {
			b.body = string(lines)
		}
		all = append(all, b)
	}
	return all
}

// nextLine is where the next line of an encoded block begins whose line before ends at a place, or
// -1: after white space with one line end in it, written as it is or escaped, and what indents or
// quotes the line.
func nextLine(text string, at int) int {
	rest := text[at:min(len(text), at+maxIndent)]
	n := len(rest)
	rest = strings.TrimLeft(rest, " \t")
	rest = strings.TrimPrefix(strings.TrimPrefix(rest, "\r"), `\r`)
	switch {
	case strings.HasPrefix(rest, "\n"):
		rest = rest[1:]
	case strings.HasPrefix(rest, `\n`):
		rest = rest[2:]
	default:
		return -1
	}
	rest = afterMargin(rest)
	if rest == "" || class[rest[0]]&isB64 == 0 {
		return -1
	}
	return at + n - len(rest)
}

// addedLine reports whether a run begins with the plus sign of a line that a diff adds.
func addedLine(text string, at int) bool {
	before := text[max(0, at-2):at]
	return text[at] == '+' && (before == "" || before[len(before)-1] == '\n' || before == `\n`)
}

// afterMargin is a line without what indents it, quotes it, makes it a comment, or numbers it as
// programs do that show files.
func afterMargin(line string) string {
	line = strings.TrimLeft(line, " \t>|*#")
	line = strings.TrimPrefix(line, "// ")
	digits := 0
	for digits < len(line) && digits < 7 && kindOf(line[digits]) == 'd' {
		digits++
	}
	if digits > 0 {
		for _, end := range []string{"\t", `\t`, "→", ": ", "| ", " | "} {
			if rest, ok := strings.CutPrefix(line[digits:], end); ok {
				return rest
			}
		}
	}
	return line
}

// maxIndent bounds what separates two lines of an encoded block, in bytes.
const maxIndent = 64

// opened is what compressed data holds: what was found, and whether it ends before its end.
type opened struct {
	found []inner
	open  bool
}

func (o *opened) add(more opened) {
	o.found, o.open = append(o.found, more.found...), o.open || more.open
}

// openData looks into data that begins with something compressed; all says that what may follow it
// belongs to it.
func (r *run) openData(data []byte, all bool, archives int) (o opened, err error) {
	if !r.chargeFor(data) {
		return o, nil
	}
	defer func(before bool) { o.open, r.open = r.open, before }(r.open)
	r.open = false
	err = members(data, all, r.member(&o.found, data, archives))
	return o, err
}

// openBlock decodes an encoded block in each phase and looks into the compressed data in it.
func (r *run) openBlock(body string, c *code, archives int) (o opened, err error) {
	if len(body) < minPacked {
		return o, nil
	}
	if r.caching && len(body) >= longest {
		key := r.scanner.cache.encodedKey(body, archives)
		if r.scanner.cache.Has(key) {
			return o, nil
		}
		r.cleanKeys = append(r.cleanKeys, key) // it counts where the whole scan finds nothing
	}
	for shift := range min(c.group, len(body)-minRun+1) {
		one, err := r.openDecoded(c.decode(body[shift:]), shift == 0 && diverse(body), archives)
		if err != nil {
			return o, err
		}
		o.add(one)
	}
	return o, nil
}

// openDecoded looks into the compressed data that a decoded block holds; bare says that it may be
// compressed without a mark. The same block is often met in several views.
func (r *run) openDecoded(data []byte, bare bool, archives int) (o opened, err error) {
	h := maphash.Bytes(seed, data)
	if known, ok := r.opened[h]; ok {
		return known, nil
	}
	for _, at := range marksInData(data) {
		one, err := r.openData(data[at:], at == 0, archives) // each of several has a mark of its own
		if err != nil {
			return o, err
		}
		o.add(one)
	}
	if bare && !marked(data) && opaque(data[:min(len(data), 64)]) {
		one, err := r.openData(data, true, archives)
		if err != nil {
			return o, err
		}
		o.add(one)
	}
	if r.opened == nil {
		r.opened = map[uint64]opened{}
	}
	r.opened[h] = o
	return o, nil
}

// chargeFor charges for opening data, by its format. LZMA is charged for its models where it is
// read.
func (r *run) chargeFor(data []byte) bool {
	switch {
	case bytes.HasPrefix(data, []byte("\x28\xb5")), bytes.HasPrefix(data, []byte("BZh")):
		return r.charge(largeDecoder)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return r.charge(2)
	}
	return r.charge(1)
}

// charge charges a cost. A scan that exceeds its allowance is refused.
func (r *run) charge(n int) bool {
	r.chargesLeft -= n
	r.nested = r.nested || r.chargesLeft < 0
	return r.chargesLeft >= 0
}

const (
	// minPacked is the shortest base64 that may be something compressed without a mark, in
	// characters.
	minPacked = 40
	// maxPadding is what may follow base64 that goes up to the end of a text, in bytes.
	maxPadding = 8
	// minCharges bounds what one Scan opens, counted in files of a zip; a long text has one more
	// for every bytesPerCharge.
	minCharges     = 16 << 10
	bytesPerCharge = 16
	// maxBegin is from how much of a stream its beginning is inflated, in bytes.
	maxBegin = 1 << 10
)

// marksIn are the places at which something in a text may be compressed: gzip (RFC 1952), the files
// of a zip, zstd (RFC 8878), bzip2, zlib, xz, lzip, LZ4, LZMA, 7z.
func marksIn(s input) (all []int) {
	text := s.text
	all = marksOf(all, text, 2, localHeader)
	for _, at := range marksOf(nil, text, 3, bzip2Block) {
		if at >= 4 && text[at-4:at-1] == "BZh" {
			all = append(all, at-4)
		}
	}
	binary, zero := s.index.any(ofHigh), s.index.any(ofZero)
	if binary {
		all = marksOf(all, text, 0, "\x1f\x8b\x08")
		all = marksOf(all, text, 3, "\x28\xb5\x2f\xfd")
	}
	if binary && zero { // xz has a zero in its mark, the others near it
		all = marksOf(all, text, 0, unpack.MarkXZ)
		all = marksOf(all, text, 5, sevenZip)
	}
	if zero {
		all = marksOf(all, text, 3, unpack.MarkLZ4, unpack.MarkLZ4Old)
		all = marksOf(all, text, 1, unpack.MarkLzip+"\x01")
		all = marksOf(all, text, 5, rar)
		all = append(all, aloneIn(text)...)
	}
	if zero || binary && !utf8.ValidString(text) {
		all = append(all, zlibIn(text)...)
	}
	return all
}

// aloneIn returns the positions at which LZMA alone may begin: with the usual models and a
// dictionary of 64 KiB at least, before text.
func aloneIn(text string) (all []int) {
	for _, at := range marksOf(nil, text, 0, "]\x00\x00") {
		if body := []byte(text[at:min(len(text), at+maxBegin)]); unpack.IsAlone(body) && beginsAlone(body) {
			all = append(all, at)
		}
	}
	return all
}

// marksOf adds the places of marks, of which the byte at rare is the same, and the one that other
// data has least.
func marksOf(all []int, text string, rare int, marks ...string) []int {
	for at := rare; at < len(text); at++ {
		i := strings.IndexByte(text[at:], marks[0][rare])
		if i < 0 {
			break
		}
		at += i
		for _, mark := range marks {
			if strings.HasPrefix(text[at-rare:], mark) {
				all = append(all, at-rare)
			}
		}
	}
	return all
}

// bzip2Block is what begins a block of bzip2, four bytes after the beginning of the first.
const bzip2Block = "1AY&SY"

// zlibIn returns the positions of zlib headers (RFC 1950 §2.2) that text follows.
func zlibIn(text string) (all []int) {
	var begin [4 * minBare]byte
	for at := 0; ; at++ {
		i := strings.IndexByte(text[at:], 'x')
		if i < 0 || at+i+2 >= len(text) {
			return all
		}
		at += i
		if strings.IndexByte("\x01\x5e\x9c\xda", text[at+1]) < 0 {
			continue
		}
		body := []byte(text[at+2 : min(len(text), at+maxBegin)])
		if beginsWithText(begin[:inflate.Begin("deflate", body, begin[:])]) {
			all = append(all, at)
		}
	}
}

// markStarts are the bytes that the marks of marksInData begin with.
var markStarts = func() (t [256]bool) {
	for _, m := range marks {
		t[m[0]] = true
	}
	return t
}()

// marksInData are the places at which something in decoded data may be compressed: see marksIn. Of
// what has too short a mark, it must begin with text.
func marksInData(data []byte) (all []int) {
	var begin [4 * minBare]byte
	for at, c := range data {
		if !markStarts[c] || !marked(data[at:]) {
			continue
		}
		rest := data[at:]
		switch {
		case c == 'x':
			body := rest[2:min(len(rest), 2+maxBegin)]
			if !beginsWithText(begin[:inflate.Begin("deflate", body, begin[:])]) {
				continue
			}
		case c == 'B' && (len(rest) < 10 || string(rest[4:10]) != bzip2Block):
			continue
		case c == ']' && (!unpack.IsAlone(rest) || !beginsAlone(rest)):
			continue
		}
		all = append(all, at)
	}
	return all
}

// diverse reports whether a run changes between cases and digits as often as base64 of compressed
// data, and has a digit near its start: names in code do not.
func diverse(text string) bool {
	if len(text) <= minPacked {
		return false
	}
	changes := 0
	for i := 1; i < minPacked; i++ {
		if kinds[text[i]] != kinds[text[i-1]] {
			changes++
		}
	}
	return changes*4 >= minPacked && strings.ContainsAny(text[:min(len(text), 4*minPacked)], "0123456789")
}

// marks are how data that members opens begins.
var marks = []string{
	localHeader, "\x1f\x8b\x08", "BZh", "\x28\xb5\x2f\xfd", "\x78\x01", "\x78\x5e", "\x78\x9c", "\x78\xda",
	unpack.MarkXZ, unpack.MarkLzip + "\x01", unpack.MarkLZ4, unpack.MarkLZ4Old, "]\x00\x00", sevenZip, rar,
}

func marked(data []byte) bool {
	return slices.ContainsFunc(marks, func(m string) bool { return bytes.HasPrefix(data, []byte(m)) })
}
