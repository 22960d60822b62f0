package gitgate

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"airlock/gitgate/objects"
)

const (
	// maxCommands bounds what stands in front of a pack, in bytes.
	maxCommands = 16 << 20
	// maxOptions bounds the push options of one push.
	maxOptions = 1000
)

// commands is what a client sends in front of its pack (gitprotocol-pack, "Reference Update Request").
type commands struct {
	caps    capabilities
	updates []update
	options []string // push options, in order

	seen map[string]bool
	size int
	tab  *tab // of what is kept
}

// readCommands reads up to the pack. What it has read when it fails is returned, too: the client's capabilities say how it
// is to be told.
func readCommands(r *bufio.Reader, t *tab) (c commands, err error) {
	c.tab, c.seen = t, map[string]bool{}
	for {
		line, err := c.line(r)
		if err == errFlush || err == io.EOF && len(c.updates) == 0 {
			break
		}
		if err != nil {
			return c, fmt.Errorf("reading commands: %w", unexpectedEOF(err))
		}
		if err := c.command(line); err != nil {
			return c, err
		}
	}
	if len(c.updates) == 0 || !c.caps.has("push-options") {
		return c, nil
	}
	return c, c.readOptions(r)
}

func (c *commands) line(r *bufio.Reader) (string, error) {
	line, err := readLine(r)
	if c.size += len(line); c.size > maxCommands {
		return "", errRefused("too many commands")
	}
	if full := c.tab.take(len(line) + keepOne); full != nil {
		return "", full
	}
	return line, err
}

func (c *commands) command(line string) error {
	line, caps, first := strings.Cut(line, "\x00")
	if first && len(c.updates) == 0 {
		c.caps = strings.Fields(caps)
		if format, ok := c.caps.value("object-format"); ok && format != "sha1" {
			return errRefused("object format " + clean(format) + ": sha1 was wanted")
		}
	}
	if commit, ok := strings.CutPrefix(line, "shallow "); ok {
		if _, err := objects.ParseHash(commit); err != nil {
			return errRefused("malformed command: shallow without the name of a commit")
		}
		return nil // the mirror has all of what the client lacks
	}
	u, err := parseUpdate(line)
	if err != nil {
		return err
	}
	if c.seen[u.ref] {
		return errRefused("a reference stands in the push twice")
	}
	c.seen[u.ref] = true
	c.updates = append(c.updates, u)
	return nil
}

// readOptions reads the push options, which end with a flush.
func (c *commands) readOptions(r *bufio.Reader) error {
	for {
		line, err := c.line(r)
		if err == errFlush {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading push options: %w", unexpectedEOF(err))
		}
		if len(c.options) == maxOptions {
			return errRefused(fmt.Sprintf("more than %d push options", maxOptions))
		}
		if strings.ContainsAny(line, "\x00\n") {
			return errRefused("a push option with a line break or NUL")
		}
		c.options = append(c.options, line)
	}
}

// parseUpdate reads "OLD NEW NAME".
func parseUpdate(line string) (u update, err error) {
	if len(line) < 83 || line[40] != ' ' || line[81] != ' ' {
		return u, errRefused("malformed command; push certificates are not taken")
	}
	u.old, err = objects.ParseHash(line[:40])
	if err == nil {
		u.new, err = objects.ParseHash(line[41:81])
	}
	if err != nil {
		return u, errRefused("malformed command")
	}
	u.ref = line[82:]
	return u, nil
}

// value returns what stands behind "key=" in a set of capabilities.
func (c capabilities) value(key string) (string, bool) {
	for _, word := range c {
		if v, ok := strings.CutPrefix(word, key+"="); ok {
			return v, true
		}
	}
	return "", false
}
