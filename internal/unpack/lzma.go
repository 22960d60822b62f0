package unpack

import "io"

// The names of the models are those of the LZMA specification (Igor Pavlov, lzma-specification.txt).
const (
	states    = 12
	maxPos    = 16 // states of a position
	endSlot   = 14 // distances from this slot on end in bits of their own
	firstProb = 1 << 10
	// maxLiteral bounds lc+lp: 6 MB of models.
	maxLiteral = 12
	// maxResets is how often the models may begin anew, and once more for each bytesPerReset that come out: it is the dearest thing to ask for.
	maxResets     = 1 << 10
	bytesPerReset = 1 << 10
)

type prob = uint16

// lengths are the models of a length.
type lengths struct {
	choice   [2]prob
	low, mid [maxPos][8]prob
	high     [256]prob
}

// model is all that a decoder has learned.
type model struct {
	lc, lp, pb uint
	literal    []prob

	match     [states][maxPos]prob
	rep       [states]prob
	repG0     [states]prob
	repG1     [states]prob
	repG2     [states]prob
	rep0Long  [states][maxPos]prob
	slot      [4][64]prob
	special   [128]prob
	align     [16]prob
	len       lengths
	repLen    lengths
	state     int
	distances [4]uint32 // less one
}

// newModel takes the byte that says how many bits of what select the models.
func newModel(props byte, most uint) (*model, error) {
	if props >= 9*5*5 {
		return nil, ErrCorrupt
	}
	m := &model{lc: uint(props % 9), lp: uint(props / 9 % 5), pb: uint(props / 45)}
	if m.lc+m.lp > most {
		return nil, ErrCorrupt
	}
	m.literal = make([]prob, 0x300<<(m.lc+m.lp))
	return m, nil
}

// reset forgets what was learned.
func (m *model) reset(o *output) error {
	if o.resets++; o.resets > maxResets+len(o.out)/bytesPerReset {
		return ErrUnknown
	}
	fill(m.literal)
	for s := range states {
		fill(m.match[s][:])
		fill(m.rep0Long[s][:])
	}
	for _, p := range [][]prob{m.rep[:], m.repG0[:], m.repG1[:], m.repG2[:], m.special[:], m.align[:], m.slot[0][:], m.slot[1][:], m.slot[2][:], m.slot[3][:]} {
		fill(p)
	}
	m.len.reset()
	m.repLen.reset()
	m.state, m.distances = 0, [4]uint32{}
	return nil
}

func (l *lengths) reset() {
	fill(l.choice[:])
	fill(l.high[:])
	for i := range l.low {
		fill(l.low[i][:])
		fill(l.mid[i][:])
	}
}

func fill(p []prob) {
	for i := range p {
		p[i] = firstProb
	}
}

// coder reads bits of the range coder. It gives zeros behind the end, and says so.
type coder struct {
	in          []byte
	at          int
	code, width uint32
	short       bool
}

// start reads what each stream begins with: a zero byte, and the first four of the code.
func (c *coder) start(in []byte) error {
	*c = coder{in: in, width: 1<<32 - 1}
	if len(in) > 0 && in[0] != 0 {
		return ErrCorrupt
	}
	if len(in) < 5 {
		c.short = true
		return nil
	}
	c.at = 5
	c.code = uint32(in[1])<<24 | uint32(in[2])<<16 | uint32(in[3])<<8 | uint32(in[4])
	return nil
}

func (c *coder) normalize() {
	if c.width < 1<<24 {
		c.width <<= 8
		c.code <<= 8
		if c.at < len(c.in) {
			c.code |= uint32(c.in[c.at])
			c.at++
		} else {
			c.short = true
		}
	}
}

func (c *coder) bit(p *prob) int {
	c.normalize()
	bound := (c.width >> 11) * uint32(*p)
	if c.code < bound {
		c.width = bound
		*p += (1<<11 - *p) >> 5
		return 0
	}
	c.width -= bound
	c.code -= bound
	*p -= *p >> 5
	return 1
}

// tree reads n bits, the highest first.
func (c *coder) tree(p []prob, n int) int {
	m := 1
	for range n {
		m = m<<1 | c.bit(&p[m])
	}
	return m - 1<<n
}

// reverse reads n bits, the lowest first.
func (c *coder) reverse(p []prob, n int) (value uint32) {
	m := 1
	for i := range n {
		b := c.bit(&p[m])
		m = m<<1 | b
		value |= uint32(b) << i
	}
	return value
}

