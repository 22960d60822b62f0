package http1

import (
	"bytes"
	"io"
)

// bufferSize is what a connection reads at once while it looks for a head or
// a chunk, in bytes. Bodies pass it by.
const bufferSize = 4 << 10

// source reads a connection through a buffer, which grows only for a head.
type source struct {
	c    io.Reader
	buf  []byte
	r, w int // what is read and not yet taken is buf[r:w]
}

func newSource(c io.Reader) source { return source{c: c, buf: make([]byte, bufferSize)} }

func (s *source) buffered() int { return s.w - s.r }

// fill reads once, behind what is there.
func (s *source) fill() error {
	if s.r == s.w {
		s.r, s.w = 0, 0
		if len(s.buf) > bufferSize {
			s.buf = make([]byte, bufferSize) // a large head has gone by
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

// Read takes what is buffered, or reads past the buffer.
func (s *source) Read(p []byte) (int, error) {
	if s.r < s.w {
		n := copy(p, s.buf[s.r:s.w])
		s.r += n
		return n, nil
	}
	if len(p) >= bufferSize {
		return s.bulk(p)
	}
	if err := s.fill(); err != nil {
		return 0, err
	}
	return s.Read(p)
}

// record is the longest record of TLS (RFC 8446 §5.1): a Read of a connection
// gives no more.
const record = 16 << 10

// bulk reads past the buffer. Where as much comes as a Read can give, it takes
// what has arrived behind it, too, so that a long body moves in larger pieces;
// what streams comes in smaller ones and waits for nothing.
func (s *source) bulk(p []byte) (int, error) {
	n, err := s.c.Read(p)
	for last := n; err == nil && last == record && len(p)-n >= record && arrived(s.c); n += last {
		last, err = s.c.Read(p[n:])
	}
	if n > 0 {
		return n, nil // an error comes again with the next read
	}
	return n, err
}

// head takes the lines up to an empty one, which is dropped; each line keeps
// its end. A strict head ends its lines with CR LF (RFC 9112 §2.2).
func (s *source) head(limit int, strict bool) (string, error) {
	line, at := 0, 0 // from s.r: where the line begins, and how far it was searched
	forgiven, lines := false, 0
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
			if line == 0 { // one empty line before a message is forgiven (RFC 9112 §2.2)
				if forgiven {
					return "", errLine
				}
				forgiven = true
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

// line takes one line of a chunked body, without its end.
func (s *source) line(limit int, strict bool) ([]byte, error) {
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

// unexpected is an end of the connection in the middle of a message.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
