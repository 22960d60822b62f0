package pipelock

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWhy bounds a reason as it is told and written down, in bytes.
const maxWhy = 300

// brief makes one line of a reason, which may have been put together from
// what somebody else sent.
func brief(why string) string {
	if len(why) > 2*maxWhy {
		why = why[:2*maxWhy]
	}
	why = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == utf8.RuneError || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, why)
	if len(why) <= maxWhy {
		return why
	}
	end := maxWhy - len("…")
	for !utf8.RuneStart(why[end]) {
		end--
	}
	return why[:end] + "…"
}
