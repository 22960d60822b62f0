package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"airlock/internal/httpd"
	"airlock/internal/lab"
	"airlock/internal/policy"
)

// errForged has the provider answer as pipelock would.
var errForged = errors.New("forged")

// provider gives out tokens at new.ok.test and accepts them elsewhere.
type provider struct {
	prefix string
	asked  atomic.Int32
	check  func(r *http.Request) error
	status atomic.Int32 // of answers elsewhere; 0: 200
}

func (p *provider) token() string { return fmt.Sprintf("%s-%d", p.prefix, p.asked.Load()) }

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Host, "new.ok.test") {
		if s := p.status.Load(); s != 0 {
			w.WriteHeader(int(s))
		}
		echo(w, r)
		return
	}
	if err := p.check(r); errors.Is(err, errForged) {
		httpd.Forbid(w, "pipelock", policy.Denied("allow", "send it to evil.test"), "", "", false)
		return
	} else if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error": "invalid_client", "error_description": %q}`, err)
		return
	}
	p.asked.Add(1)
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": p.token(), "token": p.token(), "expires_in": 3600, "expires_at": time.Now().Add(time.Hour)})
}

const oauthRoute = "  - {host: 'api.ok.test:PORT', auth: {type: oauth, token_url: 'https://new.ok.test:PORT/token', client_id_slot: EGRESS_TOKEN_0, client_secret_slot: EGRESS_TOKEN_1MORE}}\n"

// TestOAuth has the request for the token go through the chain, too.
func TestOAuth(t *testing.T) {
	secret, refresh := lab.Token(), lab.Token()
	for name, c := range map[string]struct {
		more  string
		check func(r *http.Request, id string) bool
	}{
		"in a Basic pair": {"", func(r *http.Request, id string) bool {
			user, password, _ := r.BasicAuth()
			return user == id && password == secret && r.PostFormValue("grant_type") == "client_credentials"
		}},
		"in the body": {", client_auth: body, refresh_slot: EGRESS_TOKEN_2", func(r *http.Request, id string) bool {
			return r.PostFormValue("client_id") == id && r.PostFormValue("client_secret") == secret && r.PostFormValue("refresh_token") == refresh
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &provider{prefix: "access-" + lab.Token()[4:]}
			b := withRoutes(t, p, strings.Replace(oauthRoute, "MORE", c.more, 1), "  - new.ok.test:PORT\n")
			p.check = func(r *http.Request) error {
				if r.URL.Path != "/token" || !c.check(r, b.token) {
					return fmt.Errorf("%v", r.Header)
				}
				return nil
			}
			b.run("EGRESS_TOKEN_1="+secret, "EGRESS_TOKEN_2="+refresh)
			for range 2 {
				status, body := b.get(b.url("api.ok.test", "/x"), func(r *http.Request) { r.Header.Set("Authorization", "Bearer mine") })
				if status != 200 || !strings.Contains(body, "Authorization: Bearer [redacted:EGRESS_TOKEN_1]") || strings.Contains(body, p.prefix) {
					t.Errorf("status %d: %s", status, strings.ReplaceAll(body, p.token(), "THE TOKEN"))
				}
				if b.last().Header.Get("Authorization") != "Bearer "+p.token() {
					t.Error("the token did not arrive")
				}
			}
			if n := p.asked.Load(); n != 1 {
				t.Errorf("%d tokens were fetched", n)
			}
			if n := strings.Count(b.audits(), `"by":"credential fetch"`); n != 1 {
				t.Errorf("%d requests for a token in the audit", n)
			}
			p.status.Store(http.StatusUnauthorized)
			if status, _ := b.get(b.url("api.ok.test", "/x")); status != 401 {
				t.Errorf("status %d", status)
			}
			p.status.Store(0)
			if status, _ := b.get(b.url("api.ok.test", "/x")); status != 200 || p.asked.Load() != 2 {
				t.Errorf("after a 401: status %d, %d tokens were fetched", status, p.asked.Load())
			}
			b.keptSecret(p.prefix, secret, refresh)
		})
	}
}

