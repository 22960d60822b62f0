package secrets

import (
	"strconv"
	"strings"
)

// minList is from how many numbers on a list is read as characters, and minDigits how many decimal
// digits it has at least, be it hexadecimal.
const (
	minList   = 12
	minDigits = 6
)

// ofList are the bytes that a list of numbers is made of: digits in any base, their prefixes (0x,
// \x), and separators.
var ofList = func() (t [256]bool) {
	for _, c := range []byte("0123456789abcdefABCDEFxXo,;:|/-_.\\ \t\r\n\"'[](){}") {
		t[c] = true
	}
	return t
}()

// number is a row of digits in a text.
type number struct {
	from, to int
	text     string
}

// unlist reads lists of numbers as characters: decimal, hexadecimal, octal, binary.
func unlist(s input) (views []view) {
	text := s.text
	least := 3*minList - 1 // 12 numbers of two digits, and what is between them
	var edits [4][]edit
	end := 0
	for at := least - 1; at < len(text); at += least {
		if !ofList[text[at]] || s.index.count(ofDigit, at-least, at+least) < minDigits {
			continue
		}
		from := at
		for from > end && ofList[text[from-1]] {
			from--
		}
		for end = at + 1; end < len(text) && ofList[text[end]]; {
			end++
		}
		if end-from >= least {
			numbers := numbersIn(text, from, end)
			for i, base := range []int{10, 16, 8, 2} {
				edits[i] = inBase(edits[i], numbers, base)
			}
		}
		at = max(at, end-1)
	}
	for _, e := range edits {
		views = append(views, s.applyEdits(e, true)...)
	}
	return views
}

// numbersIn splits a region into its numbers.
func numbersIn(text string, from, end int) (all []number) {
	for at := from; at < end; {
		if class[text[at]]&isHex == 0 && !prefixed(text[at:end]) {
			at++
			continue
		}
		n := number{from: at}
		if prefixed(text[at:end]) {
			at++
			if text[at-1] == '0' {
				at++
			}
		}
		start := at
		for at < end && class[text[at]]&isHex != 0 {
			at++
		}
		n.to, n.text = at, text[start:at]
		all = append(all, n)
	}
	return all
}

// prefixed reports whether a number begins with x, 0x or 0o.
func prefixed(s string) bool {
	s = strings.TrimPrefix(s, "0")
	return len(s) > 1 && strings.IndexByte("xXo", s[0]) >= 0 && class[s[1]]&isHex != 0
}

// inBase adds the rows of numbers that are characters in that base.
func inBase(edits []edit, numbers []number, base int) []edit {
	var value []byte
	first := 0
	flush := func(end int) {
		if len(value) >= minList && readable(value) {
			edits = append(edits, edit{from: numbers[first].from, to: numbers[end-1].to, value: string(value)})
		}
		value = nil
	}
	for i, n := range numbers {
		c, ok := character(n.text, base)
		if ok && len(value) > 0 && n.from-numbers[i-1].to > maxBetween {
			flush(i)
		}
		if !ok {
			flush(i)
			continue
		}
		if len(value) == 0 {
			first = i
		}
		value = append(value, c)
	}
	flush(len(numbers))
	return edits
}

// maxBetween is how many bytes may be between the numbers of a list.
const maxBetween = 16

// character reads one number with as many digits as a list has for a byte.
func character(digits string, base int) (byte, bool) {
	switch n := len(digits); base {
	case 16:
		if n != 2 {
			return 0, false
		}
	case 2:
		if n < 7 || n > 8 {
			return 0, false
		}
	default:
		if n < 1 || n > 4 {
			return 0, false
		}
	}
	v, err := strconv.ParseUint(digits, base, 8)
	return byte(v), err == nil && printable(byte(v))
}
