package egress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxChunk is the longest chunk that is signed. The signature is sent before the chunk, so the chunk
	// is buffered. Clients use 64 KiB to 128 KiB.
	maxChunk = 1 << 20
	// maxChunkLine and maxChunkTrailer bound the lines of chunks and the trailer, in bytes.
	maxChunkLine    = 4 << 10
	maxChunkTrailer = 16 << 10
)

var chunkHead = regexp.MustCompile(`^([0-9a-fA-F]{1,8});chunk-signature=[0-9a-fA-F]{64}\r\n$`)

const trailerSignature = "x-amz-trailer-signature"

// chunkSigner signs the chunks of a body one by one while the body is read
// (docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html). It keeps the framing, so that the
// announced length stays right.
type chunkSigner struct {
	io.Closer
	src     *bufio.Reader
	sign    *signature
	trailer bool
	chunk   []byte
	ready   bytes.Buffer
	err     error
}

func newChunkSigner(body io.ReadCloser, seed *signature, trailer bool) *chunkSigner {
	return &chunkSigner{Closer: body, src: bufio.NewReaderSize(body, maxChunkLine), sign: seed, trailer: trailer}
}

// Read implements io.Reader.
func (c *chunkSigner) Read(p []byte) (int, error) {
	for c.ready.Len() == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.err = c.nextChunk()
	}
	return c.ready.Read(p)
}

func framingError(why string) error {
	return refused("credential", "the body is not in the chunks that it announces: "+why)
}

// nextChunk reads and signs the next chunk, or the end.
func (c *chunkSigner) nextChunk() error {
	line, err := c.readLine()
	if err != nil {
		return err
	}
	head := chunkHead.FindStringSubmatch(line)
	if head == nil {
		return framingError("a chunk begins with its size and its signature")
	}
	size, err := strconv.ParseUint(head[1], 16, 32)
	if err != nil || size > maxChunk {
		return framingError(fmt.Sprintf("a chunk has at most %d bytes", maxChunk))
	}
	c.chunk = slices.Grow(c.chunk[:0], int(size))[:size]
	if _, err := io.ReadFull(c.src, c.chunk); err != nil {
		return unexpectedEOF(err)
	}
	fmt.Fprintf(&c.ready, "%s;chunk-signature=%s\r\n", head[1], c.sign.next("AWS4-HMAC-SHA256-PAYLOAD", c.sign.last, hexHash(nil), hexHash(c.chunk)))
	if size == 0 && c.trailer {
		return c.signTrailer()
	}
	c.ready.Write(c.chunk)
	if line, err = c.readLine(); err != nil {
		return err
	}
	if line != "\r\n" {
		return framingError("a chunk is longer than it says")
	}
	c.ready.WriteString(line)
	if size > 0 {
		return nil
	}
	return c.expectEnd()
}

// signTrailer signs the trailer. Its lines stay as they are, except for the signature.
func (c *chunkSigner) signTrailer() error {
	var signed, lines []string
	at, length := -1, 0
	for {
		line, err := c.readLine()
		text := strings.TrimRight(line, "\r\n")
		if ended := at >= 0 && err == nil || err == io.ErrUnexpectedEOF; text == "" && ended {
			return c.writeTrailer(append(lines, line), signed, at)
		}
		if err != nil {
			return err
		}
		name, value, ok := strings.Cut(text, ":")
		name = strings.ToLower(name)
		switch length += len(line); {
		case text != "" && !ok, length > maxChunkTrailer:
			return framingError("the trailer is not made of a few fields")
		case text == "": // some clients send an empty line before the signature
			lines = append(lines, line)
		case name == trailerSignature:
			at, lines = len(lines), append(lines, trailerSignature+":")
		default:
			signed, lines = append(signed, name+":"+strings.TrimSpace(value)+"\n"), append(lines, line)
		}
	}
}

// writeTrailer writes the trailer with its signature in the line with index at.
func (c *chunkSigner) writeTrailer(lines, signed []string, at int) error {
	if at < 0 || strings.Count(strings.Join(lines, ""), trailerSignature) != 1 {
		return framingError("the trailer has one signature")
	}
	slices.Sort(signed)
	lines[at] += c.sign.next("AWS4-HMAC-SHA256-TRAILER", c.sign.last, hexHash([]byte(strings.Join(signed, "")))) + "\r\n"
	c.ready.WriteString(strings.Join(lines, ""))
	return c.expectEnd()
}

// expectEnd returns io.EOF if the body ends here, and else an error.
func (c *chunkSigner) expectEnd() error {
	if _, err := c.src.ReadByte(); err == nil {
		return framingError("something follows the last chunk")
	} else if err != io.EOF {
		return err
	}
	return io.EOF
}

// readLine returns the next line.
func (c *chunkSigner) readLine() (string, error) {
	line, err := c.src.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", framingError("a line is too long")
	}
	return string(line), unexpectedEOF(err)
}

// unexpectedEOF returns the error for an end in the wrong place, and other errors unchanged.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