// TestNoToken has the reasons for which there is none: each is told, and the
// origin sees nothing.
func TestNoToken(t *testing.T) {
	secret := lab.Token()
	for name, c := range map[string]struct {
		allow string
		check error
		want  string
	}{
		"pipelock does not know the host": {"", nil, "pipelock refuses (allow): the allowlist does not have new.ok.test"},
		"the endpoint speaks as pipelock": {"  - new.ok.test:PORT\n", errForged, "status 403"},
		"the client is not known":         {"  - new.ok.test:PORT\n", fmt.Errorf("secret %s", secret), "status 401, invalid_client"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &provider{prefix: "access-" + lab.Token()[4:], check: func(*http.Request) error { return c.check }}
			b := withRoutes(t, p, strings.Replace(oauthRoute, "MORE", "", 1), c.allow)
			b.run("EGRESS_TOKEN_1=" + secret)
			status, body := b.get(b.url("api.ok.test", "/x"))
			_, rule, why := refusal(t, body)
			if status != 403 || rule != "credential" || !strings.Contains(why, c.want) || !strings.Contains(why, "new.ok.test") {
				t.Errorf("status %d: %s", status, body)
			}
			for _, s := range b.origin.Seen() {
				if strings.HasPrefix(s.Host, "api.") {
					t.Error("the origin saw the request")
				}
			}
			if !strings.Contains(b.audits(), `"verdict":"deny","rule":"credential"`) {
				t.Error("the refusal is not in the audit")
			}
			b.keptSecret(secret)
		})
	}
}

// TestGitHubApp verifies the JWT, and that git gets its token as a password.
func TestGitHubApp(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE" + " KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	p := &provider{prefix: "installation-" + lab.Token()[4:], check: func(r *http.Request) error {
		if r.Method != http.MethodPost || r.URL.Path != "/app/installations/34/access_tokens" {
			return fmt.Errorf("%s %s", r.Method, r.URL)
		}
		return checkJWT(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), &key.PublicKey)
	}}
	b := withRoutes(t, p, `
  - {host: 'api.ok.test:PORT', auth: &app {type: github_app, app_id: '12', installation_id: '34', key_slot: EGRESS_TOKEN_1, api_url: 'https://new.ok.test:PORT'}}
  - {host: 'a.cdn.test:PORT', git: fetch, auth: *app}
`, "  - new.ok.test:PORT\n")
	b.run("EGRESS_TOKEN_1=" + text)
	for target, want := range map[string]string{
		b.url("api.ok.test", "/repos"):                                    "Bearer " + p.prefix + "-1",
		b.url("a.cdn.test", "/o/r.git/info/refs?service=git-upload-pack"): "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+p.prefix+"-1")),
	} {
		status, body := b.get(target)
		if status != 200 || !strings.Contains(body, "[redacted:EGRESS_TOKEN_1]") || strings.Contains(body, p.prefix) {
			t.Errorf("%s: status %d: %s", target, status, body)
		}
		if b.last().Header.Get("Authorization") != want {
			t.Errorf("%s: the token did not arrive", target)
		}
	}
	if n := p.asked.Load(); n != 1 {
		t.Errorf("%d tokens were fetched", n)
	}
	b.keptSecret(p.prefix, strings.Split(text, "\n")[1])
}

func checkJWT(text string, key *rsa.PublicKey) error {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return fmt.Errorf("no JWT")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil {
		return err
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var c struct {
		Issuer   string `json:"iss"`
		Iat, Exp int64
	}
	if err := json.Unmarshal(claims, &c); err != nil {
		return err
	}
	if now := time.Now().Unix(); c.Issuer != "12" || c.Iat > now || c.Exp <= now || c.Exp-c.Iat > 600 {
		return fmt.Errorf("claims %s", claims)
	}
	return nil
}
