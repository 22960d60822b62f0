package bundle

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"airlock/internal/config"
	"airlock/internal/policy"
)

// EgressFile is egress.yaml: which requests may pass, and with which
// credential.
type EgressFile struct {
	Version  int    `yaml:"version"`
	Listen   string `yaml:"listen,omitempty"`   // default 0.0.0.0:9099
	Upstream string `yaml:"upstream,omitempty"` // unix:/path; default the in-bundle socket
	CA       CA     `yaml:"ca"`

	Mode  string           `yaml:"mode,omitempty"`       // learn: what goes to the hosts of learn passes without a route; empty: routes alone decide
	Learn []policy.Pattern `yaml:"learn,omitempty,flow"` // with mode learn, and only then

	Routes []Route `yaml:"routes"` // none: everything is refused

	// Mirrors are the repositories that git-gate has: git is sent there, whatever a route says.
	Mirrors []Mirror `yaml:"mirrors,omitempty"`

	Lines []int `yaml:"-"` // where each route stands in the file that was read
}

// Locate implements config.Locator.
func (f *EgressFile) Locate(line func(key string) int) {
	f.Lines = linesOf("routes", len(f.Routes), line)
}

func linesOf(key string, n int, line func(key string) int) (all []int) {
	for i := range n {
		all = append(all, line(fmt.Sprintf("%s[%d]", key, i)))
	}
	return all
}

// CA names the pair's certificate authority.
type CA struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// Route is one line of egress policy.
type Route struct {
	Host    policy.Pattern       `yaml:"host"`
	Methods []string             `yaml:"methods,omitempty,flow"` // none: any
	Paths   []policy.PathPattern `yaml:"paths,omitempty,flow"`   // none: any
	Auth    *Auth                `yaml:"auth,omitempty,flow"`    // none: nothing is injected
	Expires time.Time            `yaml:"expires,omitempty"`      // zero: never
	Git     string               `yaml:"git,omitempty"`          // "fetch": clone and fetch over HTTPS
	// Kind is KindLLM for the API of a model; empty for anything else.
	Kind string `yaml:"kind,omitempty"`
	// PlainHTTP lets the route pass over http, its credential readable on the way.
	PlainHTTP bool `yaml:"plain_http,omitempty"`
}

// KindLLM is the kind of a route to a model's API: what the scan finds in a request is overwritten in place. A client sends its whole conversation
// with each turn, so one refusal would end it.
const KindLLM = "llm"

// Auth says which credential a route injects and how.
type Auth struct {
	Type        string   `yaml:"type"` // bearer, basic, header, query, replace, sigv4, oauth, github_app
	Slot        string   `yaml:"slot,omitempty"`
	User        string   `yaml:"user,omitempty"`        // basic
	Name        string   `yaml:"name,omitempty"`        // header, query
	Placeholder string   `yaml:"placeholder,omitempty"` // replace
	In          []string `yaml:"in,omitempty,flow"`     // replace: headers, query, body

	Region     string `yaml:"region,omitempty"` // sigv4
	Service    string `yaml:"service,omitempty"`
	IDSlot     string `yaml:"id_slot,omitempty"`
	SecretSlot string `yaml:"secret_slot,omitempty"`
	// SessionSlot belongs to temporary keys; none: the keys are lasting ones.
	SessionSlot string `yaml:"session_slot,omitempty"`

	TokenURL         string   `yaml:"token_url,omitempty"` // oauth
	ClientIDSlot     string   `yaml:"client_id_slot,omitempty"`
	ClientSecretSlot string   `yaml:"client_secret_slot,omitempty"`
	Scopes           []string `yaml:"scopes,omitempty,flow"`
	RefreshSlot      string   `yaml:"refresh_slot,omitempty"` // none: the grant is client_credentials
	ClientAuth       string   `yaml:"client_auth,omitempty"`  // how the client proves itself: basic (default) or body

	AppID          string `yaml:"app_id,omitempty"` // github_app
	InstallationID string `yaml:"installation_id,omitempty"`
	KeySlot        string `yaml:"key_slot,omitempty"`
	APIURL         string `yaml:"api_url,omitempty"` // default https://api.github.com
}

// Slots are the names of the credentials that the injection needs.
func (a *Auth) Slots() []string {
	if a == nil {
		return nil
	}
	all := []string{a.Slot, a.IDSlot, a.SecretSlot, a.SessionSlot, a.ClientIDSlot, a.ClientSecretSlot, a.RefreshSlot, a.KeySlot}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

var (
	slotName  = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	tokenForm = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // RFC 9110 §5.6.2
)

// Validate says everything that is wrong with the file.
func (f EgressFile) Validate() error {
	errs := []error{checkVersion(f.Version), f.CA.validate()}
	if f.Upstream != "" && !strings.HasPrefix(f.Upstream, "unix:/") {
		errs = append(errs, config.At("upstream", "expected unix:/path, the socket of pipelock, got %q", f.Upstream))
	}
	errs = append(errs, f.validateMode())
	for i, r := range f.Routes {
		errs = append(errs, r.validate(fmt.Sprintf("routes[%d]", i)))
	}
	for i, m := range f.Mirrors {
		errs = append(errs, m.validate(fmt.Sprintf("mirrors[%d]", i)))
	}
	return errors.Join(errs...)
}

// validateMode wants learn mode said twice: the word, and where.
func (f EgressFile) validateMode() error {
	switch {
	case f.Mode != "" && f.Mode != "learn":
		return config.At("mode", "%q: learn is the only value; without it routes alone decide", f.Mode)
	case f.Mode == "learn" && len(f.Learn) == 0:
		return config.At("mode", "learn mode needs the hosts that it is for, in learn")
	case f.Mode == "" && len(f.Learn) > 0:
		return config.At("learn", "hosts to learn about are of no use without \"mode: learn\"")
	}
	for i, p := range f.Learn {
		if p == (policy.Pattern{}) {
			return config.At(fmt.Sprintf("learn[%d]", i), "a host is needed")
		}
	}
	return nil
}

func (c CA) validate() error {
	if c.Cert == "" || c.Key == "" {
		return config.At("ca", "the files cert and key of the pair's authority are needed")
	}
	return nil
}

func (r Route) validate(at string) error {
	var errs []error
	if r.Host == (policy.Pattern{}) {
		errs = append(errs, config.At(at, "a host is needed"))
	}
	for j, m := range r.Methods {
		if !tokenForm.MatchString(m) || m != strings.ToUpper(m) || m == "CONNECT" {
			errs = append(errs, config.At(fmt.Sprintf("%s.methods[%d]", at, j), "%q: an HTTP method in upper case was wanted", m))
		}
	}
	for j, p := range r.Paths {
		if err := p.Validate(); err != nil {
			errs = append(errs, config.At(fmt.Sprintf("%s.paths[%d]", at, j), "%q: %v", string(p), err))
		}
	}
	if r.Git != "" && r.Git != "fetch" {
		errs = append(errs, config.At(at+".git", "%q: fetch is the only value; a push goes through git-gate", r.Git))
	}
	if r.Kind != "" && r.Kind != KindLLM {
		errs = append(errs, config.At(at+".kind", "unknown kind %q: want %s, or leave it out", r.Kind, KindLLM))
	}
	if r.Auth != nil && r.Host.Port() == 80 && !r.PlainHTTP {
		errs = append(errs, config.At(at+".host", "a credential would go over plain http, where anybody on the way reads it; plain_http: true says that this is meant"))
	}
	return errors.Join(append(errs, r.Auth.validate(at+".auth", r.PlainHTTP))...)
}

// wants lists the keys that each type of injection needs.
var wants = map[string]func(a *Auth) map[string]string{
	"bearer": func(a *Auth) map[string]string { return map[string]string{"slot": a.Slot} },
	"basic":  func(a *Auth) map[string]string { return map[string]string{"slot": a.Slot, "user": a.User} },
	"header": func(a *Auth) map[string]string { return map[string]string{"slot": a.Slot, "name": a.Name} },
	"query":  func(a *Auth) map[string]string { return map[string]string{"slot": a.Slot, "name": a.Name} },
	"replace": func(a *Auth) map[string]string {
		return map[string]string{"slot": a.Slot, "placeholder": a.Placeholder}
	},
	"sigv4": func(a *Auth) map[string]string {
		return map[string]string{"region": a.Region, "service": a.Service, "id_slot": a.IDSlot, "secret_slot": a.SecretSlot}
	},
	"oauth": func(a *Auth) map[string]string {
		return map[string]string{"token_url": a.TokenURL, "client_id_slot": a.ClientIDSlot, "client_secret_slot": a.ClientSecretSlot}
	},
	"github_app": func(a *Auth) map[string]string {
		return map[string]string{"app_id": a.AppID, "installation_id": a.InstallationID, "key_slot": a.KeySlot}
	},
}

// framing are the fields that say how a message is sent (RFC 9110 §7.6.1) or
// to whom, and the ones that mean something between the daemons.
var framing = []string{"host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect", "keep-alive", "proxy-connection", "airlock-injected"}

func (a *Auth) validate(at string, plainHTTP bool) error {
	if a == nil {
		return nil
	}
	needs, known := wants[a.Type]
	if !known {
		return config.At(at+".type", "%q: one of bearer, basic, header, query, replace, sigv4, oauth, github_app was wanted", a.Type)
	}
	var errs []error
	for key, value := range needs(a) {
		if value == "" {
			errs = append(errs, config.At(at, "%s is needed with type %s", key, a.Type))
		}
	}
	for _, slot := range a.Slots() {
		if !slotName.MatchString(slot) {
			errs = append(errs, config.At(at, "slot %q: a name like EGRESS_TOKEN_0 was wanted", slot))
		}
	}
	if strings.ContainsFunc(a.User, func(c rune) bool { return c == ':' || unicode.IsControl(c) }) {
		errs = append(errs, config.At(at+".user", "a colon or a control character stands in no user name")) // RFC 7617 §2
	}
	if a.Type == "header" && a.Name != "" && !tokenForm.MatchString(a.Name) {
		errs = append(errs, config.At(at+".name", "%q: the name of a header was wanted", a.Name))
	}
	if a.Type == "header" && slices.Contains(framing, strings.ToLower(a.Name)) {
		errs = append(errs, config.At(at+".name", "%q: this field belongs to the connection, not to a credential", a.Name))
	}
	for _, where := range a.In {
		if where != "headers" && where != "query" && where != "body" {
			errs = append(errs, config.At(at+".in", "%q: headers, query or body was wanted", where))
		}
	}
	if len(a.Placeholder) > 0 && len(a.Placeholder) < 8 {
		errs = append(errs, config.At(at+".placeholder", "a placeholder has at least 8 characters, so that it stands nowhere by chance"))
	}
	return errors.Join(append(errs, a.validateMinting(at, plainHTTP))...)
}

var (
	appName = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	number  = regexp.MustCompile(`^[0-9]+$`)
	awsName = regexp.MustCompile(`^[a-z0-9-]+$`)
)

// validateMinting says what is wrong with the keys of the types that sign or
// fetch.
func (a *Auth) validateMinting(at string, plainHTTP bool) error {
	var errs []error
	for key, value := range map[string]string{"token_url": a.TokenURL, "api_url": a.APIURL} {
		if value != "" {
			errs = append(errs, checkEndpoint(at+"."+key, value, plainHTTP))
		}
	}
	if !slices.Contains([]string{"", "basic", "body"}, a.ClientAuth) {
		errs = append(errs, config.At(at+".client_auth", "%q: basic or body was wanted", a.ClientAuth))
	}
	for _, k := range []struct {
		key, value, want string
		form             *regexp.Regexp
	}{
		{"app_id", a.AppID, "the number or the client id of an app", appName},
		{"installation_id", a.InstallationID, "the number of an installation", number},
		{"region", a.Region, "a name like eu-central-1", awsName},
		{"service", a.Service, "a name like s3", awsName},
	} {
		if k.value != "" && !k.form.MatchString(k.value) {
			errs = append(errs, config.At(at+"."+k.key, "%q: %s was wanted", k.value, k.want))
		}
	}
	return errors.Join(errs...)
}

// checkEndpoint wants the place to which egress itself sends a credential.
func checkEndpoint(at, text string, plainHTTP bool) error {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Fragment != "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http") {
		return config.At(at, "https://host/path was wanted")
	}
	if _, err := policy.ParseAuthority(u.Host, 443); err != nil {
		return config.At(at, "%v", err)
	}
	if u.Scheme == "http" && !plainHTTP {
		return config.At(at, "a credential would go over plain http, where anybody on the way reads it; plain_http: true says that this is meant")
	}
	return nil
}

// DigestSlot is the slot in which pipelock finds the digest of the value that
// egress has in the slot token.
func DigestSlot(token string) string {
	return "EGRESS_DIGEST_" + strings.TrimPrefix(token, "EGRESS_TOKEN_")
}

// Places tells whether a placeholder is replaced there: headers (also where
// "in" was left out), query or body.
func (a *Auth) Places(where string) bool {
	return slices.Contains(a.In, where) || (len(a.In) == 0 && where == "headers")
}
