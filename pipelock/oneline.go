package pipelock

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxReason bounds a refusal reason in answers and in the audit, in bytes.
const maxReason = 300

// oneLine makes one bounded, printable line of a reason, which may contain text from outside.
func oneLine(reason string) string {
	if len(reason) > 2*maxReason {
		reason = reason[:2*maxReason]
	}
	reason = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || c == utf8.RuneError || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, reason)
	if len(reason) <= maxReason {
		return reason
	}
	end := maxReason - len("…")
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end] + "…"
}
