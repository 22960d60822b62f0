// Package policy holds the nouns that every decision is made of: a host, an
// authority, a pattern, a path, a verdict. It is pure: values in, values out.
// A name that has not been through ParseHost cannot be compared with a rule.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Host is a canonical host: lower case, without a trailing dot, in its
// ASCII (IDNA) form, or an IP address in its shortest form. The zero Host
// matches nothing.
type Host struct {
	name string
	addr netip.Addr
}

// errOddAddress refuses spellings of an address that only some resolvers
// understand (decimal, octal, hexadecimal, short): they exist to slip past a
// comparison.
var errOddAddress = errors.New("an address is written as four decimal numbers or in IPv6 form")

// ParseHost reads a host as it stands in an authority or a configuration.
// IPv6 addresses may stand in brackets. It refuses everything that another
// parser might read differently.
func ParseHost(s string) (Host, error) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
		if !strings.Contains(s, ":") {
			return Host{}, fmt.Errorf("host %q: only an IPv6 address stands in brackets", s)
		}
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return Host{}, fmt.Errorf("host %q: an address with a zone is local to one machine", s)
		}
		addr = addr.Unmap()
		return Host{name: addr.String(), addr: addr}, nil
	}
	for _, r := range s {
		if r > 0x7f && strings.ContainsRune("。．｡", r) {
			return Host{}, fmt.Errorf("host %q: a dot is an ASCII dot", s)
		}
	}
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	if !isASCII(name) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil {
			return Host{}, fmt.Errorf("host %q: not an internationalised domain name: %w", s, err)
		}
		name = ascii
	}
	if err := checkName(name); err != nil {
		return Host{}, fmt.Errorf("host %q: %w", s, err)
	}
	return Host{name: name}, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] > 0x7f {
			return false
		}
	}
	return true
}

// checkName applies RFC 1123 §2.1 and RFC 1035 §2.3.4: letters, digits,
// hyphens and (as used in practice) underscores; labels to 63, names to 253.
func checkName(name string) error {
	if name == "" {
		return errors.New("a host is needed")
	}
	if len(name) > 253 {
		return fmt.Errorf("%d characters: a name has at most 253", len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	if looksNumeric(labels[len(labels)-1]) {
		return errOddAddress
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("an empty label")
	case len(label) > 63:
		return fmt.Errorf("a label of %d characters: at most 63", len(label))
	case label[0] == '-' || label[len(label)-1] == '-':
		return errors.New("a label begins and ends with a letter or a digit")
	}
	for i := range len(label) {
		c := label[i]
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return fmt.Errorf("character %q: a name has letters, digits and hyphens", c)
		}
	}
	return nil
}

// looksNumeric tells whether a last label would be read as a number by an
// inet_aton-style parser (WHATWG URL §3.5, "ends in a number").
func looksNumeric(label string) bool {
	if _, err := strconv.ParseUint(label, 10, 64); err == nil {
		return true
	}
	hex, found := strings.CutPrefix(label, "0x")
	if !found {
		return strings.Trim(label, "0123456789") == ""
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}

// String is the canonical form, an IPv6 address without brackets.
func (h Host) String() string { return h.name }

// Addr is the address when the host is one, and the zero Addr otherwise.
func (h Host) Addr() netip.Addr { return h.addr }

// IsZero tells whether the host was never parsed.
func (h Host) IsZero() bool { return h.name == "" }

// Authority is a host with a port, as fixed when a tunnel opens.
type Authority struct {
	Host Host
	Port uint16
}

// ParseAuthority reads "host" or "host:port"; without a port it takes
// defaultPort, and where that is 0 a port is needed.
func ParseAuthority(s string, defaultPort uint16) (Authority, error) {
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") &&
		(strings.HasPrefix(s, "[") || strings.Count(s, ":") == 1) {
		host, port = s[:i], s[i+1:]
		if port == "" {
			return Authority{}, fmt.Errorf("authority %q: a number after the colon is needed", s)
		}
	}
	h, err := ParseHost(host)
	if err != nil {
		return Authority{}, err
	}
	if port == "" {
		if defaultPort == 0 {
			return Authority{}, fmt.Errorf("authority %q: a port is needed", s)
		}
		return Authority{h, defaultPort}, nil
	}
	n, err := parsePort(port)
	if err != nil {
		return Authority{}, fmt.Errorf("authority %q: %w", s, err)
	}
	return Authority{h, n}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("port %q: a number from 1 to 65535 is needed", s)
	}
	return uint16(n), nil
}

// String is host:port, with brackets around an IPv6 address.
func (a Authority) String() string {
	return a.HostFor(0)
}

// HostFor is the authority as a Host header writes it for a scheme whose
// default port is given: the port is left out when it is that one.
func (a Authority) HostFor(defaultPort uint16) string {
	name := a.Host.String()
	if a.Host.addr.Is6() {
		name = "[" + name + "]"
	}
	if a.Port == defaultPort {
		return name
	}
	return name + ":" + strconv.Itoa(int(a.Port))
}
