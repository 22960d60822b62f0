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
	size, err := deltaTarget(delta)
	if err != nil {
		return nil, err
	}
	return applyDeltaTo(make([]byte, 0, size), base, delta)
}

// applyDeltaTo is applyDelta into a buffer that is empty and has room for just what the delta makes.
func applyDeltaTo(out, base, delta []byte) ([]byte, error) {
	want, ops, err := deltaSize(delta)
	if err != nil {
		return nil, err
	}
	size, ops, err := deltaSize(ops)
	if err != nil || want != int64(len(base)) || size > int64(cap(out)) {
		return nil, fmt.Errorf("%w: delta does not fit its base", ErrCorrupt)
	}
	for len(ops) > 0 {
		op := ops[0]
		piece := ops[1:]
		switch {
		case op&0x80 != 0:
			if piece, ops, err = copied(base, piece, op); err != nil {
				return nil, err
			}
		case op == 0 || len(piece) < int(op):
			return nil, fmt.Errorf("%w: bad instruction in a delta", ErrCorrupt)
		default:
			piece, ops = piece[:op], piece[op:]
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

// copied is a copy out of the base.
func copied(base, ops []byte, op byte) (piece, rest []byte, err error) {
	var from, n int64
	for i := range 7 {
		if op&(1<<i) == 0 {
			continue
		}
		if len(ops) == 0 {
			return nil, nil, fmt.Errorf("%w: delta breaks off", ErrCorrupt)
		}
		if i < 4 {
			from |= int64(ops[0]) << (8 * i)
		} else {
			n |= int64(ops[0]) << (8 * (i - 4))
		}
		ops = ops[1:]
	}
	if n == 0 {
		n = 0x10000
	}
	if from+n > int64(len(base)) {
		return nil, nil, fmt.Errorf("%w: delta copies from beyond its base", ErrCorrupt)
	}
	return base[from : from+n], ops, nil
}
