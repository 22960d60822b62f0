package policy

import (
	"fmt"
	"strings"
)

// Shown is a host, with or without a port, as it may be written down when it was refused:
// labels that are long, or look drawn by chance, may hold what was to be smuggled
// out in them, and are shortened.
func Shown(host string) string {
	labels := strings.Split(host, ".")
	for i, l := range labels {
		if len(l) > 40 || len(l) >= 20 && strings.Trim(l, "0123456789abcdef") == "" || len(l) >= 16 && !uuidLike(l) && mixed(l) {
			labels[i] = fmt.Sprintf("%.4s…(%d)", l, len(l))
		}
	}
	return strings.Join(labels, ".")
}

// mixed tells whether letters and digits take turns as they do not in words.
func mixed(label string) bool {
	changes, n, last := 0, 0, byte(0)
	for i := range len(label) {
		var c byte
		switch b := label[i]; {
		case b >= '0' && b <= '9':
			c = 'd'
		case b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z':
			c = 'l'
		default:
			continue
		}
		if n++; last != 0 && c != last {
			changes++
		}
		last = c
	}
	return n > 0 && changes*5 >= n
}

// ShownSegment is a segment of a path as it may be written down: one that is
// long, or looks drawn by chance, may hold a secret.
func ShownSegment(s string) string {
	if len(s) > 32 && !uuidLike(s) || len(s) >= 20 && !uuidLike(s) && drawn(s) {
		return fmt.Sprintf("%.4s…(%d)", s, len(s))
	}
	return s
}

// drawn tells whether digits, small letters and capitals take turns as they do not in
// words.
func drawn(s string) bool {
	changes, digits, last := 0, false, byte(0)
	for i := range len(s) {
		var c byte
		switch b := s[i]; {
		case b >= '0' && b <= '9':
			c, digits = 'd', true
		case b >= 'a' && b <= 'z':
			c = 'l'
		case b >= 'A' && b <= 'Z':
			c = 'u'
		default:
			continue
		}
		if last != 0 && c != last {
			changes++
		}
		last = c
	}
	return digits && changes*4 >= len(s)
}

// uuidLike tells whether a label is in the groups of a UUID.
func uuidLike(label string) bool {
	groups := strings.Split(label, "-")
	return len(groups) == 5 && len(groups[0]) == 8 && len(groups[1]) == 4 && len(groups[2]) == 4 && len(groups[3]) == 4 && len(groups[4]) == 12
}

// Shown is the authority as it may be written down when it was refused.
func (a Authority) Shown() string { return Shown(a.String()) }
