package objects

import (
	"net/url"
	"strings"
)

// CheckModules judges the content of a .gitmodules: names that leave their folder, options and commands in the place of values. What cannot be
// read git does not read either.
func CheckModules(o Object) error {
	if len(o.Data) > maxModules {
		return fault(o, "gitmodulesLarge")
	}
	for s := range settings(string(o.Data)) {
		name, ok := strings.CutPrefix(s.section, "submodule.")
		if !ok {
			continue
		}
		id := ""
		switch {
		case badModuleName(name):
			id = "gitmodulesName"
		case s.key == "url" && badModuleURL(s.value):
			id = "gitmodulesUrl"
		case s.key == "path" && strings.HasPrefix(s.value, "-"):
			id = "gitmodulesPath"
		case s.key == "update" && strings.HasPrefix(s.value, "!"):
			id = "gitmodulesUpdate"
		}
		if id != "" {
			return fault(o, id)
		}
	}
	return nil
}

// badModuleName is empty, or has ".." between slashes of either kind.
func badModuleName(name string) bool {
	if name == "" {
		return true
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(name, `\`, "/"), "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// badModuleURL is an option, has a line break when it is decoded, leaves its own root, or is of HTTP or FTP and malformed.
func badModuleURL(u string) bool {
	switch up, rest := leading(u); {
	case strings.HasPrefix(u, "-"):
		return true
	case rest != u:
		return hasBreak(u) || up > 0 && (strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "/"))
	case strings.HasPrefix(u, "git://"):
		return hasBreak(u)
	}
	for _, helper := range []string{"http::", "https::", "ftp::", "ftps::"} {
		if rest, ok := strings.CutPrefix(u, helper); ok {
			return hasBreak(rest) || badWeb(rest)
		}
	}
	for _, scheme := range []string{"http://", "https://", "ftp://", "ftps://"} {
		if strings.HasPrefix(u, scheme) {
			return hasBreak(u) || badWeb(u)
		}
	}
	return false
}

func badWeb(u string) bool {
	parsed, err := url.Parse(u)
	return err != nil || parsed.Scheme == "" || parsed.Host == ""
}

// leading takes "./" and "../" from the front of a relative URL, with slashes of either kind, and counts the latter.
func leading(u string) (up int, rest string) {
	for {
		dots := len(u) - len(strings.TrimLeft(u, "."))
		if dots == 0 || dots > 2 || len(u) == dots || u[dots] != '/' && u[dots] != '\\' {
			return up, u
		}
		up, u = up+dots-1, u[dots+1:]
	}
}

// hasBreak tells whether a line break is in a URL, plain or as %0a.
func hasBreak(u string) bool {
	return strings.ContainsAny(u, "\n") || strings.Contains(strings.ToLower(u), "%0a")
}

// setting is one line of a configuration (git-config(1), "Syntax"). Its section is written as in "submodule.name", and whatever is not a name in
// lower case.
type setting struct{ section, key, value string }

// settings reads a configuration as git does, up to what cannot be read: a value that a reader of git's would see must not be another one here.
func settings(text string) func(func(setting) bool) {
	return func(yield func(setting) bool) {
		p := &configParser{text: strings.TrimPrefix(text, "\ufeff")}
		for p.next() {
			if p.now.key != "" && !yield(p.now) {
				return
			}
		}
	}
}

type configParser struct {
	text string
	now  setting
}

// take is the next byte; a line break at the end, and for one of two bytes.
func (p *configParser) take() byte {
	if p.text == "" {
		return '\n'
	}
	c := p.text[0]
	p.text = p.text[1:]
	if c == '\r' && strings.HasPrefix(p.text, "\n") {
		return p.take()
	}
	return c
}

// word takes letters, digits and what else is allowed.
func (p *configParser) word(also string) string {
	n := 0
	for n < len(p.text) && (isAlnum(p.text[n]) || strings.IndexByte(also, p.text[n]) >= 0) {
		n++
	}
	word := strings.ToLower(p.text[:n])
	p.text = p.text[n:]
	return word
}

const configSpace = " \t\r\n"

// next reads a heading or a setting.
func (p *configParser) next() bool {
	p.now.key = ""
	p.text = strings.TrimLeft(p.text, configSpace)
	for strings.HasPrefix(p.text, "#") || strings.HasPrefix(p.text, ";") {
		_, p.text, _ = strings.Cut(p.text, "\n")
		p.text = strings.TrimLeft(p.text, configSpace)
	}
	if rest, ok := strings.CutPrefix(p.text, "["); ok {
		p.text = rest
		return p.heading()
	}
	if p.now.key = p.word("-"); p.now.key == "" {
		return false
	}
	p.text = strings.TrimLeft(p.text, " \t")
	ok := true
	switch p.now.value = ""; p.take() {
	case '\n':
	case '=':
		p.now.value, ok = p.value()
	default:
		ok = false
	}
	return ok
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// heading reads what follows the bracket of [section] or [section "name"].
func (p *configParser) heading() bool {
	p.now = setting{section: p.word("-.")}
	rest := strings.TrimLeft(p.text, " \t\r")
	if rest == p.text || !strings.HasPrefix(rest, `"`) {
		return p.take() == ']'
	}
	name := []byte{'.'}
	for p.text = rest[1:]; ; {
		c := p.take()
		if c == '"' {
			p.now.section += string(name)
			return p.take() == ']'
		}
		if c == '\\' {
			c = p.take()
		}
		if c == '\n' {
			return false
		}
		name = append(name, c)
	}
}

// value reads up to the end of a line: quotes, escapes and comments. Spaces count between what is written, as one kind, and in quotes.
func (p *configParser) value() (string, bool) {
	var b strings.Builder
	quoted, spaces := false, 0
	for {
		c := p.take()
		switch {
		case c == '\n':
			return b.String(), !quoted
		case !quoted && strings.IndexByte(configSpace, c) >= 0:
			if b.Len() > 0 {
				spaces++
			}
			continue
		case !quoted && (c == '#' || c == ';'):
			_, p.text, _ = strings.Cut(p.text, "\n")
			return b.String(), true
		}
		for ; spaces > 0; spaces-- {
			b.WriteByte(' ')
		}
		switch c {
		case '"':
			quoted = !quoted
			continue
		case '\\':
			if c = p.take(); c == '\n' {
				continue
			}
			escaped := strings.IndexByte(`tbn"\`, c)
			if escaped < 0 {
				return "", false
			}
			c = "\t\b\n\"\\"[escaped]
		}
		b.WriteByte(c)
	}
}
