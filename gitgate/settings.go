package gitgate

import (
	"errors"
	"fmt"
	"strings"
)

// parseSettings reads a repository's configuration as git does (git-config(1), "Syntax"): settings by "section.key" or "section.subsection.key",
// sections and keys in lower case. What cannot be read, or is kept in another file, is an error: it might say what must not be shown.
func parseSettings(text string) (map[string][]string, error) {
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	p := &settingsParser{rest: text, found: map[string][]string{}}
	for p.rest != "" {
		if err := p.next(); err != nil {
			line := 1 + strings.Count(text[:len(text)-len(p.rest)], "\n")
			return nil, fmt.Errorf("bad config line %d: %w", line, err)
		}
	}
	return p.found, nil
}

// settingsParser reads from the front of rest.
type settingsParser struct {
	rest    string
	section string
	found   map[string][]string
}

// take is the next byte; a line break at the end of the file.
func (p *settingsParser) take() byte {
	if p.rest == "" {
		return '\n'
	}
	c := p.rest[0]
	p.rest = p.rest[1:]
	return c
}

// next reads a section's head, a setting, a comment or a blank.
func (p *settingsParser) next() error {
	switch c := p.rest[0]; {
	case c == '#', c == ';':
		_, p.rest, _ = strings.Cut(p.rest, "\n")
		return nil
	case strings.IndexByte(" \t\n\r", c) >= 0:
		p.rest = p.rest[1:]
		return nil
	case c == '[':
		p.rest = p.rest[1:]
		return p.head()
	case letter(c):
		return p.setting()
	}
	return errors.New("a section, a key or a comment was wanted")
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// word takes letters, digits and what else is allowed.
func (p *settingsParser) word(also string) string {
	n := 0
	for n < len(p.rest) && (letter(p.rest[n]) || p.rest[n] >= '0' && p.rest[n] <= '9' || strings.IndexByte(also, p.rest[n]) >= 0) {
		n++
	}
	word := strings.ToLower(p.rest[:n])
	p.rest = p.rest[n:]
	return word
}

// head reads what follows the bracket of a section.
func (p *settingsParser) head() error {
	p.section = p.word("-.")
	rest := strings.TrimLeft(p.rest, " \t")
	if rest != p.rest && strings.HasPrefix(rest, `"`) {
		p.rest = rest[1:]
		name, err := p.subsection()
		if err != nil {
			return err
		}
		p.section += "." + name
	}
	if p.section == "" || p.take() != ']' {
		return errors.New(`[section] or [section "subsection"] was wanted`)
	}
	if p.section == "include" || strings.HasPrefix(p.section, "includeif.") {
		return errors.New("other files are not included here")
	}
	return nil
}

// subsection reads up to its closing quote.
func (p *settingsParser) subsection() (string, error) {
	var name []byte
	for {
		c := p.take()
		if c == '"' {
			return string(name), nil
		}
		if c == '\\' {
			c = p.take()
		}
		if c == '\n' {
			return "", errors.New("the name of a subsection does not end")
		}
		name = append(name, c)
	}
}

// setting reads a key and its value; a key alone is true.
func (p *settingsParser) setting() error {
	if p.section == "" {
		return errors.New("a key without a section")
	}
	name := p.section + "." + p.word("-")
	p.rest = strings.TrimLeft(p.rest, " \t")
	value := "true"
	switch p.take() {
	case '\n':
	case '=':
		var err error
		if value, err = p.value(); err != nil {
			return err
		}
	default:
		return errors.New("'=' was wanted behind a key")
	}
	p.found[name] = append(p.found[name], value)
	return nil
}

// value reads to the end of the line: quotes, escapes, continued lines, comments; blanks at both ends do not count.
func (p *settingsParser) value() (string, error) {
	var value []byte
	end, quoted := 0, false // end is that of the value without blanks behind it
	for {
		c := p.take()
		switch {
		case c == '\n' && quoted:
			return "", errors.New("a quote does not end")
		case c == '\n':
			return string(value[:end]), nil
		case !quoted && (c == '#' || c == ';'):
			_, p.rest, _ = strings.Cut(p.rest, "\n")
			return string(value[:end]), nil
		case !quoted && strings.IndexByte(" \t\r", c) >= 0:
			if len(value) > 0 {
				value = append(value, c)
			}
			continue
		case c == '"':
			quoted = !quoted
		case c == '\\':
			escaped, joined, err := p.escape()
			if err != nil {
				return "", err
			}
			if joined {
				continue
			}
			value = append(value, escaped)
		default:
			value = append(value, c)
		}
		end = len(value)
	}
}

// escape reads what stands behind a backslash; joined says that it was the end of a line.
func (p *settingsParser) escape() (c byte, joined bool, err error) {
	if p.rest == "" {
		return 0, true, nil
	}
	switch c := p.take(); c {
	case '\n':
		return 0, true, nil
	case 't':
		return '\t', false, nil
	case 'n':
		return '\n', false, nil
	case 'b':
		return '\b', false, nil
	case '\\', '"':
		return c, false, nil
	}
	return 0, false, errors.New("an escape that there is not")
}
