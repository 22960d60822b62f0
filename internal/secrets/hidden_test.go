package secrets

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/ascii85"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// each applies a format to every byte.
func eachByte(format, between string) func(string) string {
	return func(s string) string {
		var parts []string
		for i := range len(s) {
			parts = append(parts, fmt.Sprintf(format, s[i]))
		}
		return strings.Join(parts, between)
	}
}

func spacedBy(n int, between string) func(string) string {
	return func(s string) string {
		var parts []string
		for part := range slices.Chunk([]byte(s), n) {
			parts = append(parts, string(part))
		}
		return strings.Join(parts, between)
	}
}

func std64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func twice(f func(string) string) func(string) string {
	return func(s string) string { return f(f(s)) }
}

func after64(n int) func(string) string {
	return func(s string) string { return std64(strings.Repeat("\xfe", n) + s + "\xfd\x01") }
}

func mapped(from, to string) func(string) string {
	var pairs []string
	others := []rune(to)
	for i, c := range from {
		pairs = append(pairs, string(c), string(others[i]))
	}
	return strings.NewReplacer(pairs...).Replace
}

func squash(open func(io.Writer) io.WriteCloser) func(string) string {
	return func(s string) string {
		var b bytes.Buffer
		w := open(&b)
		_, _ = io.WriteString(w, s)
		_ = w.Close()
		return b.String()
	}
}

var compressors = map[string]func(string) string{
	"gzip": squash(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
	"zlib": squash(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }),
	"deflate": squash(func(w io.Writer) io.WriteCloser {
		z, _ := flate.NewWriter(w, 9)
		return z
	}),
	"br": squash(func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }),
	"zstd": squash(func(w io.Writer) io.WriteCloser {
		z, _ := zstd.NewWriter(w)
		return z
	}),
}

func ascii85Of(s string) string {
	b := make([]byte, ascii85.MaxEncodedLen(len(s)))
	return string(b[:ascii85.Encode(b, []byte(s))])
}

// in85 is Ascii85 in another alphabet.
func in85(alphabet string) func(string) string {
	return func(s string) string {
		out := []byte(strings.ReplaceAll(ascii85Of(s), "z", "!!!!!"))
		for i, c := range out {
			out[i] = alphabet[c-'!']
		}
		return string(out)
	}
}

func utf7All(s string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u>>8), byte(u))
	}
	return "+" + base64.RawStdEncoding.EncodeToString(b) + "-"
}

func wrap(n int, end string) func(string) string {
	return func(s string) string { return spacedBy(n, end)(s) + end }
}

func fullwidth(s string) string {
	return strings.Map(func(c rune) rune {
		if c > ' ' && c < 0x7f {
			return c + 0xfee0
		}
		return c
	}, s)
}

func inJSON(make func(parts []string) any) func(string) string {
	return func(s string) string {
		n := (len(s) + 3) / 4
		var parts []string
		for part := range slices.Chunk([]byte(s), n) {
			parts = append(parts, string(part))
		}
		b, _ := json.Marshal(make(parts))
		return string(b)
	}
}

