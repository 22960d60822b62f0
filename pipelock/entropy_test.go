package pipelock

import (
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	mathrand "math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/lab"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

func TestEntropy(t *testing.T) {
	s := testScanner(t, "secrets: {entropy: {bits: 4.2, length: 32}}\n")
	sum := sha512.Sum512([]byte("x"))
	for _, c := range []struct {
		name, text string
		want       bool // found
	}{
		{"a random key", "x " + base64.RawURLEncoding.EncodeToString(random(48)), true},
		{"in JSON", `{"k": "` + base64.StdEncoding.EncodeToString(random(33)) + `"}`, true},
		{"a short one", base64.RawURLEncoding.EncodeToString(random(15)), false},
		{"a UUID", "550e8400-e29b-41d4-a716-446655440000", false},
		{"a digest", fmt.Sprintf("%x", sum), false},
		{"integrity", `"integrity": "sha512-` + base64.StdEncoding.EncodeToString(sum[:]) + `"`, false},
		{"an image", "data:image/png;base64," + base64.StdEncoding.EncodeToString(random(300)), false},
		{"an image by its beginning", `"data": "iVBORw0KGgo` + base64.StdEncoding.EncodeToString(random(300)) + `"`, false},
		{"a long blob", base64.StdEncoding.EncodeToString(random(4000)), false},
		{"a path", "src/components/AuthenticationProvider/hooks/useAuthenticationState.test", false},
		{"words", "the-quick-brown-fox-jumps-over-the-lazy-dog-and-runs-away", false},
		{"a constant", "AVERY_LONG_CONSTANT_NAME_WITH_VERSION_2_OF_THE_PROTOCOL", false},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(c.text))
		v, _ := outcome(t, s, r)
		if isFinding(v) != c.want || c.want && v.Rule != "secret: high-entropy" {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
	r := httptest.NewRequest("GET", "https://a.ok.test/", nil)
	r.Header.Set("X-Blob", base64.RawURLEncoding.EncodeToString(random(48)))
	if v := s.head(r, scanContext{host: host(t, "a.ok.test")}); v.Rule != "secret: high-entropy" || !strings.Contains(v.Why, "X-Blob") {
		t.Errorf("a field: %+v", v)
	}
	if v := testScanner(t, "").head(r, scanContext{host: host(t, "a.ok.test")}); !v.Allow {
		t.Errorf("off: %+v", v)
	}
}

const ownRules = `
[extend]
useDefault = true
[[rules]]
id = "own-ticket"
regex = '''OWN-[0-9]{6}'''
keywords = ["own-"]
`

// TestOperatorsRules: they are looked for beside the built-in ones, and a
// file that is wrong says so when it is loaded.
func TestOperatorsRules(t *testing.T) {
	dir := t.TempDir()
	load := func(text string) (*scanner, error) {
		path := filepath.Join(dir, "rules.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rules, err := readRules(path)
		if err != nil {
			return nil, err
		}
		return newScanner(bundle.PipelockFile{Secrets: bundle.SecretScan{Rules: path}}, rules, func(string) string { return "" })
	}
	s, err := load(ownRules)
	if err != nil {
		t.Fatal(err)
	}
	for text, rule := range map[string]string{"see OWN-123456": "secret: own-ticket", lab.Token(): "secret: github-pat", "OWN-12": ""} {
		v := s.scanText(t.Context(), "body", []byte(text))
		if v.Allow != (rule == "") || rule != "" && v.Rule != rule {
			t.Errorf("%+v, want %q", v, rule)
		}
	}
	for text, want := range map[string]string{"": "empty", "rules = 1": "secrets.rules", "[[rules]]\nid = \"x\"\nregex = '''('''\n": "secrets.rules", "[extend]\npath = \"/etc/passwd\"\n": "refused"} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "rules.toml") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := readRules(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("%v", err)
	}
}

// TestEntropyFindsEachRandomRun: as who looks at every byte does.
func TestEntropyFindsEachRandomRun(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(3, 4))
	c := entropyDetector{Bits: 2, Length: 12}
	found := 0
	for range 2000 {
		data := make([]byte, r.IntN(90))
		for i := range data {
			data[i] = "aB3dE5fG7hJ9kL2m ,"[r.IntN(17)+r.IntN(2)]
		}
		var want []int
		for i := 0; i <= len(data); i++ {
			end := i
			for end < len(data) && tokenByte[data[end]] {
				end++
			}
			if end-i >= c.Length && c.looksRandom(data, i, end) {
				want = append(want, i, end)
			}
			i = end
		}
		var got []int
		for _, f := range c.find(data) {
			got = append(got, f.Start, f.End)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q: %v, want %v", data, got, want)
		}
		found += len(got)
	}
	if found < 1000 {
		t.Errorf("only %d places were found at all", found)
	}
}
