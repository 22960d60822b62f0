package egress

import (
	"net/http"
	"testing"
)

func TestReadableCharsets(t *testing.T) {
	for field, want := range map[string]bool{
		"": true, "text/plain": true, "application/json; charset=utf-8": true, `text/html;charset="UTF-8"`: true, "text/html; charset=": true,
		"text/html; Charset=ISO-8859-1": true, "text/html;charset=windows-1252; a=b": true, "text/html; charset=Shift_JIS": true, "text/plain; charset = us-ascii": true,
		"text/plain;charset=UTF-16": false, "text/plain; charset=utf-16le": false, "text/plain; charset=UTF-32": false, "text/plain; charset=utf-7": false,
		"text/plain; charset=IBM037": false, "text/plain; charset=cp1047": false, "text/plain; charset=ebcdic-cp-us": false, "text/plain; charset=csUnicode": false,
		"text/plain; charset=ISO-2022-KR": false, "text/plain; charset=hz-gb-2312": false, "text/plain; charset=ISO-10646-UCS-2": false, "text/plain; charset=037": false,
		"text/plain; charset=x-UTF-16LE-BOM": false, "text/plain; charset=utf-8; charset=utf-16": false, `text/plain; a="; charset=utf-16"`: false,
		"text/plain; charset*=utf-16": false, "text/plain, text/plain;\tCHARSET='utf-16'": false,
	} {
		if err := checkCharset(http.Header{"Content-Type": {"text/plain", field}}); (err == nil) != want {
			t.Errorf("%q: %v", field, err)
		}
	}
}

func TestAgentCannotChooseTheCharset(t *testing.T) {
	for field, want := range map[string]string{
		"":                                      "",
		"*/*":                                   "*/*",
		"text/plain;charset=UTF-16, */*;q=0.5":  "text/plain, */*;q=0.5",
		"text/plain ; Charset = \"IBM037\";q=1": "text/plain ;q=1",
		"text/plain;a=\"x;charset=utf-16\";b=c": "text/plain;a=\"x;b=c",
		"charset=utf-16":                        "",
		"application/json; charset*=utf-16''x,text/html": "application/json,text/html",
	} {
		h := http.Header{"Accept": {field, "text/html"}, "Accept-Charset": {"utf-16"}}
		withoutCharsets(h)
		if got := h["Accept"]; len(got) != 2 || got[0] != want || got[1] != "text/html" || len(h) != 1 {
			t.Errorf("%q became %q", field, h)
		}
	}
}
