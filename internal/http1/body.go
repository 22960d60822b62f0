package http1

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
)

const (
	maxChunkLine = 1 << 10 // bytes of a chunk's length with its extensions
	maxTrailer   = 16 << 10
)

// framed reads one body off a source. It ends with the body's last byte, not
// with a read behind it, wherever that is known by then.
type framed struct {
	src     *source
	chunked bool
	strict  bool
	left    int64 // of the body or of the chunk; -1: until the connection ends
	opened  bool  // a chunk has been read before
	err     error // io.EOF: all is read

	trailer func(http.Header) // gets the fields behind a chunked body
}

// late is the trailer of a message, with the names that its header announces,
// and what fills it in behind the body.
func late(h http.Header) (trailer http.Header, fill func(http.Header)) {
	trailer = http.Header{}
	for _, name := range listed(h["Trailer"]) {
		trailer[name] = nil
	}
	return trailer, func(fields http.Header) { maps.Copy(trailer, fields) }
}

// Read implements io.Reader.
func (b *framed) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.chunked && b.left == 0 {
		if b.err = b.next(); b.err != nil {
			return 0, b.err
		}
	}
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.src.Read(p)
	if b.left >= 0 {
		err = unexpected(err)
		b.left -= int64(n)
	}
	if err != nil {
		b.err = err
	} else if b.left == 0 {
		b.end()
	}
	return n, b.err
}

// end notices that nothing follows, as far as that needs no waiting.
func (b *framed) end() {
	switch {
	case !b.chunked:
		b.err = io.EOF
	case strings.HasPrefix(string(b.src.buf[b.src.r:min(b.src.w, b.src.r+7)]), "\r\n0\r\n\r\n"):
		b.err = b.next()
	}
}

// next goes to the next chunk, or behind the last one.
func (b *framed) next() error {
	if b.opened {
		if line, err := b.src.line(1, b.strict); err == errChunk || len(line) > 0 {
			return errChunkEnd
		} else if err != nil {
			return err
		}
	}
	b.opened = true
	line, err := b.src.line(maxChunkLine, b.strict)
	if err != nil {
		return err
	}
	if !b.strict {
		line = bytes.TrimRight(line, " \t") // some pad it
	}
	if b.left, err = chunkSize(line); err != nil || b.left > 0 {
		return err
	}
	text, err := b.src.trailer(b.strict)
	if err != nil {
		return err
	}
	if text != "" {
		h, err := parseTrailer(text, b.strict)
		if err != nil {
			return err
		}
		b.trailer(h)
	}
	return io.EOF
}

// trailer takes the lines behind the last chunk.
func (s *source) trailer(strict bool) (string, error) {
	var all strings.Builder
	for {
		line, err := s.line(maxTrailer, strict)
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

// chunkSize reads the first line of a chunk (RFC 9112 §7.1). Extensions mean
// nothing to anybody and are dropped.
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

// pending tells whether a Read would return at once. Behind the end of the
// body the source may be somebody else's.
func (b *framed) pending() bool {
	if b.err != nil {
		return true
	}
	rest := b.src.buf[b.src.r:b.src.w]
	if !b.chunked || b.left > 0 {
		return len(rest) > 0
	}
	// The end of the last chunk is nothing yet, nor is a length without a byte
	// behind it.
	if b.opened {
		rest = bytes.TrimPrefix(rest, []byte("\r"))
		rest = bytes.TrimPrefix(rest, []byte("\n"))
	}
	line := bytes.IndexByte(rest, '\n')
	return line >= 0 && line+1 < len(rest)
}
