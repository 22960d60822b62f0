package secrets

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWordsFindsWhatContainsFinds(t *testing.T) {
	keywords := []string{"he", "she", "his", "hers", "Key", "eyJ", "-----begin", "api_key", "k"}
	w, err := newWords(keywords)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "ushers", "SHE said his KEY", "-----BEGIN API_KEY-----", "\xff\x00key\xfe", strings.Repeat("hers", 50)} {
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

func TestUndo(t *testing.T) {
	plain := "some plain words, long enough"
	b64 := base64.StdEncoding.EncodeToString([]byte(plain))
	cases := []struct {
		name, text, want string
		undo             func(string) (layer, bool)
	}{
		{"nothing", "just words", "", unwrap},
		{"short run", "QUJDREVG", "", unwrap},
		{"base64", "x: " + b64 + ";", "x: " + plain + "=;", unwrap},
		{"base64 behind a name", "name_" + b64, plain + "=", unwrap},
		{"base64 of binary with words", base64.RawStdEncoding.EncodeToString([]byte("\x00\xff\x01" + plain + "\x02")), "\x00\xff\x01" + plain + "\x02", unwrap},
		{"base64 of binary", base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\x00\xff\x01\xfe", 30))), "", unwrap},
		{"hex", fmt.Sprintf("<%x>", plain), "<" + plain + ">", unwrap},
		{"percent", "a%20b%2Bc%zz", "a b+c%zz", unescape},
		{"json", `\u0041\x42\\u0043`, "ABC", unescape},
		{"code points", "U+0041 U+0042", "AB", unescape},
		{"no escapes", `100% \ U- \u12`, "", unescape},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l, ok := c.undo(c.text)
			if ok != (c.want != "") || !strings.HasSuffix(l.text, c.want) {
				t.Errorf("got %q %v, want %q", l.text, ok, c.want)
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
