package pipelock

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/lab"
	"airlock/internal/policy"
)

func TestRedactionKeepsLength(t *testing.T) {
	s := testScanner(t, "")
	k := lab.Token()
	x := strings.Repeat("x", len(k))
	b64 := base64.StdEncoding.EncodeToString([]byte("my key is " + k + " ok"))
	generic := k[4:34]
	for _, c := range []struct {
		name, text string
		from       int
		want       string // empty: it cannot be done
	}{
		{"nothing", "hello", 0, "hello"},
		{"a token", "a " + k + " b", 0, "a " + x + " b"},
		{"two tokens", k + "\n" + k, 0, x + "\n" + x},
		{"in JSON", `{"a": "` + k + `", "n": 1}`, 0, `{"a": "` + x + `", "n": 1}`},
		{"in base64", "a " + b64 + " b", 0, "a " + strings.Repeat("x", len(b64)-strings.Count(b64, "=")) + strings.Repeat("=", strings.Count(b64, "=")) + " b"},
		{"behind what has gone", "abc " + k, 4, "abc " + x},
		{"over the border", "abc " + k, 14, ""},
		{"before the border", k + " abc", 41, ""},
		{"a value by its name", `{"api_key": "` + generic + `"}`, 0, `{"api_key": "` + strings.Repeat("x", len(generic)) + `"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := []byte(c.text)
			v := (&redactor{scanner: s, ctx: t.Context(), surface: "body", from: c.from}).redact(text)
			if v.Allow != (c.want != "") || v.Allow && string(text) != c.want {
				t.Errorf("%+v, %q", v, strings.ReplaceAll(string(text), k, "TOKEN"))
			}
			if len(text) != len(c.text) || strings.Contains(v.Why, k) {
				t.Error("it is longer, or told")
			}
		})
	}
}

// TestNothingOfASecretIsLeft: what cannot be overwritten as a whole is
// blocked.
func TestNothingOfASecretIsLeft(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE" + " KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	lines := strings.SplitAfter(whole, "\n")
	cut := strings.Join(lines[:len(lines)-2], "")
	long := "sk_" + "live_" + strings.Repeat("aB3dE5fG7h", 8)
	for name, parts := range map[string][]string{
		"a key":                     {whole},
		"without its end":           {cut},
		"in JSON":                   {`{"a": "` + strings.ReplaceAll(cut, "\n", `\n`) + `"}`},
		"in two parts":              {strings.Join(lines[:3], ""), strings.Join(lines[3:], "")},
		"a token in two":            {"key " + long[:20], long[20:]},
		"a token, then a pause":     {"key " + long},
		"a token that may go on":    {"key " + lab.Token(), " "},
		"behind a name that is one": {"key: " + long[:18] + ": ", long},
	} {
		s := testScanner(t, "secrets: {action: redact}\n") // its own: what another sent to the host is no help
		synctest.Test(t, func(t *testing.T) {
			src, w := io.Pipe()
			var writer sync.WaitGroup
			writer.Go(func() {
				for _, p := range parts {
					_, _ = io.WriteString(w, p)
					time.Sleep(time.Minute)
				}
				w.Close()
			})
			r := httptest.NewRequestWithContext(t.Context(), "POST", "/", src)
			r.ContentLength = -1
			if v, got := outcome(t, s, r); v.Allow {
				t.Errorf("%s: %+v, %d bytes left", name, v, len(got))
			}
			src.Close()
			writer.Wait()
		})
	}
}

// TestOverwrittenIsStillJSON: escapes and all.
func TestOverwrittenIsStillJSON(t *testing.T) {
	s := testScanner(t, "")
	for _, spell := range []func(string) string{
		func(k string) string { return k },
		func(k string) string { return `line\n` + k + `\tend` },
		func(k string) string {
			var b strings.Builder
			for _, c := range k {
				fmt.Fprintf(&b, `\u%04x`, c)
			}
			return b.String()
		},
		func(k string) string { return k[:4] + fmt.Sprintf(`\u%04x`, k[4]) + k[5:] },
		func(k string) string { return base64.StdEncoding.EncodeToString([]byte(k)) },
		func(k string) string { return fmt.Sprintf("%x", k) },
	} {
		for range 20 {
			k := lab.Token()
			text := []byte(`{"a": "` + spell(k) + `", "token": "` + spell(k) + `"}`)
			v := (&redactor{scanner: s, ctx: t.Context(), surface: "body"}).redact(text)
			if !v.Allow {
				continue // it is blocked instead
			}
			var got map[string]string
			if err := json.Unmarshal(text, &got); err != nil || len(got) != 2 || strings.Contains(string(text), k[8:]) {
				t.Errorf("%v: %s", err, text)
			}
		}
	}
}

// TestRedactLongBodies: each window is overwritten before it goes on, and what
// began before it ends the request.
func TestRedactLongBodies(t *testing.T) {
	s := testScanner(t, "secrets: {action: redact}\n")
	k := lab.Token()
	x := strings.Repeat("x", len(k))
	line := "the quick brown fox jumps over the lazy dog\n"
	filler := strings.Repeat(line, 2*wholeBody/len(line))
	for _, text := range []string{k + " " + filler + k + filler + k, filler[:wholeBody-100] + k + " " + filler, filler[:wholeBody-20] + " " + k + " " + filler} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		words := 0
		v, err := s.body(r, scanContext{action: actionRedact, report: func(word string, _ policy.Verdict) error {
			if word == wordRedacted {
				words++
			}
			return nil
		}})
		if err != nil || !v.Allow {
			t.Fatal(v, err)
		}
		var got strings.Builder
		if _, err := copyAll(&got, r); err != nil || got.String() != strings.ReplaceAll(text, k, x) || words == 0 {
			t.Errorf("%v: %d bytes of %d, %d reports", err, got.Len(), len(text), words)
		}
	}
	over := filler[:wholeBody-20] + " " + k + " " + filler
	r := httptest.NewRequest("POST", "/", strings.NewReader(over))
	r.Header.Set("Content-Type", "multipart/form-data; boundary=b") // is read in parts, and nothing is held back
	if v, err := s.body(r, scanContext{action: actionRedact, report: silent}); err != nil || !v.Allow {
		t.Fatal(v, err)
	}
	var got strings.Builder
	var refused *refusedError
	if _, err := copyAll(&got, r); !errors.As(err, &refused) || !strings.Contains(refused.v.Why, "gone already") {
		t.Errorf("%v", err)
	}
	s.memory.idle(t)
}

// TestNothingPassesUnwritten: where the audit fails, neither what was
// overwritten nor what is only warned of goes on.
func TestNothingPassesUnwritten(t *testing.T) {
	s := testScanner(t, "")
	full := func(string, policy.Verdict) error { return errors.New("full") }
	for _, action := range []string{actionRedact, actionWarn} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("x "+lab.Token()))
		if v, _ := s.body(r, scanContext{action: action, report: full}); v.Allow || v.Rule != "audit" {
			t.Errorf("%s, a body: %+v", action, v)
		}
		r.Header.Set("X-Note", lab.Token())
		if v := s.redactHead(r, scanContext{action: action, host: host(t, "a.ok.test"), report: full}); v.Allow || v.Rule != "audit" {
			t.Errorf("%s, a head: %+v", action, v)
		}
	}
}

func TestRedactFrames(t *testing.T) {
	s := testScanner(t, "")
	k := lab.Token()
	in := s.frames(t.Context(), scanContext{host: host(t, "a.ok.test"), action: actionRedact, report: silent})
	frame := func(first byte, payload string) []byte {
		return append([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...) // masked with zeros
	}
	x := strings.Repeat("x", len(k))
	for _, first := range []byte{0x81, 0x82, 0x89} {
		if out, err := in.Feed(frame(first, "a "+k+" b")); err != nil || string(out[6:]) != "a "+x+" b" {
			t.Errorf("%x: %q, %v", first, out, err)
		}
	}
	if _, err := in.Feed(frame(0x01, "note "+k[:20])); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Feed(frame(0x80, k[20:])); err == nil {
		t.Error("the second half passed")
	}
}

func TestActions(t *testing.T) {
	f := parse(t, `version: 1
allow: []
secrets:
  action: warn
  hosts:
    "*.example.com": {action: redact}
    "*.deep.example.com": {action: ask}
    api.deep.example.com: {action: block}
    api.deep.example.com:8443: {action: warn}
`)
	a := newActions(f.Secrets)
	for name, want := range map[string]string{
		"other.test:443": "warn", "example.com:443": "warn", "a.example.com:443": "redact", "a.deep.example.com:1": "ask",
		"deep.example.com:443": "redact", "api.deep.example.com:443": "block", "api.deep.example.com:8443": "warn",
	} {
		to, err := policy.ParseAuthority(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.of(to); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := newActions(bundle.SecretScan{}).of(policy.Authority{}); got != "block" {
		t.Errorf("without a word: %s", got)
	}
}

func copyAll(to *strings.Builder, r *http.Request) (int64, error) {
	defer r.Body.Close()
	return io.Copy(to, r.Body)
}

// TestAskAboutFrames: who lets one pass has not seen the next, which is not
// blamed for it either.
func TestAskAboutFrames(t *testing.T) {
	s := testScanner(t, "")
	asked := 0
	in := s.frames(t.Context(), scanContext{host: host(t, "a.ok.test"), action: actionAsk, report: silent, ask: func(context.Context, policy.Verdict) policy.Verdict {
		asked++
		return policy.Allowed("proposal")
	}})
	frame := func(payload string) []byte {
		return append([]byte{0x81, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	k := lab.Token()
	for i, c := range []struct {
		text  string
		asked int
		want  bool
	}{{"hello", 0, true}, {k, 1, true}, {"hello", 1, true}, {k, 2, true}, {k, 3, true}, {"hello", 3, true}, {k, 3, false}} {
		_, err := in.Feed(frame(c.text))
		if (err == nil) != c.want || asked != c.asked {
			t.Errorf("frame %d: %v, asked %d times", i, err, asked)
		}
	}
}

// TestAskAboutEachWindow: a yes is for what was there, and a person is asked
// three times.
func TestAskAboutEachWindow(t *testing.T) {
	s := testScanner(t, "secrets: {action: ask}\n")
	filler := strings.Repeat("the quick brown fox\n", wholeBody/20+1)
	for tokens, want := range map[int]int{1: 1, 2: 2, 6: maxGrants} {
		asked := 0
		var text string
		for range tokens {
			text += filler + lab.Token() + "\n"
		}
		r := httptest.NewRequest("POST", "/", strings.NewReader(text+filler))
		v, err := s.body(r, scanContext{action: actionAsk, report: silent, ask: func(context.Context, policy.Verdict) policy.Verdict {
			asked++
			return policy.Allowed("proposal")
		}})
		if err != nil || !v.Allow {
			t.Fatal(v, err)
		}
		var got strings.Builder
		_, err = copyAll(&got, r)
		r.Body.Close()
		if asked != want || (err == nil) != (tokens <= maxGrants) || err == nil && got.String() != text+filler {
			t.Errorf("%d tokens: asked %d times, %v, %d bytes of %d", tokens, asked, err, got.Len(), len(text+filler))
		}
	}
}

// TestMemoryWhileAsking: what a body holds is held while a person thinks, and given
// back whatever the answer is.
func TestMemoryWhileAsking(t *testing.T) {
	s := testScanner(t, "")
	text := strings.Repeat("a b ", wholeBody/8) + lab.Token()
	for _, answer := range []policy.Verdict{policy.Allowed("proposal"), policy.Denied("secret: x", "no")} {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		held := false
		v, err := s.body(r, scanContext{action: actionAsk, report: silent, ask: func(context.Context, policy.Verdict) policy.Verdict {
			if held = !s.memory.windows.free.TryAcquire(s.memory.windows.size); !held {
				s.memory.windows.free.Release(s.memory.windows.size)
			}
			return answer
		}})
		if err != nil || v.Allow != answer.Allow || !held {
			t.Errorf("%+v, %v, held: %v", v, err, held)
		}
		if v.Allow {
			var got strings.Builder
			if _, err := copyAll(&got, r); err != nil || got.String() != text {
				t.Errorf("%d bytes, %v", got.Len(), err)
			}
		}
		s.memory.idle(t)
	}
}
