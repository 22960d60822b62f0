package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"airlock/internal/audit"
	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

const (
	// fetchTimeout bounds one request for a token.
	fetchTimeout = 15 * time.Second
	// retryDelay is how long after a failure requests get its error without a new attempt.
	retryDelay = 3 * time.Second
	// invalidateInterval is the minimum time between invalidations of a token by a 401 of its origin: an
	// agent can cause any number of those.
	invalidateInterval = 10 * time.Second
	// maxTokenResponse bounds the response of a token endpoint in bytes, maxToken a token.
	maxTokenResponse = 64 << 10
	maxToken         = 8 << 10
)

// tokenCache fetches tokens that expire, with one request at a time for each, and keeps them until
// shortly before they do. It outlives a configuration. Its methods may be called concurrently.
type tokenCache struct {
	fetch  func(r *http.Request, injected []string) (*http.Response, error)
	record func(audit.Entry) error
	now    func() time.Time

	mu      sync.Mutex
	entries map[string]*tokenEntry // by tokenKey
	// issued are the tokens that responses are searched for. The slice is replaced, never changed.
	issued atomic.Pointer[[]issuedToken]
}

// issuedToken is a token that responses are searched for until it has expired.
type issuedToken struct {
	slot, value string // slot: of the credential with which it was fetched
	until       time.Time
}

// tokenResponse is the result of a request to a token endpoint.
type tokenResponse struct {
	token   string
	expires time.Time
	refresh string // for the next request; empty: unchanged
}

// tokenEntry is the state of one token. The holder of sem owns the other fields.
type tokenEntry struct {
	sem           chan struct{}
	current       tokenResponse
	invalidatedAt time.Time // when an origin last refused the token
	renewAt       time.Time // a new token is fetched from then on
	retryAt       time.Time // until then err is returned
	err           error
}

func newTokenCache(h *hop, book *audit.Log) *tokenCache {
	return &tokenCache{fetch: h.fetch, record: book.Record, now: time.Now, entries: map[string]*tokenEntry{}}
}

// entry returns the entry of a key, making it on first use.
func (m *tokenCache) entry(key string) *tokenEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.entries[key]
	if t == nil {
		t = &tokenEntry{sem: make(chan struct{}, 1)}
		m.entries[key] = t
	}
	return t
}

// get returns the cached token for the key, or the one that fetch returns. margin is how long before its
// expiry a token is replaced. While that fails, the old one is used until it expires.
func (m *tokenCache) get(ctx context.Context, key string, margin time.Duration, fetch func(ctx context.Context, refresh string) (tokenResponse, error)) (string, error) {
	t := m.entry(key)
	select {
	case t.sem <- struct{}{}:
		defer func() { <-t.sem }()
	case <-ctx.Done():
		return "", refused("credential", "the token did not come in time")
	}
	now := m.now()
	if now.Before(t.renewAt) {
		return t.current.token, nil
	}
	if !now.Before(t.retryAt) {
		// The fetch continues if this request ends: others wait for the same token.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		t.refetch(m.now, margin, func() (tokenResponse, error) { return fetch(ctx, t.current.refresh) })
	}
	if t.err != nil && !m.now().Before(t.current.expires) {
		return "", t.err
	}
	return t.current.token, nil
}

// refetch fetches the next token, or stores the error.
func (t *tokenEntry) refetch(now func() time.Time, margin time.Duration, ask func() (tokenResponse, error)) {
	g, err := ask()
	if t.err = err; err != nil {
		t.retryAt = now().Add(retryDelay)
		t.current.refresh = "" // the next attempt uses the refresh token of the slot
		return
	}
	if g.refresh == "" {
		g.refresh = t.current.refresh
	}
	t.current = g
	t.renewAt = g.expires.Add(-min(margin, g.expires.Sub(now())/2))
}

// invalidate drops a token that an origin refused.
func (m *tokenCache) invalidate(key string) {
	t := m.entry(key)
	select {
	case t.sem <- struct{}{}:
		defer func() { <-t.sem }()
	default:
		return // a fetch is in progress
	}
	if now := m.now(); now.Sub(t.invalidatedAt) >= invalidateInterval {
		t.renewAt, t.current.expires, t.invalidatedAt = time.Time{}, time.Time{}, now
	}
}