// direct reads n bits that nothing is known of.
func (c *coder) direct(n int) (value uint32) {
	for range n {
		c.normalize()
		c.width >>= 1
		c.code -= c.width
		lower := 0 - c.code>>31 // all ones where the bit is 0
		c.code += c.width & lower
		value = value<<1 + lower + 1
	}
	return value
}

func (c *coder) length(l *lengths, pos int) int {
	switch {
	case c.bit(&l.choice[0]) == 0:
		return 2 + c.tree(l.low[pos][:], 3)
	case c.bit(&l.choice[1]) == 0:
		return 10 + c.tree(l.mid[pos][:], 3)
	}
	return 18 + c.tree(l.high[:], 8)
}

// endless is the size of a stream that ends with a mark.
const endless = -1

// decode reads size bytes, or up to the mark of the end. It is io.ErrUnexpectedEOF when the input ends before.
func (m *model) decode(c *coder, o *output, size int64) error {
	posMask := 1<<m.pb - 1
	for begin := int64(len(o.out)); size == endless || int64(len(o.out))-begin < size; {
		if c.short {
			return io.ErrUnexpectedEOF
		}
		pos := (len(o.out) - o.base) & posMask
		if c.bit(&m.match[m.state][pos]) == 0 {
			b := m.byte(c, o)
			if c.short {
				return io.ErrUnexpectedEOF
			}
			if len(o.out) == cap(o.out) {
				if err := o.need(1); err != nil {
					return err
				}
			}
			o.out = append(o.out, b)
			continue
		}
		n := m.repeated(c, pos)
		if c.short {
			return io.ErrUnexpectedEOF
		}
		if m.distances[0] == 1<<32-1 {
			c.normalize()
			if size == endless {
				return nil
			}
			return ErrCorrupt
		}
		if size != endless {
			n = int(min(int64(n), begin+size-int64(len(o.out))))
		}
		if err := o.repeat(int(m.distances[0])+1, n); err != nil {
			return err
		}
	}
	return nil
}

// byte reads a literal.
func (m *model) byte(c *coder, o *output) byte {
	before, at := 0, len(o.out)-o.base
	if at > 0 {
		before = int(o.out[len(o.out)-1])
	}
	p := m.literal[0x300*((at&(1<<m.lp-1))<<m.lc+before>>(8-m.lc)):][:0x300]
	symbol := 1
	if back := int64(m.distances[0]) + 1; m.state >= 7 && back <= int64(at) {
		expected := int(o.out[len(o.out)-int(back)])
		for symbol < 0x100 {
			e := expected >> 7 & 1
			expected <<= 1
			b := c.bit(&p[(1+e)<<8+symbol])
			symbol = symbol<<1 | b
			if b != e {
				break
			}
		}
	}
	for symbol < 0x100 {
		symbol = symbol<<1 | c.bit(&p[symbol])
	}
	m.state = afterByte[m.state]
	return byte(symbol)
}

var afterByte = [states]int{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5}

// after is the state behind a repetition: low behind a literal, else high.
func (m *model) after(low, high int) {
	if m.state < 7 {
		m.state = low
	} else {
		m.state = high
	}
}

// repeated reads how long a repetition is; its distance is then the first.
func (m *model) repeated(c *coder, pos int) int {
	d := &m.distances
	if c.bit(&m.rep[m.state]) == 0 {
		n := c.length(&m.len, pos)
		d[3], d[2], d[1] = d[2], d[1], d[0]
		d[0] = m.distance(c, n)
		m.after(7, 10)
		return n
	}
	if c.bit(&m.repG0[m.state]) == 0 {
		if c.bit(&m.rep0Long[m.state][pos]) == 0 {
			m.after(9, 11)
			return 1
		}
	} else {
		far := d[1]
		if c.bit(&m.repG1[m.state]) == 1 {
			far = d[2]
			if c.bit(&m.repG2[m.state]) == 1 {
				far, d[3] = d[3], d[2]
			}
			d[2] = d[1]
		}
		d[1], d[0] = d[0], far
	}
	n := c.length(&m.repLen, pos)
	m.after(8, 11)
	return n
}

// distance reads that of a repetition of n bytes.
func (m *model) distance(c *coder, n int) uint32 {
	slot := c.tree(m.slot[min(n-2, 3)][:], 6)
	if slot < 4 {
		return uint32(slot)
	}
	bits := slot>>1 - 1
	distance := uint32(2|slot&1) << bits
	if slot < endSlot {
		return distance + c.reverse(m.special[int(distance)-slot:], bits)
	}
	return distance + c.direct(bits-4)<<4 + c.reverse(m.align[:], 4)
}
