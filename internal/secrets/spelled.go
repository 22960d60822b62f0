package secrets

import (
	"encoding/hex"
	"regexp"
	"strconv"
	"strings"
)

var (
	// uuids are two or more UUIDs (RFC 9562) that little separates.
	uuids = regexp.MustCompile(`(?:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}[^0-9a-zA-Z]{0,8}){2,}`)
	// calls are calls in a row that each make a character of a number, as in Python, PHP, BASIC and
	// SQL, with what joins them.
	calls = regexp.MustCompile(`(?i)(?:cha?rw?\$?\s?\(\s?(?:0x|&h)?[0-9a-f]{2,3}\s?\)[\s+.&,|]{0,6}){12,}`)
	// call is one of them.
	call = regexp.MustCompile(`(?i)\(\s?(0x|&h)?([0-9a-f]{2,3})\s?\)`)
)

// spelled undoes text that is written as the digits of UUIDs, or character by character as calls.
func spelled(s input) (views []view) {
	var edits []edit
	if hasUUID(s.text) {
		for _, at := range uuids.FindAllStringIndex(s.text, -1) {
			digits := strings.Map(func(c rune) rune {
				if c > 0x7f || class[c]&isHex == 0 {
					return -1
				}
				return c
			}, s.text[at[0]:at[1]])
			if plain, err := hex.DecodeString(digits[:len(digits)&^1]); err == nil && readable(plain) {
				edits = append(edits, edit{from: at[0], to: at[1], value: string(plain)})
			}
		}
		views = s.applyEdits(edits, false)
	}
	if !containsCall(s.text) {
		return views
	}
	edits = nil
	for _, at := range calls.FindAllStringIndex(s.text, -1) {
		var value []byte
		for _, one := range call.FindAllStringSubmatch(s.text[at[0]:at[1]], -1) {
			base := 10
			if one[1] != "" {
				base = 16
			}
			if c, err := strconv.ParseUint(one[2], base, 8); err == nil {
				value = append(value, byte(c))
			}
		}
		if readable(value) {
			edits = append(edits, edit{from: at[0], to: at[1], value: string(value)})
		}
	}
	return append(views, s.applyEdits(edits, false)...)
}

// hasUUID reports whether a text may have a UUID, by the distances of the hyphens in it.
func hasUUID(text string) bool {
	for at := 0; ; at++ {
		i := strings.IndexByte(text[at:], '-')
		if i < 0 || at+i+15 >= len(text) {
			return false
		}
		at += i
		if text[at+5] == '-' && text[at+10] == '-' && text[at+15] == '-' {
			return true
		}
	}
}

func containsCall(text string) bool {
	for _, name := range []string{"chr(", "Chr(", "CHR(", "ChrW(", "char(", "CHAR("} {
		if strings.Contains(text, name) {
			return true
		}
	}
	return false
}