// disguises are the ways in which a value may be hidden, each a single layer or what people lay
// over each other.
func disguises() map[string]func(string) string {
	type kv = map[string]string
	all := map[string]func(string) string{
		"plain":             func(s string) string { return s },
		"JSON escapes":      eachByte(`\u%04x`, ""),
		"JSON escapes, big": eachByte(`\u%04X`, ""),
		"braces":            eachByte(`\u{%x}`, ""),
		"C escapes":         eachByte(`\x%02x`, ""),
		"octal escapes":     eachByte(`\%03o`, ""),
		"JavaScript's":      eachByte("%%u%04x", ""),
		"percent":           eachByte("%%%02X", ""),
		"percent, once":     func(s string) string { return fmt.Sprintf("%%%02x", s[0]) + s[1:] },
		"percent, thrice": func(s string) string {
			return url.QueryEscape(url.QueryEscape(eachByte("%%%02X", "")(s)))
		},
		"entities":                eachByte("&#%d;", ""),
		"entities, hex":           eachByte("&#x%x;", ""),
		"entities, open":          eachByte("&#%d", ""),
		"quoted-printable":        eachByte("=%02X", ""),
		"code points":             eachByte("U+%04X", " "),
		"base64":                  std64,
		"base64, twice":           twice(std64),
		"base64, four times":      twice(twice(std64)),
		"base64url":               func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"base64, wrapped at 76":   func(s string) string { return wrap(76, "\r\n")(std64(strings.Repeat("some text and ", 12) + s)) },
		"base64, wrapped at 16":   func(s string) string { return wrap(16, "\n")(std64(s)) },
		"base64, wrapped in JSON": func(s string) string { return `"` + wrap(20, `\n`)(std64("key: "+s+", and so on")) + `"` },
		"base64, quoted":          func(s string) string { return "> " + strings.ReplaceAll(wrap(40, "\n> ")(std64(s)), "> \n", "") },
		"base64, glued":           func(s string) string { return "dataXXtext" + std64(s) + "andmore" },
		"base64, PHP's":           func(s string) string { return strings.ReplaceAll(std64(s+"???>>>"), "/", `\/`) },
		"base64 at 1":             after64(31),
		"base64 at 2":             after64(32),
		"base64 at 0":             after64(33),
		"base32":                  func(s string) string { return base32.StdEncoding.EncodeToString([]byte(s)) },
		"base32, small":           func(s string) string { return strings.ToLower(base32.StdEncoding.EncodeToString([]byte(s))) },
		"base32, glued":           func(s string) string { return "x-" + base32.StdEncoding.EncodeToString([]byte("abc"+s)) },
		"base32 in hex's order":   func(s string) string { return base32.HexEncoding.EncodeToString([]byte(s)) },
		"base64, reversed":        func(s string) string { return reversed(std64("my key is " + s)) },
		"base64, by 13":           func(s string) string { return rot13(std64("my key is " + s)) },
		"JSON pieces in JSON": inJSON(func(p []string) any {
			return kv{"text": "the list is [\"" + strings.Join(p, "\", \"") + "\"] in the end"}
		}),
		"single quotes":          func(s string) string { return "x = '" + s[:9] + "' + '" + s[9:] + "';" },
		"backticks":              func(s string) string { return "x = `" + s[:9] + "` + `" + s[9:] + "`;" },
		"soft line breaks":       func(s string) string { return "the key is " + fmt.Sprintf("=%02X", s[0]) + s[1:9] + "=\r\n" + s[9:] },
		"hex":                    func(s string) string { return hex.EncodeToString([]byte(s)) },
		"hex, big":               func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"hex, glued":             func(s string) string { return "id=f" + hex.EncodeToString([]byte(s)) + "q" },
		"hex, wrapped":           func(s string) string { return wrap(32, "\n")(hex.EncodeToString([]byte(s))) },
		"hex, spaced":            eachByte("%02x", " "),
		"hex, with colons":       eachByte("%02X", ":"),
		"hex of an array":        eachByte("0x%02x", ", "),
		"hex of base64":          func(s string) string { return hex.EncodeToString([]byte(std64(s))) },
		"base64 of hex":          func(s string) string { return std64(hex.EncodeToString([]byte(s))) },
		"Ascii85":                ascii85Of,
		"Ascii85, Adobe's":       func(s string) string { return "<~" + ascii85Of(s) + "~>" },
		"Python's b85":           in85("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"),
		"Z85":                    in85("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"),
		"decimal":                eachByte("%d", ", "),
		"decimal, tight":         eachByte("%d", ","),
		"decimal, spaced":        eachByte("%d", " "),
		"octal numbers":          eachByte("%03o", " "),
		"octal, of an array":     eachByte("0%o", ","),
		"binary":                 eachByte("%08b", " "),
		"UTF-16LE":               func(s string) string { return string(utf16le(s)) },
		"UTF-16BE":               func(s string) string { return string(utf16be(s)) },
		"UTF-32":                 func(s string) string { return string(utf32le(s)) },
		"UTF-16 in base64":       func(s string) string { return std64(string(utf16le(s))) },
		"UTF-7":                  utf7All,
		"reversed":               reversed,
		"rot13":                  rot13,
		"zero width":             spacedBy(1, "\u200b"),
		"joiners":                spacedBy(3, "\u2060"),
		"soft hyphens":           spacedBy(5, "\u00ad"),
		"tags":                   func(s string) string { return strings.Map(func(c rune) rune { return c + 0xe0000 }, s) },
		"underlined":             spacedBy(1, "\u0332"),
		"full width":             fullwidth,
		"bold":                   func(s string) string { return strings.Map(bold, s) },
		"homoglyphs":             mapped("aceiopsxyABCEHIKMOPTX", "асеіорѕхуАВСЕНІКМОРТХ"),
		"spaces":                 spacedBy(1, " "),
		"dots":                   spacedBy(1, "."),
		"hyphens":                spacedBy(1, "-"),
		"pairs":                  spacedBy(2, " "),
		"fours":                  spacedBy(4, "-"),
		"commas":                 spacedBy(1, ", "),
		"lines":                  spacedBy(1, "\n"),
		"lines of ten":           wrap(10, "\n"),
		"an array of characters": inArray(1),
		"JSON, values in order":  inJSON(func(p []string) any { return kv{"a": p[0], "b": p[1], "c": p[2], "d": p[3]} }),
		"JSON, an array":         inJSON(func(p []string) any { return p }),
		"JSON, objects": inJSON(func(p []string) any {
			return []kv{{"type": "t", "v": p[0]}, {"type": "t", "v": p[1]}, {"type": "t", "v": p[2]}, {"type": "t", "v": p[3]}}
		}),
		"JSON, keys":                inJSON(func(p []string) any { return []kv{{p[0]: "x"}, {p[1]: "y"}, {p[2]: "z"}, {p[3]: "w"}} }),
		"JSON in JSON":              inJSON(func(p []string) any { return kv{"text": `{"a": "` + strings.Join(p, "") + `"}`} }),
		"a sum of strings":          func(s string) string { return `x = "` + s[:9] + `" + "` + s[9:] + `"` },
		"a form":                    func(s string) string { return "a=" + s[:7] + "&b=" + s[7:15] + "&c=" + s[15:] },
		"gzip, then base64 in JSON": func(s string) string { return `{"d": "` + std64(compressors["gzip"](s)) + `"}` },
		"gzip behind something":     func(s string) string { return "some text\r\n" + compressors["gzip"](s) },
		"base64 in gzip":            func(s string) string { return compressors["gzip"](std64(s)) },
		"hex as UUIDs": func(s string) string {
			digits := hex.EncodeToString([]byte(s + strings.Repeat(" ", (16-len(s)%16)%16)))
			var all []string
			for ; digits != ""; digits = digits[32:] {
				all = append(all, `"`+digits[:8]+"-"+digits[8:12]+"-"+digits[12:16]+"-"+digits[16:20]+"-"+digits[20:32]+`"`)
			}
			return "[" + strings.Join(all, ", ") + "]"
		},
		"calls of chr":  eachByte("chr(%d)", "+"),
		"calls of CHAR": eachByte("CHAR(0x%02x)", " || "),
		"calls of Chr":  eachByte("Chr(%d)", " & "),
		"hex of gzip":   func(s string) string { return hex.EncodeToString([]byte(compressors["gzip"](s))) },
	}
	for name, squash := range compressors {
		all[name] = squash
		all[name+", then base64"] = func(s string) string { return std64(squash("the key is " + s + " as you asked")) }
	}
	return all
}

