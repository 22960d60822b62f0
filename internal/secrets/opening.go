package secrets

import (
	"regexp/syntax"
	"slices"
	"sync"
	"sync/atomic"
)

// opening tells whether a text may begin with what an expression matches: a deterministic automaton over bytes, whose states are made as texts
// ask for them. It errs on one side only: all assertions but that of the end ($) always hold, and where a character beyond ASCII may follow, the
// answer is yes.
type opening struct {
	prog    *syntax.Prog
	class   [256]uint8
	samples []rune // a character of each class

	start *state
	mu    sync.Mutex
	known map[string]*state
}

// state is a set of places in the expression. dead and certain are the two ends.
type state struct {
	places []uint32
	ends   bool                    // here a match may end where the text does
	next   []atomic.Pointer[state] // by class; nil: not asked yet
}

var dead, certain = &state{}, &state{}

// maxOpening bounds the states of one expression; beyond, the answer is yes.
const maxOpening = 2000

// maxLook bounds a look, in bytes; what goes on beyond may be a match.
const maxLook = 1 << 10

// openingOf is nil for an expression that is too large.
func openingOf(re *syntax.Regexp) *opening {
	o, err := newOpening(re)
	if err != nil {
		return nil
	}
	return o
}

func newOpening(re *syntax.Regexp) (*opening, error) {
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, err
	}
	o := &opening{prog: prog, known: map[string]*state{}}
	o.classify()
	o.start = o.state(o.closure(nil, uint32(prog.Start), false))
	return o, nil
}

// begins tells whether text may begin with a match.
func (o *opening) begins(text string) bool {
	s, cut := o.start, len(text) > maxLook
	for i := 0; i < min(len(text), maxLook) && s != certain; i++ {
		if s == dead {
			return false
		}
		class := o.class[text[i]]
		next := s.next[class].Load()
		if next == nil {
			next = o.step(s, class)
		}
		s = next
	}
	return s == certain || s != dead && (cut || s.ends)
}

// beyond is the class of every byte that is not ASCII.
const beyond = 0

// classify puts bytes between which the expression makes no difference into one class.
func (o *opening) classify() {
	var borders [129]bool
	for i := range o.prog.Inst {
		in := &o.prog.Inst[i]
		for c := rune(1); c < 128; c++ {
			if in.Op >= syntax.InstRune && in.MatchRune(c) != in.MatchRune(c-1) {
				borders[c] = true
			}
		}
	}
	o.samples = []rune{'é', 0}
	for c := range 128 {
		if borders[c] {
			o.samples = append(o.samples, rune(c))
		}
		o.class[c] = uint8(len(o.samples) - 1)
	}
}

// step finds the state behind s and a byte of the class.
func (o *opening) step(s *state, class uint8) *state {
	o.mu.Lock()
	defer o.mu.Unlock()
	var places []uint32
	for _, at := range s.places {
		if o.prog.Inst[at].Op >= syntax.InstRune && o.takes(&o.prog.Inst[at], class) {
			if class == beyond {
				places = nil
				s.next[class].Store(certain)
				return certain
			}
			places = o.closure(places, o.prog.Inst[at].Out, false)
		}
	}
	next := o.state(places)
	s.next[class].Store(next)
	return next
}

// takes leaves out the long s and the Kelvin sign, which folding adds to letters (see widest).
func (o *opening) takes(in *syntax.Inst, class uint8) bool {
	if class != beyond {
		return in.MatchRune(o.samples[class])
	}
	switch in.Op {
	case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return true
	case syntax.InstRune1:
		return in.Rune[0] >= 0x80
	}
	return widest(in.Rune) > 1
}

// closure adds a place and all that can be reached from it without a byte; end says that the text ends there.
func (o *opening) closure(places []uint32, at uint32, end bool) []uint32 {
	if slices.Contains(places, at) {
		return places
	}
	in := &o.prog.Inst[at]
	switch in.Op {
	case syntax.InstFail:
		return places
	case syntax.InstAlt, syntax.InstAltMatch:
		places = append(places, at)
		return o.closure(o.closure(places, in.Out, end), in.Arg, end)
	case syntax.InstCapture, syntax.InstNop, syntax.InstEmptyWidth:
		places = append(places, at)
		if atEnd(in) && !end {
			return places
		}
		return o.closure(places, in.Out, end)
	}
	return append(places, at)
}

// atEnd tells whether an instruction asks for the end of the text.
func atEnd(in *syntax.Inst) bool {
	return in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&syntax.EmptyEndText != 0
}

// ends tells whether a match may end at a place when the text does.
func (o *opening) ends(at uint32) bool {
	return slices.ContainsFunc(o.closure(nil, at, true), func(at uint32) bool { return o.prog.Inst[at].Op == syntax.InstMatch })
}

// state is the one for a set of places, each of which takes a byte, ends a match, or asks for the end.
func (o *opening) state(places []uint32) *state {
	places = slices.DeleteFunc(places, func(at uint32) bool {
		in := &o.prog.Inst[at]
		return in.Op < syntax.InstRune && in.Op != syntax.InstMatch && !atEnd(in)
	})
	slices.Sort(places)
	var key []byte
	for _, at := range places {
		if o.prog.Inst[at].Op == syntax.InstMatch {
			return certain
		}
		key = append(key, byte(at), byte(at>>8), byte(at>>16))
	}
	if len(places) == 0 {
		return dead
	}
	s, ok := o.known[string(key)]
	if !ok {
		if len(o.known) == maxOpening {
			return certain
		}
		s = &state{places: places, ends: slices.ContainsFunc(places, o.ends), next: make([]atomic.Pointer[state], len(o.samples))}
		o.known[string(key)] = s
	}
	return s
}
