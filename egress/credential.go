package egress

import (
	"context"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"airlock/internal/bundle"
	"airlock/internal/http1"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// credentials holds the values of the slots by their names. It does not print its values.
type credentials map[string]string

// String implements fmt.Stringer without the values.
func (credentials) String() string { return "[credentials]" }

// GoString implements fmt.GoStringer without the values.
func (credentials) GoString() string { return "[credentials]" }

// readCredentials returns the values of the slots that the routes name.
func readCredentials(routes []bundle.Route, getenv func(string) string) credentials {
	w := credentials{}
	for _, r := range routes {
		for _, slot := range r.Auth.Slots() {
			if value := getenv(slot); value != "" {
				w[slot] = value
			}
		}
	}
	return w
}

// redactable returns the values that responses are searched for. They lack the private keys of apps,
// which only sign and are never sent.
func (w credentials) redactable(routes []bundle.Route) credentials {
	all := maps.Clone(w)
	for _, r := range routes {
		if r.Auth != nil {
			delete(all, r.Auth.KeySlot)
		}
	}
	return all
}

// users returns the user names of Basic credentials, by slot.
func users(routes []bundle.Route) map[string][]string {
	all := map[string][]string{}
	for _, r := range routes {
		if r.Auth != nil && r.Auth.Type == "basic" {
			all[r.Auth.Slot] = append(all[r.Auth.Slot], r.Auth.User)
		}
	}
	return all
}

// missing denies a route whose credential is missing or unusable.
func (w credentials) missing(a *bundle.Auth) policy.Verdict {
	for _, slot := range a.Slots() {
		switch value := w[slot]; {
		case value == "":
			return policy.Denied("credential", "slot "+slot+" holds no credential")
		case slot == a.KeySlot:
			if _, err := keyBlock(value); err != nil {
				return policy.Denied("credential", "slot "+slot+": "+err.Error())
			}
		case slot != a.ClientIDSlot && len(value) < secrets.MinLength:
			return policy.Denied("credential", "the value in slot "+slot+" is too short to be found again in an answer")
		case strings.ContainsFunc(value, unicode.IsControl):
			return policy.Denied("credential", "the value in slot "+slot+" holds a line end or another control character")
		}
	}
	return policy.Allowed("credential")
}

// refusedError is a denial with its verdict.
type refusedError struct{ v policy.Verdict }

func (e *refusedError) Error() string { return e.v.Rule + ": " + e.v.Why }

func refused(rule, why string) error { return &refusedError{policy.Denied(rule, why)} }

// credentialFields are the header fields in which a client sends a credential.
var credentialFields = []string{"Authorization", "Proxy-Authorization", "X-Authorization", "X-Api-Key", "Api-Key", "Apikey", "X-Api-Token", "X-Auth-Token", "X-Auth-Key",
	"X-Access-Token", "Private-Token", "Job-Token", "Deploy-Token", "X-Goog-Api-Key", "X-Goog-Iam-Authorization-Token", "X-Amz-Security-Token", "Ocp-Apim-Subscription-Key", "X-Vault-Token"}

// credentialParameters are the query parameters in which a client sends a credential. Names with other
// common meanings, like key and token, are not among them.
var credentialParameters = []string{"access_token", "api_key", "apikey", "x_api_key", "auth_token", "private_token", "authorization"}

// inject removes the agent's own credentials from the request, injects the real one, and ensures that no
// placeholder is sent. A nil a injects nothing. It returns what holds the credential, for the header of
// the hop: the name of a field, "query:" with that of a parameter, or httpd.InjectedBody. An error is a
// refusedError, after which the request must not be sent.
func (l *activeConfig) inject(ctx context.Context, out *http.Request, a *bundle.Auth) (injected []string, err error) {
	l.watchTrailer(out, a)
	if a != nil && a.Type == "replace" {
		if injected, err = l.replace(ctx, out, a); err != nil {
			return nil, err
		}
		if name := l.canaries.findInHead(out); name != "" {
			return nil, misplacedError(name)
		}
	}
	if err := l.canaries.watchBody(ctx, out); err != nil {
		return nil, err
	}
	if a == nil || a.Type == "replace" {
		return injected, nil
	}
	strip(out, a)
	return l.put(ctx, out, a)
}

// strip removes every credential that the agent has sent itself.
func strip(out *http.Request, a *bundle.Auth) {
	removeCredentials(out.Header, a)
	switch a.Type {
	case "query":
		out.URL.RawQuery = withoutParameters(out.URL.RawQuery, append(credentialParameters, foldName(a.Name))...)
	case "bearer", "oauth", "github_app":
		// The other place of a bearer token (RFC 6750 §2.3).
		out.URL.RawQuery = withoutParameters(out.URL.RawQuery, "access_token")
	}
}

// put writes the credential into a request that has none.
func (l *activeConfig) put(ctx context.Context, out *http.Request, a *bundle.Auth) (injected []string, err error) {
	value := l.credentials[a.Slot]
	switch a.Type {
	case "bearer":
		return setField(out, "Authorization", "Bearer "+value), nil
	case "basic":
		return setField(out, "Authorization", basic(a.User, value)), nil
	case "header":
		return setField(out, http.CanonicalHeaderKey(a.Name), value), nil
	case "query":
		part := url.QueryEscape(a.Name) + "=" + url.QueryEscape(value)
		out.URL.RawQuery = strings.TrimPrefix(out.URL.RawQuery+"&"+part, "&")
		return []string{injectedParameter(a.Name)}, nil
	case "sigv4":
		return l.sign(ctx, out, a)
	case "oauth", "github_app":
		token, err := l.token(ctx, a)
		if err != nil {
			return nil, err
		}
		if a.Type == "github_app" && speaksGit(out.URL.Path) {
			return setField(out, "Authorization", basic("x-access-token", token)), nil
		}
		return setField(out, "Authorization", "Bearer "+token), nil
	}
	return nil, refused("credential", "the type "+a.Type+" is not known")
}

// speaksGit reports whether the path is one of git's smart HTTP protocol.
func speaksGit(path string) bool {
	return strings.HasSuffix(path, "/info/refs") || strings.HasSuffix(path, "/git-upload-pack")
}

func setField(out *http.Request, name, value string) (injected []string) {
	out.Header[name] = []string{value}
	return []string{name}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// injectedParameter returns the name of a parameter for the header of the hop. The agent may have chosen
// it, so it is escaped: it must not contain a separator of the list.
func injectedParameter(name string) string { return "query:" + url.QueryEscape(name) }

// removeCredentials deletes every field in which a client sends a credential, and the one that the
// route sets.
func removeCredentials(h http.Header, a *bundle.Auth) {
	for name := range h {
		if http1.SameField(name, a.Name) || slices.ContainsFunc(credentialFields, func(f string) bool { return http1.SameField(name, f) }) {
			delete(h, name)
		}
	}
}

// removeField deletes a field in every spelling.
func removeField(h http.Header, name string) {
	for have := range h {
		if http1.SameField(have, name) {
			delete(h, have)
		}
	}
}

// withoutParameters removes the parameters with these folded names from a query. The others stay as
// they were written.
func withoutParameters(raw string, names ...string) string {
	if raw == "" {
		return ""
	}
	kept := strings.Split(raw, "&")
	kept = slices.DeleteFunc(kept, func(part string) bool {
		// Some servers read a semicolon as an ampersand.
		for one := range strings.SplitSeq(part, ";") {
			key, _, _ := strings.Cut(one, "=")
			if decoded, err := url.QueryUnescape(key); err == nil && slices.Contains(names, foldName(decoded)) {
				return true
			}
		}
		return part == ""
	})
	return strings.Join(kept, "&")
}

// foldName returns the name of a parameter as the most lenient server reads it: in lower case, with
// underscores for characters that some languages do not allow in names, and without an index or
// anything after a zero byte.
func foldName(name string) string {
	name, _, _ = strings.Cut(name, "[")
	name, _, _ = strings.Cut(name, "\x00")
	return underscores.Replace(strings.ToLower(strings.TrimSpace(name)))
}

var underscores = strings.NewReplacer("-", "_", ".", "_", " ", "_")
