package control

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// screen is where a table goes.
type screen struct {
	out    io.Writer
	live   bool       // a terminal, on which lines can be drawn again
	colour bool       // where it is one and nobody said NO_COLOR
	width  func() int // columns; 0 is no limit
}

func newScreen(out io.Writer) screen {
	s := screen{out: out, width: func() int { return 0 }}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.live, s.colour = true, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	s.width = func() int {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
		return 80
	}
	return s
}

var colours = map[string]string{
	"ready": "32", "starting": "33", "replacing": "33", "backoff": "33", "failed": "31;1",
	"down": "2", "stopping": "2", "stopped": "2",
}

func (s screen) paint(colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

var columns = []struct {
	name  string
	right bool
}{
	{"DAEMON", false}, {"STATE", false}, {"PID", true}, {"UP", true}, {"RESTARTS", true}, {"CONNS", true}, {"MEMORY", true}, {"GEN", true}, {"CONFIG", false},
}

// table shows the status, a line for each daemon. What may be long stands on
// lines of its own below.
func (st Status) table(s screen, now time.Time) string {
	rows := make([][]string, len(st.Daemons))
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c.name)
	}
	for i, d := range st.Daemons {
		rows[i] = d.cells(now)
		for j, cell := range rows[i] {
			widths[j] = max(widths[j], columnsOf(cell))
		}
	}
	var b strings.Builder
	line := func(colour, text string) { b.WriteString(s.paint(colour, clip(text, s.width())) + "\n") }
	line("", st.headline())
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.name
	}
	line("1", strings.TrimRight(join(head, widths), " "))
	for i, d := range st.Daemons {
		plain := clip(strings.TrimRight(join(rows[i], widths), " "), s.width())
		// Painted after it was clipped: escapes have no width.
		name, rest := plain[:min(len(plain), widths[0]+2)], plain[min(len(plain), widths[0]+2):]
		b.WriteString(name + strings.Replace(rest, d.State, s.paint(colours[d.State], d.State), 1) + "\n")
		for _, note := range d.notes() {
			line(note.colour, strings.Repeat(" ", widths[0]+2)+note.text)
		}
	}
	return b.String()
}

func (st Status) headline() string {
	word := "not ready"
	if st.Ready {
		word = "ready"
	}
	text := fmt.Sprintf("supervisor %d: %s, %s", st.PID, word, size(st.RSS))
	if st.Pair != "" {
		text = "pair " + oneLine(st.Pair) + ", " + text
	}
	if st.Dropped > 0 {
		text += fmt.Sprintf(", %d lines of output lost", st.Dropped)
	}
	return text
}

func (d Daemon) cells(now time.Time) []string {
	pid, up, conns, memory := "-", "-", "-", "-"
	if d.PID != 0 {
		pid, up, memory = strconv.Itoa(d.PID), uptime(now.Sub(d.Since)), size(d.RSS)
	}
	if d.Conns != nil {
		conns = strconv.Itoa(*d.Conns)
	}
	digest := "-"
	if d.Digest != "" {
		digest = oneLine(d.Digest[:min(8, len(d.Digest))])
	}
	return []string{oneLine(d.Name), oneLine(d.State), pid, up, strconv.Itoa(d.Restarts), conns, memory, strconv.Itoa(d.Generation), digest}
}

// note is a line below a daemon's.
type note struct{ colour, text string }

func (d Daemon) notes() (all []note) {
	if d.Mode != "" {
		all = append(all, note{"33;1", oneLine(d.Mode)})
	}
	if d.Trouble != "" {
		all = append(all, note{"31;1", oneLine(d.Trouble)})
	}
	if d.LastExit != "" {
		all = append(all, note{"2", "last exit: " + oneLine(d.LastExit)})
	}
	if d.Error != "" {
		all = append(all, note{"31", oneLine(d.Error)})
	}
	if len(d.Isolation.Missing) > 0 {
		all = append(all, note{"31", "not confined by " + oneLine(strings.Join(d.Isolation.Missing, ", "))})
	}
	if d.Draining > 0 {
		all = append(all, note{"2", fmt.Sprintf("%d replaced, still ending", d.Draining)})
	}
	return all
}

func join(cells []string, widths []int) string {
	var b strings.Builder
	for i, cell := range cells {
		pad := strings.Repeat(" ", max(0, widths[i]-columnsOf(cell)))
		if columns[i].right {
			cell = pad + cell
		} else {
			cell += pad
		}
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(cell)
	}
	return b.String()
}

// uptime is short: 59s, 12m05s, 3h07m, 12d4h.
func uptime(d time.Duration) string {
	s := int(max(0, d).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s%86400/3600)
}

func size(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1fM", float64(bytes)/1e6)
}

// oneLine is text that cannot leave its line: others wrote it.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return '?'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// clip shortens text to a number of columns; 0 is no limit.
func clip(text string, width int) string {
	if width <= 0 || columnsOf(text) <= width {
		return text
	}
	n := 0
	for i, r := range text {
		if n+columnsOfRune(r) > width-1 {
			return text[:i] + "…"
		}
		n += columnsOfRune(r)
	}
	return text
}

func columnsOf(text string) (n int) {
	for _, r := range text {
		n += columnsOfRune(r)
	}
	return n
}

// columnsOfRune is 2 for all that may be wide, which is more than what is: a
// line that is too short does no harm.
func columnsOfRune(r rune) int {
	if r < 0x1100 || r >= 0x2000 && r < 0x2300 { // punctuation, arrows, mathematics
		return 1
	}
	return 2
}
