package http1

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
)

const (
	maxChunkLine = 1 << 10 // bytes of the line with the length and the extensions of a chunk
	maxTrailer   = 16 << 10
)

// framedBody reads one body from a connReader. It returns io.EOF together with the last byte of the
// body if the end is known by then.
type framedBody struct {
	in         *connReader
	chunked    bool
	strict     bool
	left       int64 // bytes left of the body or of the chunk; -1: the body ends with the connection
	afterFirst bool  // a chunk has been read, and its line end has not
	err        error // io.EOF: the body has been read to its end

	setTrailer func(http.Header) // called with the trailer fields of a chunked body
}

// newTrailer returns the trailer of a message, with the names that its header announces, and a
// function that adds the fields after the body.
func newTrailer(h http.Header) (trailer http.Header, fill func(http.Header)) {
	trailer = http.Header{}
	for _, name := range listNames(h["Trailer"]) {
		trailer[name] = nil
	}
	return trailer, func(fields http.Header) { maps.Copy(trailer, fields) }
}

// Read implements io.Reader.
func (b *framedBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if b.err = b.nextChunk(); b.err != nil {
			return 0, b.err
		}
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.in.Read(p)
	if b.left >= 0 {
		err = unexpected(err)
		b.left -= int64(n)
	}
	if err != nil {
		b.err = err
	} else if b.left == 0 {
		b.checkEnd()
	}
	return n, b.err
}

// checkEnd sets b.err to io.EOF if the end of the body is already known, without reading more.
func (b *framedBody) checkEnd() {
	switch {
	case !b.chunked:
		b.err = io.EOF
	case strings.HasPrefix(string(b.in.buf[b.in.r:min(b.in.w, b.in.r+7)]), "\r\n0\r\n\r\n"):
		b.err = b.nextChunk()
	}
}

// nextChunk reads the line of the next chunk. After the last one it reads the trailer and returns
// io.EOF.
func (b *framedBody) nextChunk() error {
	if b.afterFirst {
		if line, err := b.in.readLine(1, b.strict); err == errChunk || len(line) > 0 {
			return errChunkEnd
		} else if err != nil {
			return err
		}
	}
	b.afterFirst = true
	line, err := b.in.readLine(maxChunkLine, b.strict)
	if err != nil {
		return err
	}
	if !b.strict {
		line = bytes.TrimRight(line, " \t") // some servers pad the length
	}
	if b.left, err = chunkSize(line); err != nil || b.left > 0 {
		return err
	}
	text, err := b.in.readTrailer(b.strict)
	if err != nil {
		return err
	}
	if text != "" {
		h, err := parseTrailer(text, b.strict)
		if err != nil {
			return err
		}
		b.setTrailer(h)
	}
	return io.EOF
}

// readTrailer returns the lines after the last chunk.
func (s *connReader) readTrailer(strict bool) (string, error) {
	var all strings.Builder
	for {
		line, err := s.readLine(maxTrailer, strict)
		if err != nil {
			return "", err
		}
		if len(line) == 0 {
			return all.String(), nil
		}
		if all.Len()+len(line) > maxTrailer {
			return "", errTooLarge
		}
		all.Write(line)
		all.WriteString("\r\n")
	}
}

// chunkSize parses the first line of a chunk (RFC 9112 §7.1). Extensions are dropped.
func chunkSize(line []byte) (n int64, err error) {
	digits := 0
	for i, c := range line {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | int64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		case c >= 'A' && c <= 'F':
			n = n<<4 | int64(c-'A'+10)
		case c == ';' && digits > 0 && all(string(line[i:]), content):
			return n, nil
		default:
			return 0, errChunk
		}
		if digits++; digits > 15 {
			return 0, errChunk
		}
	}
	if digits == 0 {
		return 0, errChunk
	}
	return n, nil
}

// pending reports whether a Read would return at once. After the end of the body it does not look at
// the connReader, which may belong to another exchange.
func (b *framedBody) pending() bool {
	if b.err != nil {
		return true
	}
	rest := b.in.buf[b.in.r:b.in.w]
	if !b.chunked || b.left > 0 {
		return len(rest) > 0
	}
	// The line end of the last chunk alone yields no data, nor does a chunk length without a byte
	// after it.
	if b.afterFirst {
		rest = bytes.TrimPrefix(rest, []byte("\r"))
		rest = bytes.TrimPrefix(rest, []byte("\n"))
	}
	line := bytes.IndexByte(rest, '\n')
	return line >= 0 && line+1 < len(rest)
}