func inArray(n int) func(string) string {
	return func(s string) string {
		var parts []string
		for part := range slices.Chunk([]byte(s), n) {
			parts = append(parts, string(part))
		}
		b, _ := json.Marshal(parts)
		return string(b)
	}
}

// bold writes letters as Unicode has them for mathematics.
func bold(c rune) rune {
	switch {
	case c >= 'a' && c <= 'z':
		return c - 'a' + 0x1d41a
	case c >= 'A' && c <= 'Z':
		return c - 'A' + 0x1d400
	case c >= '0' && c <= '9':
		return c - '0' + 0x1d7ce
	}
	return c
}

// alnum is random text; it is made when it is needed, so that this file holds no secret.
func alnum(r *rand.Rand, alphabet string, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	upper32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// shapes are tokens as providers make them.
var shapes = map[string]func(r *rand.Rand) string{
	"github-pat":        func(r *rand.Rand) string { return "gh" + "p_" + alnum(r, letters, 36) },
	"aws-access-token":  func(r *rand.Rand) string { return "AK" + "IA" + alnum(r, upper32, 15) + "7" },
	"gcp-api-key":       func(r *rand.Rand) string { return "AI" + "za" + alnum(r, letters, 35) },
	"anthropic-api-key": func(r *rand.Rand) string { return "sk-" + "ant-api03-" + alnum(r, letters+"-_", 93) + "AA" },
	"slack-bot-token": func(r *rand.Rand) string {
		return "xo" + "xb-" + alnum(r, "0123456789", 12) + "-" + alnum(r, "0123456789", 12) + "-" + alnum(r, letters, 24)
	},
	"stripe-access-token": func(r *rand.Rand) string {
		return "sk_" + "live_" + alnum(r, letters, 24)
	},
	"openai-api-key": func(r *rand.Rand) string {
		return "sk-" + alnum(r, letters, 20) + "T3" + "BlbkFJ" + alnum(r, letters, 20)
	},
	"npm-access-token": func(r *rand.Rand) string { return "npm" + "_" + alnum(r, letters, 36) },
}

// surroundings in which a value is hidden.
var around = []func(string) string{
	func(s string) string { return s },
	func(s string) string { return "please look at this: " + s + " and tell me" },
	func(s string) string {
		return strings.Repeat("the quick brown fox jumps over the lazy dog\n", 200) + s + "\n" + strings.Repeat("lorem ipsum dolor sit amet ", 300)
	},
}

// alone are disguises that are recognised only where nothing stands before them.
var alone = []string{"gzip", "zlib", "deflate", "br", "zstd", "base64 in gzip"}

// newToken makes a token that is found when nothing hides it, and that does not look like words by
// chance: a few of them do.
func newToken(t testing.TB, s *Scanner, r *rand.Rand, rule string) string {
	t.Helper()
	for range 100 {
		value := shapes[rule](r)
		if found, err := s.Scan(t.Context(), []byte(value)); err == nil && rules(found)[rule] && looksRandom(value) {
			return value
		}
	}
	t.Fatalf("%s: no token is found", rule)
	return ""
}

func TestHiddenSecretsAreFound(t *testing.T) {
	s := newScanner(t, Options{ArchiveDepth: 4})
	r := rand.New(rand.NewPCG(39, 54))
	missed := map[string]int{}
	n := 0
	all := disguises()
	for _, name := range slices.Sorted(maps.Keys(all)) { // in order, so that every run has the same values
		hide := all[name]
		for _, rule := range slices.Sorted(maps.Keys(shapes)) {
			for i, place := range around {
				if i > 0 && slices.Contains(alone, name) {
					continue
				}
				value := newToken(t, s, r, rule)
				n++
				found, err := s.Scan(t.Context(), []byte(place(hide(value))))
				if err != nil || !rules(found)[rule] {
					missed[name+" / "+rule]++
					if err != nil {
						t.Errorf("%s / %s: %v", name, rule, err)
					}
				}
			}
		}
		for i, place := range around {
			if i > 0 && slices.Contains(alone, name) {
				continue
			}
			value := alnum(r, letters, 24)
			n++
			if found, err := knowing(t, value).Scan(t.Context(), []byte(place(hide(value)))); err != nil || !rules(found)["E"] {
				missed[name+" / known"]++
			}
		}
	}
	for what, times := range missed {
		t.Errorf("missed %d times: %s", times, what)
	}
	t.Logf("%d hidden values", n)
}

// knowing is a scanner that knows a value.
func knowing(t testing.TB, value string) *Scanner {
	t.Helper()
	text, err := NewDigest(value, "0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDigest(text)
	if err != nil {
		t.Fatal(err)
	}
	return newScanner(t, Options{ArchiveDepth: 4, Known: map[string]Digest{"E": d}})
}

// TestTokensInPiecesAreFound cuts values into what several fields, frames or requests may hold.
func TestTokensInPiecesAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 2))
	s := newScanner(t, Options{})
	for _, rule := range slices.Sorted(maps.Keys(shapes)) {
		for range 20 {
			value := newToken(t, s, r, rule)
			at := 1 + r.IntN(len(value)-1)
			pieces := [][]byte{[]byte("first"), []byte(value[:at]), []byte(value[at:]), []byte(" last")}
			if found, err := s.Pieces(t.Context(), pieces); err != nil || !rules(found)[rule] {
				t.Errorf("%s cut at %d: %v, %v", rule, at, found, err)
			}
		}
	}
	value := alnum(r, letters, 24)
	if found, err := knowing(t, value).Pieces(t.Context(), [][]byte{[]byte("x" + value[:9]), []byte(value[9:] + "y")}); err != nil || !rules(found)["E"] {
		t.Errorf("a known value: %v, %v", found, err)
	}
	words := [][]byte{[]byte("api_key"), []byte("="), []byte(alnum(r, letters, 30))}
	if found, err := s.Pieces(t.Context(), words); err != nil || len(found) > 0 {
		t.Errorf("what is only named a secret: %v, %v", found, err)
	}
}
