package secrets

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// neighbours are what may stand directly beside a token.
func neighbours() map[string]func(string) string {
	beside := func(before, after string) func(string) string {
		return func(s string) string { return before + s + after }
	}
	all := map[string]func(string) string{
		"a sentence":       beside(`{"content":"The key is `, `.  Please"}`),
		"an element":       beside("<k>", "</k>"),
		"a list":           beside("", ",B=1"),
		"a query":          beside("k=", "&b=1"),
		"user information": beside("https://u:", "@host/"),
		"a path":           beside("/", "/y"),
		"letters":          beside("x", "z"),
		"a name":           beside("my_key_", "_end"),
		"digits":           beside("1", "2"),
		"a range":          beside("Range: ", "=0-1"),
		"a file":           beside(`filename="`, `.txt"`),
		"lines of JSON":    beside(`"a\n`, `,secret\n"`),
		"tabs of JSON":     beside(`"a\t`, `\t"`),
		"percent":          beside("%20", "%20"),
		"colour":           beside("\x1b[1m", "\x1b[0m"),
		"protobuf": func(s string) string {
			return "\x0a" + string(binary.AppendUvarint(nil, uint64(len(s)))) + s + "\x12\x03abc"
		},
		"msgpack": func(s string) string {
			return "\x82\xa1k\xda" + string([]byte{byte(len(s) >> 8), byte(len(s))}) + s + "\xa1b\x01"
		},
		"CBOR": func(s string) string {
			return "\xa1\x61k\x79" + string([]byte{byte(len(s) >> 8), byte(len(s))}) + s + "\xff"
		},
		"PNG":            beside("\x00\x00\x00\x30tEXtComment\x00", "\x12\x34\x56\x78\x00\x00\x00\x00IEND"),
		"a zip's name":   beside("PK\x01\x02\x14\x00", "PK\x05\x06\x00"),
		"STOMP":          beside("SEND\nlogin:", "\n\nbody\x00"),
		"MQTT":           beside("\x30\x2e\x00\x01t", "\xe0\x00"),
		"UTF-8":          beside("é", "é"),
		"Chinese":        beside("密钥是", "。"),
		"quotes":         beside("“", "”"),
		"a semicolon":    beside("a;", ";b"),
		"nothing":        beside("", ""),
		"a NUL":          beside("\x00", "\x00"),
		"0xff":           beside("\xff", "\xff"),
		"single quotes":  beside("'", "'"),
		"escaped quotes": beside(`\"`, `\"`),
		"a template":     beside("${", "}"),
	}
	for _, pair := range []string{"()", "[]", "{}", "<>", "||", "::", "==", "**", "~~", "##", "\\\\", "``", "!!", "^^", "++"} {
		all[pair] = beside(pair[:1], pair[1:])
	}
	return all
}

// TestShapesBetweenAnyNeighbours: a token of a rule that knows it by its shape is found whatever
// stands beside it, as it is and in what is decoded.
func TestShapesBetweenAnyNeighbours(t *testing.T) {
	rs, err := compileBuiltin()
	if err != nil {
		t.Fatal(err)
	}
	s := newScanner(t, Options{})
	r := rand.New(rand.NewPCG(2, 2))
	encodings := map[string]func(string) string{
		"as it is": func(s string) string { return s },
		"base64":   std64,
		"hex":      func(s string) string { return hex.EncodeToString([]byte("abc " + s)) },
		"percent":  url.QueryEscape,
		"JSON": func(s string) string {
			b, _ := json.Marshal(s)
			return string(b)
		},
	}
	all := neighbours()
	names := slices.Sorted(maps.Keys(all))
	shapes, tried := 0, 0
	for i := range rs.rules {
		rule := &rs.rules[i]
		if rule.pathOnly || rule.pathed || rule.body().shape == nil {
			continue
		}
		shapes++
		value, aside := "", ""
		if re := rule.body().shape.re; !requiresKeyword(re, rule.words) { // the rule wants its word somewhere
			aside = " " + rule.words[0]
		}
		for range 200 {
			var b strings.Builder
			sample(r, rule.body().shape.re, &b)
			if len(b.String()) > 700 || !looksRandom(b.String()) || rule.id == awsRule && inScope(b.String()) {
				continue
			}
			if found, err := s.Scan(t.Context(), []byte(b.String()+aside)); err == nil && rules(found)[rule.id] {
				value = b.String()
				break
			}
		}
		if value == "" {
			t.Errorf("%s: no sample is found by itself", rule.id)
			continue
		}
		var missed []string
		for _, name := range names {
			for encoding, encode := range encodings {
				if aside != "" && encoding != "as it is" { // the word may be decoded apart from the token
					continue
				}
				tried++
				text := encode(all[name](value) + aside)
				if found, err := s.Scan(t.Context(), []byte(text)); err != nil || len(found) == 0 {
					missed = append(missed, fmt.Sprintf("%s, %s", name, encoding))
				}
			}
		}
		if len(missed) > 0 {
			t.Errorf("%s: %d missed: %v", rule.id, len(missed), missed[:min(len(missed), 8)])
		}
	}
	if shapes < 90 || len(names) < 40 {
		t.Errorf("only %d rules and %d neighbours", shapes, len(names))
	}
	t.Logf("%d rules, %d neighbours, %d texts", shapes, len(names), tried)
}

// TestAccessKeyIdentifiers: one is found in any case of its letters, but not in a signature, where
// it is public.
func TestAccessKeyIdentifiers(t *testing.T) {
	s := newScanner(t, Options{})
	r := rand.New(rand.NewPCG(5, 2))
	id := newToken(t, s, r, awsRule)
	for text, want := range map[string]bool{
		id: true, strings.ToLower(id): true, `"a\n` + strings.ToLower(id) + `,secret\n"`: true,
		"X-Amz-Credential=" + id + "%2F20261130%2Fus-east-1%2Fs3%2Faws4_request":     false,
		"Credential=" + id + "/20261130/us-east-1/s3/aws4_request, SignedHeaders=h":  false,
		`"X-Amz-Credential": "` + id + `\/20261130\/eu-central-1\/s3\/aws4_request"`: false,
		"X-Amz-Credential=" + id:    true,
		id + "/20261130/x":          true,
		id + "/19/us-east-1/s3/":    true,
		"asia" + "pacificregionweb": false,
	} {
		if found, err := s.Scan(t.Context(), []byte(text)); err != nil || rules(found)[awsRule] != want {
			t.Errorf("%q: %v, %v, want a finding: %v", strings.ReplaceAll(text, id, "ID"), found, err, want)
		}
	}
}
