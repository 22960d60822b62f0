package secrets

import (
	"hash/maphash"

	"airlock/internal/recent"
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
	recent.Set[[2]uint64]
	seeds [2]maphash.Seed
}

func newClean() *clean {
	return &clean{Set: recent.Set[[2]uint64]{Max: maxBlocks}, seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}
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

// changed looks at those blocks of a text that are not known, and at what only the whole of it shows: strings that belong together, and archives.
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
	look := r.rest
	if unknown == len(blocks) {
		look = func(text string, _ []seen, archives int) ([]span, error) { return r.written(text, archives) }
	}
	spans, err := look(text, blocks, archives)
	if err != nil || len(spans) > 0 || r.nested || r.open { // what is open is to be seen again, with what comes behind it
		return spans, err
	}
	keys := [][2]uint64{all}
	for _, b := range blocks {
		keys = append(keys, b.key)
	}
	c.Add(keys...)
	return nil, nil
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
