package secrets

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWordsFindsWhatContainsFinds(t *testing.T) {
	keywords := []string{"he", "she", "his", "hers", "Key", "eyJ", "-----begin", "api_key", "k8"}
	w, err := newWords(keywords)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "ushers", "SHE said his KEY", "-----BEGIN API_KEY-----", "\xff\x00key\xfe", "k8s K8", strings.Repeat("hers", 50)} {
		var got, want []string
		w.each(text, func(k, start, end int) bool {
			got = append(got, fmt.Sprint(k, start))
			if !strings.EqualFold(text[start:end], keywords[k]) {
				t.Errorf("%q at %d is not %q", text[start:end], start, keywords[k])
			}
			return true
		})
		for k, keyword := range keywords {
			for i := range text {
				if i+len(keyword) <= len(text) && strings.EqualFold(text[i:i+len(keyword)], keyword) {
					want = append(want, fmt.Sprint(k, i))
				}
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
		if w.in(text) != (len(want) > 0) {
			t.Errorf("%q: in is %v", text, w.in(text))
		}
	}
}

func TestDecodedViews(t *testing.T) {
	plain := "some plain words, long enough"
	b64 := base64.StdEncoding.EncodeToString([]byte(plain))
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "just words", ""},
		{"short run", "QUJDREVG", ""},
		{"base64", "x: " + b64 + ";", "x: " + plain + ";"},
		{"base64 behind a name", "name_" + b64, plain},
		{"base64 of binary with words", base64.RawStdEncoding.EncodeToString([]byte("\x00\xff\x01" + plain + "\x02")), plain + "\x02"},
		{"base64 of binary", base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte("\x00\xff\x01\xfe\x03\xf0\x13"), 9)), ""},
		{"hex", fmt.Sprintf("<%x>", plain), "<" + plain + ">"},
		{"percent", "a%20b%2Bc%zz", "a b+c%zz"},
		{"json", `\u0041\x42\\u0043`, `AB\u0043`},
		{"code points", "U+0041 U+0042", "AB"},
		{"octal and braces", `\101\u{42}\U00000043`, "ABC"},
		{"entities", "&#65;&#x42;&lt;&#67 &unknown; &", "AB<C &unknown; &"},
		{"quoted-printable", "=41=42=43 a=41", "ABC a=41"},
		{"UTF-7", "+AEEAQgBD-", "ABC"},
		{"no escapes", `100% \ U- \u12 &c; a=12`, ""},
		{"wrapped", "QUJD\r\nREVG\r\nRw\r\n", "QUJDREVGRw"},
		{"decimal", "[115, 111,109,101, 32,116,101,120,116, 46,46, 46,46]", "[some text....]"},
		{"spaced", "s.o.m.e.W.o.r.d.s.f.r.o.m.h.e.r.e.", "someWordsfromhere"},
		{"tags", "a\U000e0041\U000e0042", "aAB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, v := range decodedViews(surveyed(c.text)) {
				got = append(got, v.text)
			}
			found := slices.ContainsFunc(got, func(text string) bool { return strings.Contains(text, c.want) })
			if (c.want == "") != (len(got) == 0) || c.want != "" && !found {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Data made of keywords is the worst case: it is slow, but not endless.
func TestFloodsOfKeywords(t *testing.T) {
	s := newScanner(t, Options{})
	for _, unit := range []string{
		"key = ", "secret", "eyJ", "s.", "token:aaaaaaaaaaaa ", "-----BEGIN PRIVATE " + "KEY-----\n", `\u0041`, "%41", "deadbeef", "A\x00", "hooks.slack.com/services/",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		if _, err := s.Scan(ctx, []byte(strings.Repeat(unit, 64<<10/len(unit)))); err != nil {
			t.Errorf("%q: %v", unit, err)
		}
		cancel()
	}
}

// surveyed is a text and its runs, as look has them.
func surveyed(text string) (input, []stretch) {
	s := input{text: text, index: newByteIndex(text)}
	return s, s.index.runs(ofB64, minRun)
}
