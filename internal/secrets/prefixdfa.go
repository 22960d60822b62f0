package secrets

import (
	"regexp/syntax"
	"slices"
	"sync"
	"sync/atomic"
)

// prefixDFA reports whether a text may begin with a match of an expression. It is a DFA over bytes
// whose states are built lazily. It has no false negatives: all assertions but that of the end ($)
// always hold, and where a character beyond ASCII may follow, the answer is yes.
type prefixDFA struct {
	prog    *syntax.Prog
	class   [256]uint8
	samples []rune // a character of each class

	start  *state
	mu     sync.Mutex
	states map[string]*state
}

// state is a set of instructions of the expression. dead and certain are the two final states.
type state struct {
	places []uint32
	ends   bool                    // here a match may end where the text does
	next   []atomic.Pointer[state] // by class; nil: not asked yet
}

var dead, certain = &state{}, &state{}

// maxDFAStates bounds the states of one expression; beyond it the answer is yes.
const maxDFAStates = 2000

// maxPrefix bounds how many bytes are read; a longer prefix may be a match.
const maxPrefix = 1 << 10

// prefixDFAOf returns nil for an expression that is too large.
func prefixDFAOf(re *syntax.Regexp) *prefixDFA {
	o, err := newPrefixDFA(re)
	if err != nil {
		return nil
	}
	return o
}

func newPrefixDFA(re *syntax.Regexp) (*prefixDFA, error) {
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, err
	}
	o := &prefixDFA{prog: prog, states: map[string]*state{}}
	o.classify()
	o.start = o.state(o.closure(nil, uint32(prog.Start), false))
	return o, nil
}

// mayMatch reports whether text may begin with a match.
func (o *prefixDFA) mayMatch(text string) bool {
	s, truncated := o.start, len(text) > maxPrefix
	for i := 0; i < min(len(text), maxPrefix) && s != certain; i++ {
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
	return s == certain || s != dead && (truncated || s.ends)
}

// beyond is the class of every byte that is not ASCII.
const beyond = 0

// classify puts bytes that the expression does not distinguish into one class.
func (o *prefixDFA) classify() {
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

// step returns the state after s and a byte of the class.
func (o *prefixDFA) step(s *state, class uint8) *state {
	o.mu.Lock()
	defer o.mu.Unlock()
	var places []uint32
	for _, at := range s.places {
		if o.prog.Inst[at].Op >= syntax.InstRune && o.accepts(&o.prog.Inst[at], class) {
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

// accepts reports whether an instruction matches a byte of the class. It excludes the long s and
// the Kelvin sign, which folding adds to letters (see maxRuneBytes).
func (o *prefixDFA) accepts(in *syntax.Inst, class uint8) bool {
	if class != beyond {
		return in.MatchRune(o.samples[class])
	}
	switch in.Op {
	case syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return true
	case syntax.InstRune1:
		return in.Rune[0] >= 0x80
	}
	return maxRuneBytes(in.Rune) > 1
}

// closure adds a place and all that can be reached from it without a byte; end says that the text
// ends there.
func (o *prefixDFA) closure(places []uint32, at uint32, end bool) []uint32 {
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

// atEnd reports whether an instruction asserts the end of the text.
func atEnd(in *syntax.Inst) bool {
	return in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&syntax.EmptyEndText != 0
}

// ends reports whether a match may end at an instruction when the text does.
func (o *prefixDFA) ends(at uint32) bool {
	return slices.ContainsFunc(o.closure(nil, at, true), func(at uint32) bool { return o.prog.Inst[at].Op == syntax.InstMatch })
}

// state returns the state for a set of instructions, each of which consumes a byte, ends a match,
// or asserts the end.
func (o *prefixDFA) state(places []uint32) *state {
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
	s, ok := o.states[string(key)]
	if !ok {
		if len(o.states) == maxDFAStates {
			return certain
		}
		s = &state{places: places, ends: slices.ContainsFunc(places, o.ends), next: make([]atomic.Pointer[state], len(o.samples))}
		o.states[string(key)] = s
	}
	return s
}