// register adds a token to those that responses are searched for. It is called before the token is
// used.
func (m *tokenCache) register(slot, value string, until time.Time) error {
	invisible := func(c rune) bool { return c <= ' ' || c > '~' }
	if len(value) < secrets.MinLength || len(value) > maxToken || strings.ContainsFunc(value, invisible) {
		return errors.New("the token that came is too short, too long or no token")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := []issuedToken{{slot, value, until}}
	if old := m.issued.Load(); old != nil {
		for _, t := range *old {
			if m.now().Before(t.until) && t.value != value {
				next = append(next, t)
			}
		}
	}
	m.issued.Store(&next)
	return nil
}

// send sends a request of egress itself and decodes the JSON of the response. Its errors name the host
// and the reason, and contain nothing of the request.
func (m *tokenCache) send(r *http.Request, injected []string, into any) error {
	err := m.record(audit.Entry{
		Verdict: "allow", Rule: "credential", Host: r.URL.Host, Method: r.Method,
		Path: audit.SafePath(r.URL.EscapedPath()), By: "credential fetch",
	})
	if err != nil {
		return errors.New("asking for a token could not be written down")
	}
	host := r.URL.Host
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "airlock")
	res, err := m.fetch(r, injected)
	if err != nil {
		return fmt.Errorf("no token from %s: pipelock did not answer", host)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxTokenResponse))
	if err != nil {
		return fmt.Errorf("no token from %s: its answer broke off", host)
	}
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusCreated {
		return fmt.Errorf("no token from %s: %s", host, failureReason(res, text))
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("no token from %s: its answer is not the JSON that was expected", host)
	}
	return nil
}

// failureReason returns why there is no token: the refusal of pipelock, or the status and the error code
// of RFC 6749 §5.2.
func failureReason(res *http.Response, text []byte) string {
	var ours struct{ Error httpd.Refusal }
	if res.Header.Get(httpd.HeaderRule) != "" && json.Unmarshal(text, &ours) == nil && ours.Error.By == bundle.Pipelock {
		return "pipelock refuses (" + truncate(ours.Error.Rule) + "): " + truncate(ours.Error.Why)
	}
	var theirs struct{ Error string }
	_ = json.Unmarshal(text, &theirs) // it may be no JSON
	switch theirs.Error {
	case "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
		return fmt.Sprintf("status %d, %s", res.StatusCode, theirs.Error)
	}
	return fmt.Sprintf("status %d", res.StatusCode)
}

func truncate(text string) string { return text[:min(len(text), 200)] }

// fetch sends a request of egress itself through pipelock, like all others.
func (h *hop) fetch(r *http.Request, injected []string) (*http.Response, error) {
	r.Header.Set(httpd.HeaderInjected, strings.Join(injected, ", "))
	target := *r.URL
	target.Opaque = target.Scheme + "://" + target.Host + target.EscapedPath()
	target.Scheme, target.Host = "http", "pipelock"
	r.URL = &target
	return h.transport.RoundTrip(r)
}

// tokenKey returns the key of the token that a route needs.
func tokenKey(a *bundle.Auth) string { return fmt.Sprintf("%+v", *a) }

// token returns the token of a route, from the cache or its endpoint.
func (l *activeConfig) token(ctx context.Context, a *bundle.Auth) (string, error) {
	ask, margin := l.fetchOAuthToken, time.Minute
	if a.Type == "github_app" {
		ask, margin = l.fetchInstallationToken, 5*time.Minute
	}
	text, err := l.tokens.get(ctx, tokenKey(a), margin, func(ctx context.Context, refresh string) (tokenResponse, error) {
		g, err := ask(ctx, a, refresh)
		outcome := "ok"
		if err != nil {
			outcome = "failed"
		}
		tokens.Inc(a.Type, outcome)
		return g, err
	})
	var known *refusedError
	if err == nil || errors.As(err, &known) {
		return text, err
	}
	// The error may quote foreign text, so it is redacted.
	return "", &refusedError{policy.Denied("credential", l.redactor().text(err.Error()))}
}

// invalidateOn401 drops the token of a route after a response with that status. The request is not sent
// again, because its body has been consumed.
func (l *activeConfig) invalidateOn401(a *bundle.Auth, status int) {
	if status == http.StatusUnauthorized && a != nil && (a.Type == "oauth" || a.Type == "github_app") {
		l.tokens.invalidate(tokenKey(a))
	}
}
