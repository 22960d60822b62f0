package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"airlock/internal/bundle"
	"airlock/internal/proposal"
)

// TestRouteToAModel: on a route of kind llm a secret in the conversation is overwritten and the request goes on; each is told once. A body that is
// signed is refused.
func TestRouteToAModel(t *testing.T) {
	var got received
	b := prepare(t, keep(&got))
	b.write("egress.yaml", strings.Replace(b.egressYAML(""), "paths: [\"/v1/*\"]", "kind: llm", 1))
	b.run()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	k := varied()
	block := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE" + " KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	filler := strings.Repeat("the words of a long conversation, one after the other.\n", 25_000) // 1.4 MB
	send := func(text string, change func(r *http.Request)) (int, string) {
		t.Helper()
		got = received{}
		body, err := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": text}}})
		must(t, err)
		return b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", "/v1/messages"), strings.NewReader(string(body)), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/json")
			if change != nil {
				change(r)
			}
		})
	}
	for name, c := range map[string]struct{ text, secret string }{
		"a token":                {"const k = '" + k + "';\n", k},
		"a token in base64":      {"see " + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("some text before it. ", 3000)+k+strings.Repeat(" and after it", 3000))), base64.StdEncoding.EncodeToString([]byte(k))[4:40]},
		"the bundle's own":       {"TOKEN=" + b.token + "\n", b.token},
		"a private key":          {"# key\n" + block + "# end\n", strings.ReplaceAll(block, "\n", `\n`)[60:100]},
		"a private key in parts": {"# key\n" + strings.Join(strings.SplitAfter(block, "\n")[:6], "") + "\n...\n" + strings.Join(strings.SplitAfter(block, "\n")[9:13], ""), strings.SplitAfter(block, "\n")[11][10:50]},
		"a private key, cut off": {"# key\n" + block[:len(block)/2], strings.ReplaceAll(block, "\n", `\n`)[60:100]},
	} {
		for range 2 {
			if status, body := send(c.text, nil); status != 200 || got.body == "" || strings.Contains(got.body, c.secret) || !json.Valid([]byte(got.body)) || !strings.Contains(got.body, c.text[:4]) {
				t.Errorf("%s: status %d %s, the origin got %.300s", name, status, body, got.body)
			}
		}
	}
	// At every place near the border of a window.
	const window = 1 << 20
	for _, at := range []int{window - 100, window - 60, window - 50, window - 40, window, window + 8<<10} {
		at -= len(`{"messages":[{"content":"`)
		if status, body := send(filler[:at]+" "+k+" "+filler[at:], nil); status != 200 || strings.Contains(got.body, k[:20]) || strings.Contains(got.body, k[20:]) || len(got.body) < len(filler) {
			t.Errorf("at %d: status %d %s, %d bytes", at, status, body, len(got.body))
		}
	}
	for _, kind := range []string{"application/jsonl", "", "application/octet-stream"} { // of unknown length, too
		at := window - 20 - len(`{"messages":[{"content":"`)
		status, body := send(filler[:at]+" "+k+" "+filler[at:], func(r *http.Request) {
			r.Header.Set("Content-Type", kind)
			if kind == "" {
				r.ContentLength = -1
			}
		})
		if status != 200 || strings.Contains(got.body, k[:16]) || strings.Contains(got.body, k[16:]) {
			t.Errorf("%q: status %d %s", kind, status, body)
		}
	}
	long := base64.StdEncoding.EncodeToString([]byte(filler[:30_000] + k + filler[:30_000]))
	if status, body := send(filler[:window-60_000]+long+filler[:1000], nil); status != 200 || strings.Contains(got.body, base64.StdEncoding.EncodeToString([]byte(k))[4:40]) {
		t.Errorf("base64 across a border: status %d %s", status, body)
	}
	for _, field := range []string{"Content-Digest", "Content-MD5", "X-Amz-Content-Sha256"} {
		status, body := send("k = "+k, func(r *http.Request) { r.Header.Set(field, "x") })
		if status != 403 || !strings.Contains(body, "signed or has a checksum") || got.body != "" {
			t.Errorf("%s: status %d: %s", field, status, body)
		}
	}
	if status, body := b.send(b.client(b.egress), http.MethodPost, b.url("a.cdn.test", "/"), strings.NewReader("k = "+k)); status != 403 {
		t.Errorf("another route: %d: %s", status, body)
	}
	kept := b.audits()
	if n := strings.Count(kept, `"verdict":"redacted"`); n != 7 || strings.Contains(kept, k) || strings.Contains(kept, b.token) {
		t.Errorf("%d findings are in the audit, want each of 7 once", n)
	}
	notices := 0
	for _, p := range b.proposals() {
		if p.Kind == proposal.Overwritten && p.Daemon == bundle.Pipelock && strings.HasPrefix(p.Rule, "secret: ") && !strings.Contains(p.Why, k) {
			notices++
		}
	}
	if notices != 3 { // by rule: the token, the bundle's own, the key
		t.Errorf("%d notices on the operator's list, want 3: %+v", notices, b.proposals())
	}
}

// TestConversationsStayValid: what is overwritten leaves the conversation one that a model's API takes.
func TestConversationsStayValid(t *testing.T) {
	var got received
	b := prepare(t, keep(&got))
	b.write("egress.yaml", strings.Replace(b.egressYAML(""), "paths: [\"/v1/*\"]", "kind: llm", 1))
	b.run()
	k := varied()
	open := "sk_" + "live_" + varied()[4:]
	value := varied()[4:] + "abcD"
	type message struct {
		Role    string `json:"role"`
		Content string `json:"content"`
		ID      string `json:"tool_use_id,omitempty"`
	}
	for name, c := range map[string]struct{ content, secret string }{
		"a token without a fixed end": {"use " + open, open},
		"a token at the end":          {"use " + k, k},
		"base64 at the end":           {base64.StdEncoding.EncodeToString([]byte("my key is " + k + " ok")), base64.StdEncoding.EncodeToString([]byte("my key is " + k + " ok"))[20:50]},
		"hex after an escape":         {"é" + hex.EncodeToString([]byte("key "+k)), hex.EncodeToString([]byte(k))},
		"a name with a digit":         {"a\nOAUTH2_CLIENT_SECRET: " + value + "\nb", value},
		"a name after a tab":          {"a\n\taws2_api_key = '" + value + "'\nb", value},
		"several":                     {k + " and " + open + " and " + k, open},
	} {
		sent := []message{{Role: "user", Content: c.content}, {Role: "assistant", Content: "ok", ID: "toolu_01A09q90qw90lq917835lq9"}, {Role: "user", Content: "go on"}}
		body, err := json.Marshal(map[string]any{"model": "m", "messages": sent})
		must(t, err)
		status, refused := b.send(b.client(b.egress), http.MethodPost, b.url("api.ok.test", "/v1/messages"), strings.NewReader(string(body)), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/json")
		})
		var arrived struct {
			Model    string    `json:"model"`
			Messages []message `json:"messages"`
		}
		if err := json.Unmarshal([]byte(got.body), &arrived); status != 200 || err != nil || strings.Contains(got.body, c.secret) {
			t.Errorf("%s: status %d %s, %v: %s", name, status, refused, err, got.body)
			continue
		}
		if arrived.Model != "m" || len(arrived.Messages) != 3 || arrived.Messages[0].Role != "user" || arrived.Messages[1] != sent[1] || arrived.Messages[2] != sent[2] {
			t.Errorf("%s: %s", name, got.body)
		}
	}
}
