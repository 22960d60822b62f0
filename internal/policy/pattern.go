package policy

import (
	"fmt"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// Pattern names hosts in a configuration: an exact host, or "*.suffix", which
// needs at least one label before the suffix; ":port" may follow. The zero
// Pattern matches nothing.
type Pattern struct {
	text   string
	host   Host   // exact, or the suffix after "*."
	suffix bool   // written with "*."
	port   uint16 // 0: not said
}

// ParsePattern reads a pattern. It refuses one so wide that it names other
// people's hosts: "*", or "*." before a public suffix (publicsuffix.org).
func ParsePattern(s string) (Pattern, error) {
	if why := notAHost(s); why != "" {
		return Pattern{}, fmt.Errorf("pattern %q: %s", s, why)
	}
	rest, suffix := strings.CutPrefix(s, "*.")
	h, port, err := hostAndPort(rest)
	if err != nil {
		return Pattern{}, fmt.Errorf("pattern %q: %w", s, err)
	}
	if suffix {
		if h.addr.IsValid() {
			return Pattern{}, fmt.Errorf("pattern %q: an address has no subdomains", s)
		}
		if tooWide(h.name) {
			return Pattern{}, fmt.Errorf("pattern %q: too wide: %q is a public suffix, under which anybody may register", s, h.name)
		}
	}
	return Pattern{text: s, host: h, suffix: suffix, port: port}, nil
}

// notAHost says what people write in place of a host.
func notAHost(s string) string {
	_, rest, scheme := strings.Cut(s, "://")
	switch rest, _, _ = strings.Cut(rest, "/"); {
	case scheme && rest != "" && !strings.Contains(rest, "@"):
		return fmt.Sprintf("a host stands here without its scheme and path: %q", rest)
	case scheme, strings.ContainsAny(s, "/?#"):
		return "a host stands here without scheme, path and query"
	case strings.Contains(s, "@"):
		return "a host stands here without user information"
	case s == "*":
		return "too wide: it names every host there is"
	case strings.Contains(strings.TrimPrefix(s, "*."), "*"):
		return "a star stands only at the beginning, as in \"*.example.com\""
	}
	return ""
}

func hostAndPort(s string) (Host, uint16, error) {
	if !hasPort(s) {
		h, err := ParseHost(s)
		return h, 0, err
	}
	a, err := ParseAuthority(s, 0)
	return a.Host, a.Port, err
}

func hasPort(s string) bool {
	i := strings.LastIndexByte(s, ':')
	return i >= 0 && !strings.HasSuffix(s, "]") && (strings.HasPrefix(s, "[") || strings.Count(s, ":") == 1)
}

// tooWide asks the public suffix list. A single label that the list does not
// know ("*.test") is a suffix by the list's default rule; "*.cdn.test" is not.
func tooWide(name string) bool {
	suffix, _ := publicsuffix.PublicSuffix(name)
	return suffix == name
}

// Matches tells whether the pattern names the host, whatever the port.
func (p Pattern) Matches(h Host) bool {
	if p.host.IsZero() || h.IsZero() {
		return false
	}
	if !p.suffix {
		return p.host.name == h.name
	}
	return !h.addr.IsValid() && strings.HasSuffix(h.name, "."+p.host.name)
}

// MatchesAuthority tells whether the pattern names host and port. Without a
// port of its own the pattern stands for the given default ports.
func (p Pattern) MatchesAuthority(a Authority, defaultPorts ...uint16) bool {
	if !p.Matches(a.Host) {
		return false
	}
	if p.port != 0 {
		return p.port == a.Port
	}
	for _, port := range defaultPorts {
		if port == a.Port {
			return true
		}
	}
	return false
}

// Kin is how many labels at the end the pattern and the host have in common,
// and 0 when those are no more than a public suffix: then two owners have them.
func (p Pattern) Kin(h Host) (n int) {
	if p.host.IsZero() || p.host.addr.IsValid() || h.addr.IsValid() {
		return 0
	}
	ours, theirs := strings.Split(p.host.name, "."), strings.Split(h.name, ".")
	for n < len(ours) && n < len(theirs) && ours[len(ours)-1-n] == theirs[len(theirs)-1-n] {
		n++
	}
	if n == 0 || tooWide(strings.Join(ours[len(ours)-n:], ".")) {
		return 0
	}
	return n
}

// Port is the port that the pattern says, 0 if it says none.
func (p Pattern) Port() uint16 { return p.port }

// Exact is the host that the pattern names, if it names just one.
func (p Pattern) Exact() (Host, bool) { return p.host, !p.suffix && !p.host.IsZero() }

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// UnmarshalText makes Pattern a value that a configuration file can hold.
func (p *Pattern) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePattern(string(text))
	return err
}

// MarshalText is the inverse of UnmarshalText.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }
