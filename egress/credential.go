package egress

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/httpd"
	"airlock/internal/policy"
	"airlock/internal/secrets"
)

// wallet holds the values of the slots. It never prints itself.
type wallet map[string]string

// String keeps a wallet out of logs.
func (wallet) String() string { return "[wallet]" }

// GoString keeps a wallet out of logs.
func (wallet) GoString() string { return "[wallet]" }

// readWallet takes the values of the slots that the routes name.
func readWallet(routes []bundle.Route, getenv func(string) string) wallet {
	w := wallet{}
	for _, r := range routes {
		for _, slot := range r.Auth.Slots() {
			if value := getenv(slot); value != "" {
				w[slot] = value
			}
		}
	}
	return w
}

// checkKinds refuses the types of injection that this version cannot do yet.
func checkKinds(routes []bundle.Route) error {
	for i, r := range routes {
		if r.Auth != nil && slices.Contains([]string{"sigv4", "oauth", "github_app"}, r.Auth.Type) {
			return config.At(fmt.Sprintf("routes[%d].auth.type", i), "%s is not built yet", r.Auth.Type)
		}
		if r.Auth != nil && slices.Contains(r.Auth.In, "body") {
			return config.At(fmt.Sprintf("routes[%d].auth.in", i), "a placeholder in the body is not built yet")
		}
	}
	return nil
}

// users lists the user names that stand in Basic pairs, by slot.
func users(routes []bundle.Route) map[string][]string {
	all := map[string][]string{}
	for _, r := range routes {
		if r.Auth != nil && r.Auth.Type == "basic" {
			all[r.Auth.Slot] = append(all[r.Auth.Slot], r.Auth.User)
		}
	}
	return all
}

// missing is the verdict on a route whose credential is not there.
func (w wallet) missing(a *bundle.Auth) policy.Verdict {
	for _, slot := range a.Slots() {
		switch value := w[slot]; {
		case value == "":
			return policy.Denied("credential", "slot "+slot+" holds no credential")
		case len(value) < secrets.MinLength:
			return policy.Denied("credential", "the value in slot "+slot+" is too short to be found again in an answer")
		case strings.ContainsFunc(value, unicode.IsControl):
			return policy.Denied("credential", "the value in slot "+slot+" holds a line end or another control character")
		}
	}
	return policy.Allowed("credential")
}

// credentialFields are the header fields in which a client sends a credential.
var credentialFields = []string{"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token", "Private-Token", "X-Goog-Api-Key", "X-Amz-Security-Token"}

// inject takes the agent's own credentials out of the request and puts the
// real one in. It returns the names of what holds it now, for the hop's
// header: a field's name, or "query:name".
func (w wallet) inject(h http.Header, u *url.URL, a *bundle.Auth) (injected []string) {
	if a == nil {
		return nil
	}
	if a.Type == "replace" {
		return w.replace(h, u, a)
	}
	for _, field := range append(credentialFields, a.Name) {
		removeField(h, field)
	}
	value := w[a.Slot]
	switch a.Type {
	case "bearer":
		h["Authorization"] = []string{"Bearer " + value}
		return []string{"Authorization"}
	case "basic":
		h["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(a.User+":"+value))}
		return []string{"Authorization"}
	case "header":
		name := http.CanonicalHeaderKey(a.Name)
		h[name] = []string{value}
		return []string{name}
	case "query":
		u.RawQuery = setQuery(u.RawQuery, a.Name, value)
		return []string{"query:" + a.Name}
	}
	return nil // checkKinds has refused every other type
}

// removeField deletes a field in every spelling, an underscore for a hyphen
// among them: some servers fold the two.
func removeField(h http.Header, name string) {
	if name == "" {
		return
	}
	for have := range h {
		if strings.EqualFold(strings.ReplaceAll(have, "_", "-"), strings.ReplaceAll(name, "_", "-")) {
			delete(h, have)
		}
	}
}

// setQuery puts one parameter behind the others, which stay as they were
// written, and removes those of the same name.
func setQuery(raw, name, value string) string {
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		key, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(key); part != "" && (err != nil || decoded != name) {
			kept = append(kept, part)
		}
	}
	return strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value)), "&")
}

// replace puts the value where the agent wrote the placeholder. What stands
// beside it is the agent's and is scanned: ";replaced" says so.
func (w wallet) replace(h http.Header, u *url.URL, a *bundle.Auth) (injected []string) {
	value := w[a.Slot]
	if a.Places("headers") {
		for name, values := range h {
			for i, v := range values {
				if strings.Contains(v, a.Placeholder) {
					values[i] = strings.ReplaceAll(v, a.Placeholder, value)
					injected = append(injected, name+httpd.Replaced)
				}
			}
		}
	}
	if a.Places("query") {
		parts := strings.Split(u.RawQuery, "&")
		for i, part := range parts {
			key, text, _ := strings.Cut(part, "=")
			if name, err := url.QueryUnescape(key); err == nil && strings.Contains(text, a.Placeholder) {
				parts[i] = key + "=" + strings.ReplaceAll(text, a.Placeholder, url.QueryEscape(value))
				injected = append(injected, "query:"+name+httpd.Replaced)
			}
		}
		u.RawQuery = strings.Join(parts, "&")
	}
	return injected
}
