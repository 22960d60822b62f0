package hostctl

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// tabStop is the distance of the columns that a tab goes to.
const tabStop = 8

// Printable is a text without anything that a terminal acts upon or does not
// show: control and formatting characters, and bytes that are no UTF-8, are
// written as escapes. Line feeds stay.
func Printable(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
		i += size
	}
	return b.String()
}

// framed shows lines of the form "NAME | TEXT" on a terminal. The text may be
// an agent's: nothing in it is acted upon, and what does not fit into the width
// goes on in a line with the same name, so that it cannot look like a line of
// somebody else.
type framed struct {
	w     io.Writer
	width func() int
	rest  []byte // an unfinished line
}

// onTerminal frames what is written to out if that is a terminal.
func onTerminal(out io.Writer) io.Writer {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return out
	}
	return &framed{w: out, width: func() int {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 {
			return 80
		}
		return width
	}}
}

func (f *framed) Write(p []byte) (int, error) {
	f.rest = append(f.rest, p...)
	for {
		i := bytes.IndexByte(f.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := f.rest[:i]
		f.rest = f.rest[i+1:]
		if err := f.line(string(line)); err != nil {
			return 0, err
		}
	}
}

func (f *framed) line(line string) error {
	name, text, found := strings.Cut(line, " | ")
	if !found {
		name, text = "", line
	}
	name = Printable(name)
	text = Printable(expandTabs(strings.TrimSuffix(text, "\r")))
	var b strings.Builder
	mark, room := " | ", max(20, f.width()-len(name)-len(" | "))
	for {
		n := fitting(text, room)
		fmt.Fprintf(&b, "%s%s%s\n", name, mark, text[:n])
		if text, mark = text[n:], " : "; text == "" {
			break
		}
	}
	_, err := io.WriteString(f.w, b.String())
	return err
}

// fitting is how many bytes of the text fit into so many columns. What is not
// ASCII may take two.
func fitting(text string, columns int) int {
	for i, r := range text {
		if columns--; r >= utf8.RuneSelf {
			columns--
		}
		if columns < 0 {
			return i
		}
	}
	return len(text)
}

func expandTabs(text string) string {
	if !strings.Contains(text, "\t") {
		return text
	}
	var b strings.Builder
	column := 0
	for _, part := range strings.SplitAfter(text, "\t") {
		word, tab := strings.CutSuffix(part, "\t")
		b.WriteString(word)
		column += utf8.RuneCountInString(word)
		if tab {
			n := tabStop - column%tabStop
			b.WriteString(strings.Repeat(" ", n))
			column += n
		}
	}
	return b.String()
}
