package secrets

import (
	"hash/maphash"
	"sync"
)

const (
	// block is how much of a text is remembered at a time, in bytes, together with longest before and behind it.
	block = 16 << 10
	// maxBlocks bounds how many blocks each of two generations remembers: 24 bytes each, for as much as half a gigabyte of text.
	maxBlocks = 32 << 10
)

// clean remembers blocks of text in which nothing was found: an agent sends its whole conversation again with every turn. A block is known by two
// hashes under seeds that nobody sees, so that no text can be made to look like another.
type clean struct {
	seeds [2]maphash.Seed

	mu       sync.Mutex
	now, old map[[2]uint64]struct{}
}

func newClean() *clean {
	return &clean{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, now: map[[2]uint64]struct{}{}}
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

// has tells whether nothing was found in a block.
func (c *clean) has(k [2]uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.now[k]
	if !ok {
		if _, ok = c.old[k]; ok {
			c.keep(k)
		}
	}
	return ok
}

// add remembers blocks.
func (c *clean) add(keys [][2]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range keys {
		c.keep(k)
	}
}

func (c *clean) keep(k [2]uint64) {
	if len(c.now) >= maxBlocks {
		c.old, c.now = c.now, map[[2]uint64]struct{}{}
	}
	c.now[k] = struct{}{}
}

// changed looks at those blocks of a text that are not known, and at what only the whole of it shows: strings that belong together, and archives.
func (r *run) changed(text string, archives int) ([]span, error) {
	whole := sight{text: text}
	spans, err := r.into(rejoin(whole), len(text), decodeDepth, archives, asWritten)
	if err != nil {
		return nil, err
	}
	packed, err := r.packed(whole, runsOf(text, isB64, minRun), archives)
	if err != nil {
		return nil, err
	}
	spans = append(spans, packed...)
	var keys [][2]uint64
	from := 0 // where the blocks that are not known began
	for start := 0; start < len(text); start += block {
		end := min(len(text), start+block)
		k := r.scanner.clean.key(text, start, end)
		known := r.scanner.clean.has(k)
		if !known {
			if len(keys) == 0 {
				from = start
			}
			keys = append(keys, k)
		}
		if len(keys) > 0 && (known || end == len(text)) {
			to := end
			if known {
				to = start
			}
			found, err := r.part(text, from, to, archives)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 && !r.nested {
				r.scanner.clean.add(keys)
			}
			spans, keys = append(spans, found...), nil
		}
	}
	return spans, nil
}

// part looks at a part of a text and what surrounds it. What touches an edge was cut there: its neighbour sees it whole.
func (r *run) part(text string, from, to, archives int) (spans []span, err error) {
	start, end := max(0, from-longest), min(len(text), to+longest)
	before := r.open
	found, err := r.look(sight{text: text[start:end]}, decodeDepth, archives, asWritten)
	if end < len(text) {
		r.open = before
	}
	for _, s := range found {
		s.start, s.end = s.start+start, s.end+start
		if (start == 0 || s.start >= start+margin) && (end == len(text) || s.end <= end-margin) {
			spans = append(spans, s)
		}
	}
	return spans, err
}
