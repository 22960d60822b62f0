package hostctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// allowHelp stands above an allowlist that nobody has edited yet.
const allowHelp = `# Where anything may go at all: one host a line.
#   api.example.com                              ports 443 and 80
#   git.example.com:8443                         that port alone
#   *.pkgs.example                               its subdomains, not itself
#   docs.example.com  expires 2026-12-31T18:00Z  until then
`

// allowLine is a line of an allowlist as people write it. A line without an
// entry is empty or a comment.
type allowLine struct {
	entry *bundle.Allowed
	text  string // as it was written
}

// parseAllow reads an allowlist of one host a line. It says everything that is
// wrong with it, by line.
func parseAllow(text string) ([]allowLine, error) {
	var all []allowLine
	var errs []error
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		entry, err := parseAllowLine(line)
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
		}
		all = append(all, allowLine{entry, strings.TrimRight(line, " \t\r")})
	}
	return all, errors.Join(errs...)
}

func parseAllowLine(line string) (*bundle.Allowed, error) {
	line, _, _ = strings.Cut(line, "#")
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, nil
	}
	host, err := policy.ParsePattern(words[0])
	if err != nil {
		return nil, err
	}
	entry := &bundle.Allowed{Host: host}
	switch {
	case len(words) == 1:
		return entry, nil
	case words[1] != "expires":
		return nil, fmt.Errorf("%q behind the host: \"expires TIME\" or a comment was wanted", words[1])
	case len(words) != 3:
		return nil, errors.New("a time like 2026-12-31T18:00Z is wanted behind expires, and nothing behind that")
	}
	entry.Expires, err = parseTime(words[2])
	return entry, err
}

func parseTime(s string) (time.Time, error) {
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02"} {
		if t, err := time.Parse(form, s); err == nil && !t.IsZero() {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time: 2026-12-31T18:00Z or 2026-12-31 was wanted", s)
}

// entries are the allowlist without its comments.
func entries(lines []allowLine) []bundle.Allowed {
	all := []bundle.Allowed{}
	for _, l := range lines {
		if l.entry != nil {
			all = append(all, *l.entry)
		}
	}
	return all
}

// renderAllow is the inverse of parseAllow.
func renderAllow(list []bundle.Allowed) string {
	var b strings.Builder
	for _, a := range list {
		b.WriteString(lineOfAllowed(a) + "\n")
	}
	return b.String()
}

func lineOfAllowed(a bundle.Allowed) string {
	if a.Expires.IsZero() {
		return a.Host.String()
	}
	return a.Host.String() + "  expires " + a.Expires.UTC().Format(time.RFC3339Nano)
}

// merge is a text that says the list, in the words of an earlier text: its
// comments stay, and its lines as far as the list still has them.
func merge(list []bundle.Allowed, earlier string) string {
	lines, err := parseAllow(earlier)
	if err != nil || earlier == "" {
		return allowHelp + renderAllow(list)
	}
	left := slices.Clone(list)
	var b strings.Builder
	for _, l := range lines {
		if l.entry != nil {
			i := slices.IndexFunc(left, l.entry.Equal)
			if i < 0 {
				continue
			}
			left = slices.Delete(left, i, i+1)
		}
		b.WriteString(l.text + "\n")
	}
	return b.String() + renderAllow(left)
}

// diffAllow is what becomes of a list, a line each.
func diffAllow(old, new []bundle.Allowed) string {
	var b strings.Builder
	lines := func(sign string, these, those []bundle.Allowed) {
		those = slices.Clone(those)
		for _, a := range these {
			if i := slices.IndexFunc(those, a.Equal); i >= 0 {
				those = slices.Delete(those, i, i+1)
				continue
			}
			fmt.Fprintf(&b, "%s %s\n", sign, lineOfAllowed(a))
		}
	}
	lines("-", old, new)
	lines("+", new, old)
	return b.String()
}
