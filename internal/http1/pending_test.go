package http1

import (
	"io"
	"strings"
	"testing"
)

// pieces is a connection whose reads return one piece each.
type pieces []string

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	*p = (*p)[1:]
	return n, nil
}

// TestChunkEndAloneIsNotPending checks that the line end of a chunk does not count as data: a proxy
// would hold back what it has read until more comes.
func TestChunkEndAloneIsNotPending(t *testing.T) {
	for _, c := range []struct {
		name  string
		came  []string
		reads string // of each read, what came and whether more is there at once
	}{
		{"a chunk at a time", []string{"5\r\nhello\r\n", "5\r\nworld\r\n", "0\r\n\r\n"}, "hello:false world:false :true"},
		{"two chunks at once", []string{"5\r\nhello\r\n5\r\nworld\r\n", "0\r\n\r\n"}, "hello:true world:false :true"},
		{"half of the next line", []string{"5\r\nhello\r\n5", "\r\nworld\r\n0\r\n\r\n"}, "hello:false world:true"},
		{"a line without its chunk", []string{"5\r\nhello\r\n5\r\n", "world\r\n0\r\n\r\n"}, "hello:false world:true"},
		{"half of the end of a chunk", []string{"5\r\nhello\r", "\n5\r\nworld\r\n0\r\n\r\n"}, "hello:false world:true"},
		{"a part of a chunk", []string{"a\r\nhello", "world\r\n0\r\n\r\n"}, "hello:false world:true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			came := pieces(c.came)
			src := newConnReader(&came)
			b := &framedBody{in: &src, chunked: true, strict: true}
			var got []string
			buf := make([]byte, 100)
			for b.err == nil {
				n, err := b.Read(buf)
				if err != nil && err != io.EOF {
					t.Fatal(err)
				}
				word := "false"
				if b.pending() {
					word = "true"
				}
				got = append(got, string(buf[:n])+":"+word)
			}
			if text := strings.Join(got, " "); text != c.reads {
				t.Errorf("%s, want %s", text, c.reads)
			}
		})
	}
}
