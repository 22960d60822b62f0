package egress

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/lab"
)

// endpoint is a token endpoint with a clock.
type endpoint struct {
	*httptest.Server
	asked  atomic.Int32
	answer func(n int32, w http.ResponseWriter, r *http.Request)
	time   atomic.Int64 // seconds
}

// newEndpoint makes it, and a configuration that gets its tokens there.
func newEndpoint(t *testing.T, a *bundle.Auth, slots credentials) (*endpoint, *activeConfig) {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.answer(e.asked.Add(1), w, r) }))
	t.Cleanup(e.Close)
	e.time.Store(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC).Unix())
	book, err := audit.Open(filepath.Join(t.TempDir(), "audit.jsonl"), "egress", "test")
	must(t, err)
	t.Cleanup(func() { book.Close() })
	a.TokenURL, a.APIURL = e.URL+"/token", e.URL
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) { // in the place of pipelock
		return (&net.Dialer{}).DialContext(ctx, network, e.Listener.Addr().String())
	}}
	t.Cleanup(transport.CloseIdleConnections)
	l := configFor(a, slots)
	l.tokens = newTokenCache(&hop{transport: transport}, book)
	l.tokens.now = func() time.Time { return time.Unix(e.time.Load(), 0) }
	return e, l
}

func oauthAuth() *bundle.Auth {
	return &bundle.Auth{Type: "oauth", ClientIDSlot: "ID", ClientSecretSlot: "SECRET", Scopes: []string{"a", "b"}}
}

// bearerOf is the credential that a request gets.
func bearerOf(t *testing.T, l *activeConfig) (string, error) {
	t.Helper()
	out := httptest.NewRequest(http.MethodGet, "https://api.test/", nil)
	_, err := l.inject(t.Context(), out, l.rules[0].Auth)
	return strings.TrimPrefix(out.Header.Get("Authorization"), "Bearer "), err
}

