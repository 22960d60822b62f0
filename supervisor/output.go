package supervisor

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync/atomic"
)

const (
	maxLine   = 64 << 10 // bytes; the rest of a longer line is dropped and marked
	ringLines = 4096     // lines that may wait for whoever reads our output
)

// output writes the lines of all daemons to one stream. It never waits for
// that stream's reader: what does not fit into the ring is counted and lost.
type output struct {
	lines   chan []byte
	dropped atomic.Uint64
	masks   [][]byte
}

func newOutput(secrets map[string]string) *output {
	o := &output{lines: make(chan []byte, ringLines)}
	for _, value := range secrets {
		if len(value) >= 8 {
			o.masks = append(o.masks, []byte(value))
		}
	}
	return o
}

// write copies lines to w until close.
func (o *output) write(w io.Writer) {
	for line := range o.lines {
		_, _ = w.Write(line) // nobody is left to tell
	}
}

// put queues one line.
func (o *output) put(daemon string, line []byte) {
	for _, secret := range o.masks {
		line = bytes.ReplaceAll(line, secret, []byte("[masked]"))
	}
	full := make([]byte, 0, len(daemon)+len(line)+4)
	full = append(full, '[')
	full = append(full, daemon...)
	full = append(full, "] "...)
	full = append(append(full, line...), '\n')
	select {
	case o.lines <- full:
	default:
		o.dropped.Add(1)
	}
}

// copy reads a child's stream line by line until it ends.
func (o *output) copy(daemon string, r io.ReadCloser) {
	defer r.Close()
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			o.put(daemon, append(bytes.Clone(line), "… (cut)"...))
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = br.ReadSlice('\n')
			}
		} else if len(line) > 0 {
			o.put(daemon, bytes.TrimSuffix(line, []byte("\n")))
		}
		if err != nil {
			return
		}
	}
}
