package http1

import (
	"bytes"
	"io"
)

// bufferSize is the size in bytes of the buffer of a connection, for heads and chunk lines. Reads of
// a body that are at least as large bypass it.
const bufferSize = 4 << 10

// connReader reads a connection through a buffer, which grows only for a head. It belongs to one
// goroutine at a time.
type connReader struct {
	c    io.Reader
	buf  []byte
	r, w int // buf[r:w] has been read from the connection and not yet consumed
}

func newConnReader(c io.Reader) connReader { return connReader{c: c, buf: make([]byte, bufferSize)} }

func (s *connReader) buffered() int { return s.w - s.r }

// fill reads once from the connection and appends to the buffer.
func (s *connReader) fill() error {
	if s.r == s.w {
		s.r, s.w = 0, 0
		if len(s.buf) > bufferSize {
			s.buf = make([]byte, bufferSize) // it had grown for a large head
		}
	} else if s.w == len(s.buf) {
		if s.r > 0 {
			s.w = copy(s.buf, s.buf[s.r:s.w])
			s.r = 0
		} else {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
	}
	n, err := s.c.Read(s.buf[s.w:])
	s.w += n
	if n > 0 {
		return nil // an error comes again with the next read
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// Read returns buffered bytes if there are any, and else reads from the connection.
func (s *connReader) Read(p []byte) (int, error) {
	if s.r < s.w {
		n := copy(p, s.buf[s.r:s.w])
		s.r += n
		return n, nil
	}
	if len(p) >= bufferSize {
		return s.readLarge(p)
	}
	if err := s.fill(); err != nil {
		return 0, err
	}
	return s.Read(p)
}

// maxRecord is the size of the longest TLS record (RFC 8446 §5.1). A Read of a TLS connection returns
// no more.
const maxRecord = 16 << 10

// readLarge reads into p without the buffer. After a full TLS record it also reads the records that
// have already arrived, so that a long body is copied in larger pieces. It never waits for more
// input than one Read, so it does not delay a stream.
func (s *connReader) readLarge(p []byte) (int, error) {
	n, err := s.c.Read(p)
	for last := n; err == nil && last == maxRecord && len(p)-n >= maxRecord && isReadable(s.c); n += last {
		last, err = s.c.Read(p[n:])
	}
	if n > 0 {
		return n, nil // an error comes again with the next read
	}
	return n, err
}

// readHead returns the lines before the next empty line, with their line ends. The empty line is
// dropped. With strict, lines have to end with CR LF (RFC 9112 §2.2).
func (s *connReader) readHead(limit int, strict bool) (string, error) {
	line, at := 0, 0 // offsets from s.r: start of the current line, and where the search continues
	skippedEmpty, lines := false, 0
	for {
		i := bytes.IndexByte(s.buf[s.r+at:s.w], '\n')
		if i < 0 {
			at = s.buffered()
			if at > limit {
				return "", errTooLarge
			}
			if err := s.fill(); err != nil {
				if err == io.EOF && at > 0 {
					err = io.ErrUnexpectedEOF
				}
				return "", err
			}
			continue
		}
		end := at + i
		text := s.buf[s.r+line : s.r+end]
		switch cr := len(text) > 0 && text[len(text)-1] == '\r'; {
		case end >= limit:
			return "", errTooLarge
		case strict && !cr:
			return "", errLineEnd
		case lines > maxFields+1:
			return "", errTooMany
		case len(text) == 0 || cr && len(text) == 1:
			if line == 0 { // one empty line before a message is allowed (RFC 9112 §2.2)
				if skippedEmpty {
					return "", errLine
				}
				skippedEmpty = true
				s.r += end + 1
				at = 0
				continue
			}
			all := string(s.buf[s.r : s.r+line])
			s.r += end + 1
			return all, nil
		}
		line, at = end+1, end+1
		lines++
	}
}

// readLine returns one line of a chunked body without its line end. The result is valid until the
// next read.
func (s *connReader) readLine(limit int, strict bool) ([]byte, error) {
	for at := 0; ; {
		if i := bytes.IndexByte(s.buf[s.r+at:s.w], '\n'); i >= 0 {
			text := s.buf[s.r : s.r+at+i]
			s.r += at + i + 1
			plain, cr := bytes.CutSuffix(text, []byte("\r"))
			if strict && !cr {
				return nil, errLineEnd
			}
			return plain, nil
		}
		if at = s.buffered(); at > limit {
			return nil, errChunk
		}
		if err := s.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

// unexpected turns io.EOF into io.ErrUnexpectedEOF, for an end within a message.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