func TestTokensAreFetchedAndRenewed(t *testing.T) {
	e, l := newEndpoint(t, oauthAuth(), credentials{"ID": "id", "SECRET": "the-secret+1"})
	e.answer = func(n int32, w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "id" || secret != "the-secret%2B1" || r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("scope") != "a b" {
			t.Errorf("%s %v", secret, r.PostForm)
		}
		fmt.Fprintf(w, `{"access_token": "token-number-%d", "token_type": "bearer", "expires_in": "3600"}`, n)
	}
	want := func(what, token string) {
		t.Helper()
		if got, err := bearerOf(t, l); err != nil || got != token {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	want("the first", "token-number-1")
	e.time.Add(3600 - 61)
	want("the same", "token-number-1")
	e.time.Add(2)
	want("a minute before its end", "token-number-2")
	if got := l.redactor().text("token-number-1 token-number-2"); got != "[redacted:SECRET] [redacted:SECRET]" {
		t.Errorf("both are looked for: %s", got)
	}
	l.invalidateOn401(l.rules[0].Auth, http.StatusOK)
	want("accepted", "token-number-2")
	l.invalidateOn401(l.rules[0].Auth, http.StatusUnauthorized)
	want("not accepted", "token-number-3")
	l.invalidateOn401(l.rules[0].Auth, http.StatusUnauthorized)
	want("not accepted again at once", "token-number-3")
	e.time.Add(11)
	l.invalidateOn401(l.rules[0].Auth, http.StatusUnauthorized)
	want("not accepted later", "token-number-4")
	if got := l.redactor().text("token-number-2"); got != "[redacted:SECRET]" {
		t.Errorf("one that was given up is looked for: %s", got)
	}

	e.answer = func(_ int32, w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
	e.time.Add(3600 - 30)
	want("not renewed, but not at its end", "token-number-4")
	asked := e.asked.Load()
	want("not asked again at once", "token-number-4")
	if e.asked.Load() != asked {
		t.Error("it was asked again at once")
	}
	e.time.Add(60)
	if _, err := bearerOf(t, l); ruleOf(err) != "credential" || !strings.Contains(err.Error(), "status 500") {
		t.Errorf("at its end: %v", err)
	}
}

// TestTokenIsRedactedInAnEarlierStream has a stream that began before the token was fetched
// and that returns it.
func TestTokenIsRedactedInAnEarlierStream(t *testing.T) {
	_, l := newEndpoint(t, oauthAuth(), credentials{"ID": "id", "SECRET": "the-secret"})
	from, to := io.Pipe()
	body := newReader(from, l.redactor(), false)
	body.now = l.redactor
	go func() {
		fmt.Fprint(to, "event: the-sec")
		if err := l.tokens.register("SECRET", "the-security-token", l.tokens.now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
		fmt.Fprint(to, "urity-token and the-secret")
		to.Close()
	}()
	got, err := io.ReadAll(body)
	if err != nil || string(got) != "event: [redacted:SECRET] and [redacted:SECRET]" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestConcurrentRequestsFetchOneToken(t *testing.T) {
	e, l := newEndpoint(t, oauthAuth(), credentials{"ID": "id", "SECRET": "the-secret"})
	arrived, leave := make(chan struct{}), make(chan struct{})
	e.answer = func(n int32, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			close(arrived)
		}
		lab.Receive(t, leave, "the test goes on")
		fmt.Fprintf(w, `{"access_token": "token-number-%d", "expires_in": 3600}`, n)
	}
	first, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range 20 {
		ctx := t.Context()
		if i == 0 {
			ctx = first // its caller leaves
		}
		all.Go(func() {
			out := httptest.NewRequest(http.MethodGet, "https://api.test/", nil)
			if _, err := l.inject(ctx, out, l.rules[0].Auth); err != nil && i > 0 || err == nil && out.Header.Get("Authorization") != "Bearer token-number-1" {
				t.Errorf("%v, %v", err, out.Header)
			}
		})
	}
	lab.Receive(t, arrived, "the request arrives")
	cancel()
	close(leave)
	all.Wait()
	if n := e.asked.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestRefreshTokens(t *testing.T) {
	a := oauthAuth()
	a.RefreshSlot, a.ClientAuth = "REFRESH", "body"
	e, l := newEndpoint(t, a, credentials{"ID": "id", "SECRET": "the-secret", "REFRESH": "refresh-of-the-slot"})
	var got []string
	e.answer = func(n int32, w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("client_id") != "id" || r.PostFormValue("client_secret") != "the-secret" || r.Header.Get("Authorization") != "" {
			t.Errorf("%v", r.PostForm)
		}
		got = append(got, r.PostFormValue("refresh_token"))
		if n == 3 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error": "invalid_grant", "error_description": "no such token: refresh-number-2"}`)
			return
		}
		fmt.Fprintf(w, `{"access_token": "token-number-%d", "refresh_token": "refresh-number-%[1]d", "expires_in": 100}`, n)
	}
	for range 3 {
		_, err := bearerOf(t, l)
		if err != nil && (!strings.Contains(err.Error(), "invalid_grant") || strings.Contains(err.Error(), "refresh-number")) {
			t.Errorf("%v", err)
		}
		e.time.Add(101)
	}
	if _, err := bearerOf(t, l); err != nil {
		t.Error(err)
	}
	if all := strings.Join(got, " "); all != "refresh-of-the-slot refresh-number-1 refresh-number-2 refresh-of-the-slot" {
		t.Errorf("asked with %s", all)
	}
	if text := l.redactor().text("refresh-number-1"); text != "[redacted:REFRESH]" {
		t.Error(text)
	}
}

func TestInvalidTokensAreRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"no JSON": "hello", "nothing": "{}", "too short": `{"access_token": "1234567"}`, "two lines": `{"access_token": "1234567890\r\nX: y"}`,
		"another type": `{"access_token": "1234567890", "token_type": "mac"}`, "endless": `{"access_token": "` + strings.Repeat("a", maxTokenResponse) + `"}`,
		"too long": `{"access_token": "` + strings.Repeat("a", maxToken+1) + `"}`,
	} {
		e, l := newEndpoint(t, oauthAuth(), credentials{"ID": "id", "SECRET": "the-secret"})
		e.answer = func(_ int32, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }
		if _, err := bearerOf(t, l); ruleOf(err) != "credential" || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func appKey(t *testing.T, pkcs8 bool) (*rsa.PrivateKey, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	if !pkcs8 {
		return key, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE" + " KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE" + " KEY", Bytes: der}))
}

func TestGitHubApp(t *testing.T) {
	a := &bundle.Auth{Type: "github_app", AppID: "12", InstallationID: "34", KeySlot: "KEY"}
	_, text := appKey(t, true)
	e, l := newEndpoint(t, a, credentials{"KEY": strings.ReplaceAll(text, "\n", `\n`)})
	e.answer = func(n int32, w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/app/installations/34/access_tokens" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"token": "token-number-%d", "expires_at": "%s"}`, n, l.tokens.now().Add(time.Hour).UTC().Format(time.RFC3339))
	}
	for path, want := range map[string]string{"/repos": "Bearer token-number-1", "/o/r.git/info/refs": basic("x-access-token", "token-number-1"), "/o/r.git/git-upload-pack": basic("x-access-token", "token-number-1")} {
		out := httptest.NewRequest(http.MethodGet, "https://github.test"+path, nil)
		if _, err := l.inject(t.Context(), out, a); err != nil || out.Header.Get("Authorization") != want {
			t.Errorf("%s: %v, %v", path, err, out.Header)
		}
	}
	e.time.Add(56 * 60)
	if got, err := bearerOf(t, l); err != nil || got != "token-number-2" {
		t.Errorf("five minutes before its end: %s, %v", got, err)
	}
}

func TestAppKeyFormats(t *testing.T) {
	for _, pkcs8 := range []bool{true, false} {
		_, text := appKey(t, pkcs8)
		if v := (credentials{"KEY": text}).missing(&bundle.Auth{Type: "github_app", KeySlot: "KEY"}); !v.Allow {
			t.Errorf("%+v", v)
		}
	}
	for name, text := range map[string]string{"nothing": "", "no PEM": "12345678", "a certificate": "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----"} {
		if v := (credentials{"KEY": text}).missing(&bundle.Auth{Type: "github_app", KeySlot: "KEY"}); v.Allow || strings.Contains(v.Why, "MAAA") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
