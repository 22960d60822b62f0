package objects

import "fmt"

// deltaSize reads one of the two sizes at the head of a delta.
func deltaSize(delta []byte) (size int64, rest []byte, err error) {
	for shift := 0; len(delta) > 0 && shift < 63; shift += 7 {
		b := delta[0]
		delta = delta[1:]
		size |= int64(b&0x7f) << shift
		if b < 0x80 {
			return size, delta, nil
		}
	}
	return 0, nil, fmt.Errorf("%w: bad size in a delta", ErrCorrupt)
}

// deltaTarget is the size of what a delta makes; head holds at least its first 20 bytes or all of it.
func deltaTarget(head []byte) (int64, error) {
	_, rest, err := deltaSize(head)
	if err != nil {
		return 0, err
	}
	size, _, err := deltaSize(rest)
	return size, err
}

// applyDelta rebuilds an object. The sizes in the delta bind: nothing longer is ever built.
func applyDelta(base, delta []byte) ([]byte, error) {
	want, ops, err := deltaSize(delta)
	if err != nil {
		return nil, err
	}
	size, ops, err := deltaSize(ops)
	if err != nil || want != int64(len(base)) {
		return nil, fmt.Errorf("%w: delta does not fit its base", ErrCorrupt)
	}
	out := make([]byte, 0, size)
	for len(ops) > 0 {
		var piece []byte
		if piece, ops, err = nextPiece(base, ops); err != nil {
			return nil, err
		}
		if int64(len(out)+len(piece)) > size {
			return nil, fmt.Errorf("%w: delta makes more than it says", ErrCorrupt)
		}
		out = append(out, piece...)
	}
	if int64(len(out)) != size {
		return nil, fmt.Errorf("%w: delta makes less than it says", ErrCorrupt)
	}
	return out, nil
}

// nextPiece is one instruction: a copy out of the base, or bytes that stand in the delta.
func nextPiece(base, ops []byte) (piece, rest []byte, err error) {
	op := ops[0]
	ops = ops[1:]
	if op&0x80 != 0 {
		return copied(base, ops, op)
	}
	if op == 0 || len(ops) < int(op) {
		return nil, nil, fmt.Errorf("%w: bad instruction in a delta", ErrCorrupt)
	}
	return ops[:op], ops[op:], nil
}

func copied(base, ops []byte, op byte) (piece, rest []byte, err error) {
	var args [7]byte
	for i := range args {
		if op&(1<<i) == 0 {
			continue
		}
		if len(ops) == 0 {
			return nil, nil, fmt.Errorf("%w: delta breaks off", ErrCorrupt)
		}
		args[i], ops = ops[0], ops[1:]
	}
	from := int64(args[0]) | int64(args[1])<<8 | int64(args[2])<<16 | int64(args[3])<<24
	n := int64(args[4]) | int64(args[5])<<8 | int64(args[6])<<16
	if n == 0 {
		n = 0x10000
	}
	if from+n > int64(len(base)) {
		return nil, nil, fmt.Errorf("%w: delta copies from beyond its base", ErrCorrupt)
	}
	return base[from : from+n], ops, nil
}
