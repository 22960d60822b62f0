package secrets

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	"airlock/internal/inflate"
	"airlock/internal/unpack"
)

// packed looks into what a text has of archives and compressed data, in base64, hex or as they are. What an image has inside is left alone.
func (r *run) packed(in sight, runs []stretch, archives int) (spans []span, err error) {
	text := in.text
	if r.scanner.opts.ArchiveDepth == 0 {
		return nil, nil
	}
	add := func(s stretch, data []byte, one bool) {
		if err != nil || !r.try(data) {
			return
		}
		before := r.open
		var rules []string
		err = members(data, !one, r.member(&rules, archives)) // each of several has a mark of its own
		if s.end < len(text)-maxPadding {                     // what is behind it is there
			r.open = before
		}
		for _, rule := range rules {
			spans = append(spans, span{rule, s.start, s.end})
		}
	}
	for _, s := range runs {
		if !in.fresh(s.start, s.end) {
			continue
		}
		text := text
		if s.end == len(text) && len(in.raw) > len(text) { // it goes on behind the part
			for s.end < len(in.raw) && class[in.raw[s.end]]&isB64 != 0 {
				s.end++
			}
			text = string(in.raw[:s.end])
		}
		for shift := range min(4, s.end-s.start-minRun+1) {
			if body := text[s.start+shift : s.end]; marked64(body) || shift == 0 && len(body) > minPacked && diverse(body) && !goesOn(text, s.end) {
				if head := base64Code.decode(body[:min(len(body), 64)]); marked(head) || shift == 0 && opaque(head) {
					add(s, base64Code.decode(body), false)
				}
			}
		}
	}
	for _, s := range inside(text, runs, isHex, minHex) {
		if head := hexCode.decode(text[s.start : s.start+minHex]); marked(head) && in.fresh(s.start, s.end) {
			add(s, hexCode.decode(text[s.start:s.end]), false)
		}
	}
	data := in.raw
	for _, at := range marksIn(in) {
		if data == nil {
			data = []byte(text)
		}
		if at > 0 && in.fresh(at, at+4) { // at the very beginning it has been opened
			add(stretch{at, len(text)}, data[at:], true)
		}
	}
	return spans, err
}

// try counts what is opened, by what it costs to begin. What is LZMA pays for its models itself.
func (r *run) try(data []byte) bool {
	switch {
	case bytes.HasPrefix(data, []byte("\x28\xb5")), bytes.HasPrefix(data, []byte("BZh")):
		return r.pay(largeDecoder)
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		return r.pay(8)
	}
	return r.pay(1)
}

// pay counts what it costs to begin. Who has more than anybody needs is refused.
func (r *run) pay(n int) bool {
	r.tries -= n
	r.nested = r.nested || r.tries < 0
	return r.tries >= 0
}

const (
	// minPacked is the shortest base64 that may be something compressed without a mark, in characters.
	minPacked = 40
	// maxPadding is what may stand behind base64 that goes up to the end of a text, in bytes.
	maxPadding = 8
	// leastTries bounds what one Scan opens, counted in files of a zip; a long text has one more for every bytesPerTry.
	leastTries  = 16 << 10
	bytesPerTry = 64
	// maxBegin is from how much of a stream its beginning is inflated, in bytes.
	maxBegin = 1 << 10
)

// marksIn are the places at which something in a text may be compressed: gzip (RFC 1952), the files of a zip, zstd (RFC 8878), bzip2, zlib, xz, lzip,
// LZ4, LZMA, 7z.
func marksIn(s sight) (all []int) {
	text := s.text
	all = marksOf(all, text, 2, localHeader)
	for _, at := range marksOf(nil, text, 3, bzip2Block) {
		if at >= 4 && text[at-4:at-1] == "BZh" {
			all = append(all, at-4)
		}
	}
	binary, zero := s.survey.any(ofHigh), s.survey.any(ofZero)
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

// aloneIn are the places at which LZMA alone may stand: with the usual models and a dictionary of 64 KiB at least, before text.
func aloneIn(text string) (all []int) {
	for _, at := range marksOf(nil, text, 0, "]\x00\x00") {
		if body := []byte(text[at:min(len(text), at+maxBegin)]); unpack.IsAlone(body) && beginsAlone(body) {
			all = append(all, at)
		}
	}
	return all
}

// marksOf adds the places of marks, of which the byte at rare is the same, and the one that other data has least.
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

// bzip2Block is what begins a block of bzip2, four bytes behind the beginning of the first.
const bzip2Block = "1AY&SY"

// zlibIn are the places at which zlib's header (RFC 1950 §2.2) stands before text.
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
		if promising(begin[:inflate.Begin("deflate", body, begin[:])]) {
			all = append(all, at)
		}
	}
}

// goesOn tells whether a run is a line of something that was wrapped: that is tried as a whole, when it has been joined.
func goesOn(text string, end int) bool {
	rest := strings.TrimLeft(text[end:min(len(text), end+4)], "\r")
	return len(rest) > 1 && rest[0] == '\n' && class[rest[1]]&isB64 != 0
}

// diverse tells whether a run changes between cases and digits as often as base64 of compressed data, and has a digit soon: names of code do not.
func diverse(text string) bool {
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

// marked64 looks at the first characters of base64 whether it can begin with a mark.
func marked64(text string) bool {
	switch text[:2] {
	case "UE", "H4", "Ql", "KL", "eA", "eF", "eJ", "eN", "/T", "_T", "TF", "BC", "Ai", "XQ", "N3", "Um":
		return true
	}
	return false
}
