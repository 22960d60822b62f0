package gitgate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// maxPkt is the longest packet, its four digits included.
const maxPkt = 65520

// errFlush is a flush packet where a line was wanted; errDelim is protocol v2's delimiter, errEnd the end of an answer.
var (
	errFlush = errors.New("flush packet")
	errDelim = errors.New("delimiter packet")
	errEnd   = errors.New("response-end packet")
)

// readPkt reads one packet; errFlush says that it was a flush. io.EOF comes only before the first byte.
func readPkt(r *bufio.Reader) ([]byte, error) { return readPktOf(r, maxPkt) }

// readPktOf reads one packet of at most so many bytes, its four digits included.
func readPktOf(r *bufio.Reader, most uint64) ([]byte, error) {
	var digits [4]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	switch {
	case err != nil || n > most:
		return nil, errors.New("malformed packet length")
	case n == 0:
		return nil, errFlush
	case n == 1:
		return nil, errDelim
	case n == 2:
		return nil, errEnd
	case n == 3:
		return nil, errors.New("malformed packet length")
	}
	data := make([]byte, n-4)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return data, nil
}

// readLine is readPkt for text: the newline at the end is not part of it.
func readLine(r *bufio.Reader) (string, error) {
	data, err := readPkt(r)
	return strings.TrimSuffix(string(data), "\n"), err
}

// writePkt writes one packet; data must fit.
func writePkt(w io.Writer, data string) error {
	_, err := io.WriteString(w, fmt.Sprintf("%04x", len(data)+4)+data)
	return err
}

func writePktf(w io.Writer, format string, args ...any) error {
	return writePkt(w, fmt.Sprintf(format, args...))
}

func writeDelim(w io.Writer) error {
	_, err := io.WriteString(w, "0001")
	return err
}

func writeFlush(w io.Writer) error {
	_, err := io.WriteString(w, "0000")
	return err
}

// Bands of side-band-64k.
const (
	bandData    = 1
	bandMessage = 2
	bandError   = 3
)

// band multiplexes data and messages over one connection. Without a side band, messages are dropped.
type band struct {
	mu   sync.Mutex
	w    *bufio.Writer
	wide bool // the client speaks side-band-64k

	narrow bool // it speaks side-band, with packets of 1,000 bytes
}

// most is how much goes into one packet; 0 without a side band.
func (b *band) most() int {
	switch {
	case b.wide:
		return maxPkt - 5
	case b.narrow:
		return 1000 - 5
	}
	return 0
}

// Write sends data.
func (b *band) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most() == 0 {
		return b.w.Write(p)
	}
	return len(p), b.send(bandData, p)
}

func (b *band) send(channel byte, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), b.most())
		if _, err := fmt.Fprintf(b.w, "%04x%c", n+5, channel); err != nil {
			return err
		}
		if _, err := b.w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Say shows text to the person at the client, at once.
func (b *band) Say(format string, args ...any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most() == 0 {
		return nil
	}
	if err := b.send(bandMessage, []byte(fmt.Sprintf(format, args...))); err != nil {
		return err
	}
	return b.w.Flush()
}

// Fail ends the connection with a reason, which the client shows as its own error.
func (b *band) Fail(why string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most() == 0 {
		return errors.New("no side band to say why on")
	}
	if err := b.send(bandError, []byte(why)); err != nil {
		return err
	}
	return b.w.Flush()
}

// Close ends the data.
func (b *band) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most() > 0 {
		if err := writeFlush(b.w); err != nil {
			return err
		}
	}
	return b.w.Flush()
}

// KeepAlive sends an empty message every interval until the returned function is called, so that nothing on the way takes a
// long scan for a dead connection.
func (b *band) KeepAlive(interval time.Duration) (stop func()) {
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			select {
			case <-quit:
				return
			case <-time.After(interval):
				b.beat()
			}
		}
	}()
	return func() { close(quit); <-gone }
}

func (b *band) beat() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.most() > 0 {
		fmt.Fprintf(b.w, "0005%c", bandMessage)
		b.w.Flush()
	}
}

// demux reads side-band packets: Read returns the data, messages go to say.
type demux struct {
	r    *bufio.Reader
	say  func(text string)
	rest []byte
	err  error
}

// Read returns the bytes of the data band; a flush is the end.
func (d *demux) Read(p []byte) (int, error) {
	for len(d.rest) == 0 && d.err == nil {
		d.next()
	}
	if len(d.rest) == 0 {
		return 0, d.err
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *demux) next() {
	data, err := readPkt(d.r)
	switch {
	case err == errFlush:
		d.err = io.EOF
	case err != nil:
		d.err = unexpectedEOF(err)
	case len(data) == 0:
		d.err = errors.New("packet without a band")
	case data[0] == bandData:
		d.rest = data[1:]
	case data[0] == bandMessage:
		d.say(string(data[1:]))
	default:
		d.err = fmt.Errorf("remote error: %s", data[1:])
	}
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// clean makes foreign text fit for one line of a log or an error.
func clean(text string) string {
	text = visible(strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == unicode.ReplacementChar {
			return ' '
		}
		return c
	}, strings.TrimSpace(text)))
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// visible spells out what would be drawn as nothing, or change the order of what is drawn: a name must not look like another one.
func visible(text string) string {
	if !strings.ContainsFunc(text, unseen) {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if unseen(c) {
			fmt.Fprintf(&b, "\\u%04x", c)
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// unseen tells characters that steer how text is drawn without being drawn themselves: bidirectional controls, joiners, spaces of no width, tags,
// fillers, and the separators that begin a line.
func unseen(c rune) bool {
	switch c {
	case '\u2028', '\u2029', '\u034f', '\u115f', '\u1160', '\u3164', '\uffa0':
		return true
	}
	return unicode.Is(unicode.Cf, c)
}
