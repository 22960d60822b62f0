package egress

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/httpd"
)

const (
	// defaultTokenLife is how long a token without expires_in is used (RFC 6749 §5.1 leaves it open),
	// maxTokenLife how long any token is.
	defaultTokenLife = 5 * time.Minute
	maxTokenLife     = 24 * time.Hour
	// refreshTokenLife is how long responses are searched for a refresh token.
	refreshTokenLife = 365 * 24 * time.Hour
)

// fetchOAuthToken fetches an access token (RFC 6749) with the client's credentials or with a refresh
// token: the one of the slot, or the newest that the endpoint has sent.
func (l *activeConfig) fetchOAuthToken(ctx context.Context, a *bundle.Auth, refresh string) (g tokenResponse, err error) {
	id, secret := l.credentials[a.ClientIDSlot], l.credentials[a.ClientSecretSlot]
	form := url.Values{"grant_type": {"client_credentials"}}
	if a.RefreshSlot != "" {
		if refresh == "" {
			refresh = l.credentials[a.RefreshSlot]
		}
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}
	}
	if len(a.Scopes) > 0 {
		form.Set("scope", strings.Join(a.Scopes, " "))
	}
	injected := []string{httpd.InjectedBody}
	if a.ClientAuth == "body" {
		form.Set("client_id", id)
		form.Set("client_secret", secret)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return g, errors.New("token_url is no URL") // it was checked when it was loaded
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if a.ClientAuth != "body" {
		r.Header.Set("Authorization", basic(url.QueryEscape(id), url.QueryEscape(secret))) // §2.3.1
		injected = append(injected, "Authorization")
	}
	var answer struct {
		Token   string          `json:"access_token"`
		Type    string          `json:"token_type"`
		Expires json.RawMessage `json:"expires_in"`
		Refresh string          `json:"refresh_token"`
	}
	asked := l.tokens.now()
	if err := l.tokens.send(r, injected, &answer); err != nil {
		return g, err
	}
	if answer.Type != "" && !strings.EqualFold(answer.Type, "bearer") {
		return g, errors.New("the token that came is not a bearer token")
	}
	used, lives := tokenLifetimes(answer.Expires)
	if err := l.tokens.register(a.ClientSecretSlot, answer.Token, asked.Add(lives)); err != nil {
		return g, err
	}
	if a.RefreshSlot != "" && answer.Refresh != "" {
		if err := l.tokens.register(a.RefreshSlot, answer.Refresh, asked.Add(refreshTokenLife)); err != nil {
			return g, err
		}
		g.refresh = answer.Refresh
	}
	g.token, g.expires = answer.Token, asked.Add(used)
	return g, nil
}

// tokenLifetimes returns how long a token may be used, and how long responses are searched for it. Some
// endpoints send the seconds as a string.
func tokenLifetimes(seconds json.RawMessage) (used, lives time.Duration) {
	n, err := strconv.ParseFloat(strings.Trim(string(seconds), `"`), 64)
	if err != nil || !(n > 0) {
		return defaultTokenLife, maxTokenLife
	}
	lives = maxTokenLife
	if n < maxTokenLife.Seconds() {
		lives = time.Duration(n * float64(time.Second))
	}
	return lives, lives
}
