package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Verify reads a chain from its beginning and returns how many entries it has
// and the hash of the last one, which is what the next would refer to. An
// entry that was changed, moved, cut out or added is named by its line.
func Verify(r io.Reader) (entries uint64, last string, err error) {
	br := bufio.NewReaderSize(r, 2*maxLine)
	for {
		line, err := br.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return entries, last, nil
		case err == io.EOF:
			return entries, last, fmt.Errorf("line %d: cut off in the middle", entries+1)
		case err != nil:
			return entries, last, fmt.Errorf("line %d: %w", entries+1, err)
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		if err := follows(line, entries, last); err != nil {
			return entries, last, err
		}
		entries, last = entries+1, hash(line)
	}
}

func follows(line []byte, entries uint64, last string) error {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("line %d: not an entry", entries+1)
	}
	if e.Seq != entries+1 {
		return fmt.Errorf("line %d: has number %d: lines are missing, doubled or in another order", entries+1, e.Seq)
	}
	if e.Prev != last {
		return fmt.Errorf("line %d: the line before it was changed", entries+1)
	}
	return nil
}
