package egress

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"time"

	"airlock/internal/bundle"
)

const gitHubAPI = "https://api.github.com"

// fetchInstallationToken fetches an installation token with a JWT signed by the key of the app
// (docs.github.com, "Authenticating as a GitHub App installation").
func (l *activeConfig) fetchInstallationToken(ctx context.Context, a *bundle.Auth, _ string) (g tokenResponse, err error) {
	key, err := parseKey(l.credentials[a.KeySlot])
	if err != nil {
		return g, err
	}
	now := l.tokens.now()
	jwt, err := signJWT(key, a.AppID, now)
	if err != nil {
		return g, err
	}
	target := strings.TrimSuffix(cmp.Or(a.APIURL, gitHubAPI), "/") + "/app/installations/" + a.InstallationID + "/access_tokens"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, nil)
	if err != nil {
		return g, errors.New("api_url is no URL") // it was checked when it was loaded
	}
	r.Header.Set("Authorization", "Bearer "+jwt)
	r.Header.Set("X-Github-Api-Version", "2022-11-28")
	var answer struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}
	if err := l.tokens.send(r, []string{"Authorization"}, &answer); err != nil {
		return g, err
	}
	if !answer.Expires.After(now) || answer.Expires.After(now.Add(maxTokenLife)) {
		return g, errors.New("the token that came has ended, or does not end")
	}
	if err := l.tokens.register(a.KeySlot, answer.Token, answer.Expires); err != nil {
		return g, err
	}
	return tokenResponse{token: answer.Token, expires: answer.Expires}, nil
}

// signJWT returns the JWT of an app (RFC 7519, RS256). It is issued a minute in the past, for clock skew,
// and valid for less than the ten minutes that are allowed.
func signJWT(key *rsa.PrivateKey, app string, now time.Time) (string, error) {
	claims, err := json.Marshal(map[string]any{"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(8 * time.Minute).Unix(), "iss": app})
	if err != nil {
		return "", errors.New("the JWT could not be written")
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", errors.New("the app's key cannot sign")
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

var errNoKey = errors.New("expected an RSA private key in PEM")

// keyBlock decodes the PEM block of a private key. In a variable its lines may be separated by the two
// characters \n.
func keyBlock(text string) (*pem.Block, error) {
	block, _ := pem.Decode([]byte(strings.ReplaceAll(text, `\n`, "\n")))
	if block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, errNoKey
	}
	return block, nil
}

// parseKey parses the private key of an app in PKCS #1 or PKCS #8.
func parseKey(text string) (*rsa.PrivateKey, error) {
	block, err := keyBlock(text)
	if err != nil {
		return nil, err
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if rsaKey, ok := key.(*rsa.PrivateKey); err == nil && ok {
		return rsaKey, nil
	}
	return nil, errNoKey // the error of the library could quote the key
}
