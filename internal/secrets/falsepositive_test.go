package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"testing"
)

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func uuid() string {
	h := hex.EncodeToString(random(16))
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}

// TestFalsePositives has what real clients send all day. The values are made
// anew each time: what passes must not pass by chance.
func TestFalsePositives(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	word := func() string { return base64.RawURLEncoding.EncodeToString(random(30)) }
	for range 20 {
		for _, text := range []string{
			"Sec-WebSocket-Key: " + base64.StdEncoding.EncodeToString(random(16)),
			"Sec-Websocket-Key: " + base64.StdEncoding.EncodeToString(random(16)) + "\n",
			"Idempotency-Key: " + uuid(), "X-Idempotency-Key: " + word(), "Idempotency-Key: " + hex.EncodeToString(random(16)),
			"?pageToken=" + word(), "&continuation-token=" + word(), `{"nextToken": "` + word() + `"}`, `"page_token":"` + word() + `"`,
			`"NextContinuationToken": "` + word() + `"`, "next_page_token=" + word(), "sync_token: " + word(),
			`{"prompt_cache_key":"` + uuid() + `"}`, `"idempotency_key": "` + uuid() + `"`, "?key=" + uuid(), `"key":"` + hex.EncodeToString(random(32)) + `"`,
			"Surrogate-Key: " + word(), `"token": "` + uuid() + `"`, `"key": "` + hex.EncodeToString(random(20)) + `"`,
		} {
			found, err := s.Scan(t.Context(), []byte(text))
			if err != nil || len(found) > 0 {
				t.Errorf("%.40q…: %v, %v", text, found, err)
			}
		}
	}
	missed := 0
	for range 20 {
		for _, format := range []string{`api_key = "%s"`, `"client_secret": "%s"`, "X-Api-Key: %s", `token = "%s"`, `"auth_token":"%s"`, `{"key": "%s"}`} {
			found, err := s.Scan(t.Context(), fmt.Appendf(nil, format, word()))
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				missed++
			}
		}
	}
	if missed > 12 { // a tenth: the rule wants a digit, and excuses some words
		t.Errorf("%d of 120 secrets were missed", missed)
	}
	for _, format := range []string{`api_key = "%s"`, `"client_secret": "%s"`} {
		seen := 0
		for range 10 {
			if found, err := s.Scan(t.Context(), fmt.Appendf(nil, format, hex.EncodeToString(random(32)))); err == nil && len(found) > 0 {
				seen++
			}
		}
		if seen < 7 { // a few digits spell a word that excuses them
			t.Errorf("%s with a digest's form was found %d times in 10", format, seen)
		}
	}
}

// TestSecretsOfKubernetes: one that holds certificates alone is no finding; anything else beside
// them is.
func TestSecretsOfKubernetes(t *testing.T) {
	s := newScanner(t, Options{})
	certificate := std64("-----BEGIN CERTIFICATE-----\n" + wrap(64, "\n")(std64(strings.Repeat("abc", 60))) + "-----END CERTIFICATE-----\n")
	head := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\ndata:\n  ca.crt: " + certificate + "\n"
	for name, c := range map[string]struct {
		more string
		want bool
	}{
		"certificates":             {"  tls.crt: " + certificate + "\n", false},
		"and another document":     {"---\nkind: ConfigMap\n", false},
		"a value":                  {"  value: " + std64("correct horse battery") + "\n", true},
		"a value after a comment":  {"  # more\n\n  value: " + std64("correct horse battery") + "\n", true},
		"a block":                  {"  value: |\n    " + std64("correct horse battery") + "\n", true},
		"text after a certificate": {"  tls.crt: " + std64("-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\ncorrect horse battery") + "\n", true},
	} {
		found, err := s.ScanFile(t.Context(), "secret.yaml", []byte(head+c.more))
		if err != nil || rules(found)["kubernetes-secret-yaml"] != c.want {
			t.Errorf("%s: %v, %v, want a finding: %v", name, found, err, c.want)
		}
	}
}

// TestRandomValuesAreNoIdentifiers: of values drawn at random, which a name says are keys, at most
// one in a hundred is taken for a name in source code.
func TestRandomValuesAreNoIdentifiers(t *testing.T) {
	r := mathrand.New(mathrand.NewPCG(6, 1))
	for _, n := range []int{16, 20, 32, 40} {
		taken := 0
		for range 20_000 {
			if isIdentifier(alnum(r, letters, n)) {
				taken++
			}
		}
		if taken > 200 {
			t.Errorf("%d characters: %d of 20000 are taken for names", n, taken)
		}
	}
	for _, name := range []string{"EncapsulationKey1024", "KeyAlgoMLDSA65", "C.RISCV_HWPROBE_KEY_CPUPERF_0", "decryptionKey1024", "ed25519.PrivateKey", "ssh-mldsa-44", "YOUR_API_KEY"} {
		if !isIdentifier(name) {
			t.Errorf("%s is not taken for a name", name)
		}
	}
}
