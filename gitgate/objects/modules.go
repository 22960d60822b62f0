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
		if !strings.EqualFold(s.section, "submodule") || !s.sub {
			continue
		}
		id := ""
		switch key := strings.ToLower(s.key); {
		case badModuleName(s.name):
			id = "gitmodulesName"
		case key == "url" && badModuleURL(s.value):
			id = "gitmodulesUrl"
		case key == "path" && strings.HasPrefix(s.value, "-"):
			id = "gitmodulesPath"
		case key == "update" && strings.HasPrefix(s.value, "!"):
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
	if strings.HasPrefix(u, "-") {
		return true
	}
	if strings.HasPrefix(u, "./") || strings.HasPrefix(u, "../") {
		rest, up := u, 0
		for {
			if r, ok := strings.CutPrefix(rest, "../"); ok {
				rest, up = r, up+1
			} else if r, ok := strings.CutPrefix(rest, "./"); ok {
				rest = r
			} else {
				break
			}
		}
		return hasBreak(u) || up > 0 && (strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "/"))
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
	return err != nil || parsed.Host == ""
}

// hasBreak tells whether a line break is in a URL, plain or as %0a.
func hasBreak(u string) bool {
	return strings.ContainsAny(u, "\n") || strings.Contains(strings.ToLower(u), "%0a")
}

// setting is one line of a configuration (git-config(1), "Syntax").
type setting struct {
	section, name string
	sub           bool // there is a name
	key, value    string
}

// settings reads a configuration up to what cannot be read.
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

// next reads a heading or a setting.
func (p *configParser) next() bool {
	p.now.key = ""
	p.text = strings.TrimLeft(p.text, " \t\r\n")
	for strings.HasPrefix(p.text, "#") || strings.HasPrefix(p.text, ";") {
		_, p.text, _ = strings.Cut(p.text, "\n")
		p.text = strings.TrimLeft(p.text, " \t\r\n")
	}
	switch {
	case p.text == "":
		return false
	case p.text[0] == '[':
		return p.heading()
	}
	n := 0
	for n < len(p.text) && (isAlnum(p.text[n]) || n > 0 && p.text[n] == '-') {
		n++
	}
	if n == 0 {
		return false
	}
	key := p.text[:n]
	p.text = strings.TrimLeft(p.text[n:], " \t")
	value, ok := "", true
	if rest, has := strings.CutPrefix(p.text, "="); has {
		p.text = strings.TrimLeft(rest, " \t")
		value, ok = p.value()
	}
	p.now.key, p.now.value = key, value
	return ok
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// heading reads [section] or [section "name"].
func (p *configParser) heading() bool {
	n := 1
	for n < len(p.text) && (isAlnum(p.text[n]) || p.text[n] == '-' || p.text[n] == '.') {
		n++
	}
	p.now = setting{section: p.text[1:n]}
	if section, name, dotted := strings.Cut(p.now.section, "."); dotted {
		p.now.section, p.now.name, p.now.sub = section, name, true
	}
	p.text = strings.TrimLeft(p.text[n:], " \t")
	if rest, quoted := strings.CutPrefix(p.text, `"`); quoted {
		var name strings.Builder
		i := 0
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' {
				i++
			}
			if i >= len(rest) || rest[i] == '\n' {
				return false
			}
			name.WriteByte(rest[i])
		}
		if i >= len(rest) {
			return false
		}
		p.now.name, p.now.sub, p.text = name.String(), true, rest[i+1:]
	}
	rest, ok := strings.CutPrefix(p.text, "]")
	p.text = rest
	return ok
}

// value reads up to the end of a line: quotes, escapes and comments.
func (p *configParser) value() (string, bool) {
	var b strings.Builder
	quoted, kept := false, 0 // spaces at the end count only in quotes
	for i := 0; i < len(p.text); i++ {
		c := p.text[i]
		switch {
		case c == '\r' && i+1 < len(p.text) && p.text[i+1] == '\n' && !quoted:
			continue
		case c == '\n' && quoted:
			return "", false
		case c == '\n', (c == '#' || c == ';') && !quoted:
			_, p.text, _ = strings.Cut(p.text[i:], "\n")
			return b.String()[:kept], true
		case c == '"':
			quoted = !quoted
			kept = b.Len()
			continue
		case c == '\\':
			if i++; i >= len(p.text) {
				return "", false
			}
			if p.text[i] == '\n' {
				continue
			}
			escaped := strings.IndexByte(`tbn"\`, p.text[i])
			if escaped < 0 {
				return "", false
			}
			b.WriteByte("\t\b\n\"\\"[escaped])
			kept = b.Len()
			continue
		}
		b.WriteByte(c)
		if quoted || c != ' ' && c != '\t' {
			kept = b.Len()
		}
	}
	p.text = ""
	return b.String()[:kept], !quoted
}
