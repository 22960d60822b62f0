package secrets

import (
	"hash/maphash"
	"slices"
	"unicode/utf8"

	"airlock/internal/seenset"
)

const (
	// block is how much of a text is remembered at a time, in bytes, together with longest before and behind it.
	block = 16 << 10
	// maxBlocks bounds how many blocks are remembered, twice: 24 bytes each, for as much as half a gigabyte of text.
	maxBlocks = 32 << 10
)

// clean remembers blocks of text in which nothing was found: an agent sends its whole conversation again with every turn. A block is known by two
// hashes under seeds that nobody sees, so that no text can be made to look like another.
type clean struct {
	seenset.Set[[2]uint64]
	seeds [2]maphash.Seed
}

func newClean() *clean {
	return &clean{Set: seenset.Set[[2]uint64]{Max: maxBlocks}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// key is that of a block at [start,end) of a text, with its surroundings. Where the text begins or ends counts.
func (c *clean) key(text string, start, end int) (k [2]uint64) {
	var h maphash.Hash
	for i, seed := range c.seeds {
		h.SetSeed(seed)
		_, _ = h.WriteString(text[max(0, start-longest):min(len(text), end+longest)])
		_ = h.WriteByte(byte(min(start, 1)))
		_ = h.WriteByte(byte(min(max(0, len(text)-end-longest), 1)))
		k[i] = h.Sum64()
	}
	return k
}

// encodedKey is the key of an encoded block in which compressed data is looked for to that depth.
func (c *clean) encodedKey(body string, depth int) (k [2]uint64) {
	var h maphash.Hash
	for i, seed := range c.seeds {
		h.SetSeed(seed)
		_, _ = h.WriteString(body)
		_, _ = h.WriteString("\x00encoded")
		_ = h.WriteByte(byte(depth))
		k[i] = h.Sum64()
	}
	return k
}

// remembers reports whether blocks of a text of that size are remembered.
func (r *run) remembers(size int) bool {
	return r.scanner.clean != nil && r.path == "" && size >= block
}

// unsettled is the rule of spans that are no findings: what was decoded there is so long, and of such a kind, that a block of it may decode
// differently when something far away changes, as compressed data does. Such a block is never remembered.
const unsettled = "\x00unsettled"

// minUnsettled is the shortest run of base64 in decoded text that may hold compressed data longer than the surroundings of a block.
const minUnsettled = longest / 2

// unsettled returns the spans of a view that are derived from more than longest bytes of source in one piece, and hold a long run of base64 or hex,
// or data that is no text, or were undone as a whole.
func (s sight) unsettled(runs []stretch) (spans []span) {
	if s.is == nil {
		return nil
	}
	parts := s.is.parts
	for i := 0; i < len(parts); {
		first := i
		for i++; i < len(parts) && parts[i].from == parts[i-1].to; i++ {
		}
		start, end := parts[first].start, parts[i-1].end
		if max(end-start, parts[i-1].to-parts[first].from) <= longest {
			continue
		}
		encoded := slices.ContainsFunc(runs, func(r stretch) bool {
			return r.size() >= minUnsettled && r.start < end && r.end > start
		})
		// A string that is undone as a whole, however long: a part of it is not.
		whole := slices.ContainsFunc(parts[first:i], func(p part) bool { return p.step == 0 && p.to-p.from > longest })
		if encoded || whole || s.survey.any(ofZero) || s.survey.any(ofHigh) && !utf8.ValidString(s.text[start:end]) {
			spans = append(spans, span{rule: unsettled, start: start, end: end})
		}
	}
	return spans
}

// changed looks at those blocks of a text that are not known, and at what only the whole of it shows: strings that belong together, and
// compressed data.
func (r *run) changed(text string, archives int) ([]span, error) {
	c := r.scanner.clean
	all := c.key(text, 0, len(text))
	if c.Has(all) {
		return nil, nil
	}
	var blocks []seen
	unknown := 0
	for start := 0; start < len(text); start += block {
		b := seen{from: start, to: min(len(text), start+block)}
		b.key = c.key(text, b.from, b.to)
		if b.known = c.Has(b.key); !b.known {
			unknown++
		}
		blocks = append(blocks, b)
	}
	r.settled = r.settled[:0]
	look := r.rest
	if unknown == len(blocks) {
		look = func(text string, _ []seen, archives int) ([]span, error) { return r.written(text, archives) }
	}
	spans, err := look(text, blocks, archives)
	if err == nil && !r.nested && !r.open { // what is open is to be seen again, with what follows it
		r.remember(all, blocks, spans)
	}
	return slices.DeleteFunc(spans, func(s span) bool { return s.rule == unsettled }), err
}

// remember adds the blocks that neither hold nor touch a finding or anything unsettled; the whole text where there is no such place.
func (r *run) remember(all [2]uint64, blocks []seen, spans []span) {
	if len(spans) >= maxSpans {
		return
	}
	var keys [][2]uint64
	for _, b := range blocks {
		touched := slices.ContainsFunc(spans, func(s span) bool {
			around := longest
			if s.rule == unsettled {
				around = 0
			}
			return s.start < b.to+around && s.end > b.from-around
		})
		if !touched {
			keys = append(keys, b.key)
		}
	}
	if len(spans) == 0 {
		keys = append(append(keys, all), r.settled...)
	}
	r.scanner.clean.Add(keys...)
}

// seen is a block of a text, and whether it is known.
type seen struct {
	from, to int
	key      [2]uint64
	known    bool
}

// rest looks at a text of which some blocks are known.
func (r *run) rest(text string, blocks []seen, archives int) ([]span, error) {
	whole := sight{text: text, survey: newSurvey(text)}
	runs := whole.survey.runs(ofB64, minRun)
	spans, err := r.into(rejoin(whole), len(text), decodeDepth, archives, asWritten)
	if err != nil {
		return nil, err
	}
	spans = slices.DeleteFunc(spans, func(s span) bool { return s.rule == unsettled }) // these are looked at in every text
	packed, err := r.packed(whole, runs, archives)
	if err != nil {
		return nil, err
	}
	whole.survey.release()
	spans = append(spans, packed...)
	for i := 0; i < len(blocks); i++ {
		if blocks[i].known {
			continue
		}
		from := blocks[i].from
		for i+1 < len(blocks) && !blocks[i+1].known {
			i++
		}
		found, err := r.parts(text, from, blocks[i].to, archives)
		if err != nil {
			return nil, err
		}
		spans = append(spans, found...)
	}
	return spans, nil
}
