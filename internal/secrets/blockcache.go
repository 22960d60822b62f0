package secrets

import (
	"hash/maphash"
	"slices"
	"unicode/utf8"

	"airlock/internal/seenset"
)

const (
	// block is the size of a cached block, in bytes; it is hashed with longest bytes before and
	// after it.
	block = 16 << 10
	// maxBlocks bounds the cached blocks, twice: 24 bytes each, for as much as half a gigabyte of
	// text.
	maxBlocks = 32 << 10
)

// blockCache remembers blocks of text that were scanned clean: an agent sends its whole
// conversation again with every turn. A block is identified by two hashes with secret seeds, so
// that no text can be crafted to collide with another.
type blockCache struct {
	seenset.Set[[2]uint64]
	seeds [2]maphash.Seed
}

func newBlockCache() *blockCache {
	return &blockCache{Set: seenset.Set[[2]uint64]{Max: maxBlocks}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
}

// key is that of the block [start,end) of a text, with its surroundings. It depends on whether the
// text starts or ends there.
func (c *blockCache) key(text string, start, end int) (k [2]uint64) {
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

// encodedKey is the key of an encoded block that is searched for compressed data to that depth.
func (c *blockCache) encodedKey(body string, depth int) (k [2]uint64) {
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

// usesCache reports whether blocks of a text of that size are cached.
func (r *run) usesCache(size int) bool {
	return r.scanner.cache != nil && r.path == "" && size >= block
}

// uncacheable is the rule of spans that are not findings: so much was decoded there, and of such a
// kind, that a block of it may decode differently when something far away changes, as compressed
// data does. Such a block is never cached.
const uncacheable = "\x00unsettled"

// minUncacheable is the shortest run of base64 in decoded text that may hold compressed data longer
// than the surroundings of a block.
const minUncacheable = longest / 2

// uncacheable returns the spans of a view that are derived from more than longest bytes of source
// in one piece, and hold a long run of base64 or hex, or data that is not text, or were decoded as
// a whole.
func (s input) uncacheable(runs []stretch) (spans []span) {
	if s.view == nil {
		return nil
	}
	parts := s.view.parts
	for i := 0; i < len(parts); {
		first := i
		for i++; i < len(parts) && parts[i].from == parts[i-1].to; i++ {
		}
		start, end := parts[first].start, parts[i-1].end
		if max(end-start, parts[i-1].to-parts[first].from) <= longest {
			continue
		}
		encoded := slices.ContainsFunc(runs, func(r stretch) bool {
			return r.size() >= minUncacheable && r.start < end && r.end > start
		})
		// A string that is decoded only as a whole, however long.
		whole := slices.ContainsFunc(parts[first:i], func(p part) bool { return p.step == 0 && p.to-p.from > longest })
		if encoded || whole || s.index.any(ofZero) || s.index.any(ofHigh) && !utf8.ValidString(s.text[start:end]) {
			spans = append(spans, span{rule: uncacheable, start: start, end: end})
		}
	}
	return spans
}

// scanNew scans those blocks of a text that are not cached, and what only the whole of it shows:
// strings that belong together, and compressed data.
func (r *run) scanNew(text string, archives int) ([]span, error) {
	c := r.scanner.cache
	all := c.key(text, 0, len(text))
	if c.Has(all) {
		return nil, nil
	}
	var blocks []blockState
	unknown := 0
	for start := 0; start < len(text); start += block {
		b := blockState{from: start, to: min(len(text), start+block)}
		b.key = c.key(text, b.from, b.to)
		if b.known = c.Has(b.key); !b.known {
			unknown++
		}
		blocks = append(blocks, b)
	}
	r.cleanKeys = r.cleanKeys[:0]
	look := r.scanUnknown
	if unknown == len(blocks) {
		look = func(text string, _ []blockState, archives int) ([]span, error) { return r.scanWhole(text, archives) }
	}
	spans, err := look(text, blocks, archives)
	if err == nil && !r.nested && !r.open { // what is open is to be seen again, with what follows it
		r.addClean(all, blocks, spans)
	}
	return slices.DeleteFunc(spans, func(s span) bool { return s.rule == uncacheable }), err
}

// addClean caches the blocks that neither hold nor touch a finding or anything uncacheable; the
// whole text where there is no such place.
func (r *run) addClean(all [2]uint64, blocks []blockState, spans []span) {
	if len(spans) >= maxSpans {
		return
	}
	var keys [][2]uint64
	for _, b := range blocks {
		touched := slices.ContainsFunc(spans, func(s span) bool {
			around := longest
			if s.rule == uncacheable {
				around = 0
			}
			return s.start < b.to+around && s.end > b.from-around
		})
		if !touched {
			keys = append(keys, b.key)
		}
	}
	if len(spans) == 0 {
		keys = append(append(keys, all), r.cleanKeys...)
	}
	r.scanner.cache.Add(keys...)
}

// blockState is a block of a text, and whether it is cached.
type blockState struct {
	from, to int
	key      [2]uint64
	known    bool
}

// scanUnknown scans a text of which some blocks are cached.
func (r *run) scanUnknown(text string, blocks []blockState, archives int) ([]span, error) {
	whole := input{text: text, index: newByteIndex(text)}
	runs := whole.index.runs(ofB64, minRun)
	spans, err := r.scanViews(rejoin(whole), len(text), decodeDepth, archives, asWritten)
	if err != nil {
		return nil, err
	}
	spans = slices.DeleteFunc(spans, func(s span) bool { return s.rule == uncacheable }) // these are looked at in every text
	packed, err := r.packed(whole, runs, archives)
	if err != nil {
		return nil, err
	}
	whole.index.release()
	spans = append(spans, packed...)
	for i := 0; i < len(blocks); i++ {
		if blocks[i].known {
			continue
		}
		from := blocks[i].from
		for i+1 < len(blocks) && !blocks[i+1].known {
			i++
		}
		found, err := r.scanParts(text, from, blocks[i].to, archives)
		if err != nil {
			return nil, err
		}
		spans = append(spans, found...)
	}
	return spans, nil
}
