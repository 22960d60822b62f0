package hostctl

import (
	"cmp"
	"errors"
	"net/url"
	"slices"

	"airlock/internal/bundle"
	"airlock/internal/config"
	"airlock/internal/policy"
)

// ManifestAuth is bundle.Auth with references in the place of slots: it says
// where each credential is on the host, as "env:NAME", "file:PATH" or
// "command:COMMAND LINE".
type ManifestAuth struct {
	Type        string   `yaml:"type"`
	From        string   `yaml:"from,omitempty"` // every type but sigv4 and oauth; github_app: the key
	User        string   `yaml:"user,omitempty"`
	Name        string   `yaml:"name,omitempty"`
	Placeholder string   `yaml:"placeholder,omitempty"`
	In          []string `yaml:"in,omitempty,flow"`

	Region  string `yaml:"region,omitempty"` // sigv4
	Service string `yaml:"service,omitempty"`
	ID      string `yaml:"id,omitempty"`
	Secret  string `yaml:"secret,omitempty"`
	Session string `yaml:"session,omitempty"` // none: the keys are lasting ones

	TokenURL     string   `yaml:"token_url,omitempty"` // oauth
	ClientID     string   `yaml:"client_id,omitempty"`
	ClientSecret string   `yaml:"client_secret,omitempty"`
	Refresh      string   `yaml:"refresh,omitempty"` // none: the grant is client_credentials
	Scopes       []string `yaml:"scopes,omitempty,flow"`
	ClientAuth   string   `yaml:"client_auth,omitempty"`

	AppID          string `yaml:"app_id,omitempty"` // github_app
	InstallationID string `yaml:"installation_id,omitempty"`
	APIURL         string `yaml:"api_url,omitempty"`
}

// references are the keys that say where a credential is, and those of them
// that the type needs.
func (a *ManifestAuth) references() (all map[string]string, needed []string) {
	all = map[string]string{"from": a.From, "id": a.ID, "secret": a.Secret, "session": a.Session, "client_id": a.ClientID, "client_secret": a.ClientSecret, "refresh": a.Refresh}
	switch a.Type {
	case "sigv4":
		return all, []string{"id", "secret"}
	case "oauth":
		return all, []string{"client_id", "client_secret"}
	}
	return all, []string{"from"}
}

func (a *ManifestAuth) validate(at string) error {
	if a == nil {
		return nil
	}
	var errs []error
	all, needed := a.references()
	for _, key := range needed {
		if all[key] == "" {
			errs = append(errs, config.At(at, "%s is needed with type %s", key, a.Type))
		}
	}
	for key, text := range all {
		if _, err := parseReference(text); text != "" && err != nil {
			errs = append(errs, config.At(at+"."+key, "%v", err))
		}
	}
	return errors.Join(errs...)
}

// auth gives each credential a slot. A reference that is none, or that is
// needed and not there, validate refuses.
func (l *layout) auth(a *ManifestAuth) *bundle.Auth {
	if a == nil {
		return nil
	}
	all, needed := a.references()
	slot := func(key string) string {
		if all[key] == "" && !slices.Contains(needed, key) {
			return ""
		}
		ref, _ := parseReference(all[key])
		return l.slot("EGRESS_TOKEN_", ref)
	}
	b := &bundle.Auth{
		Type: a.Type, User: a.User, Name: a.Name, Placeholder: a.Placeholder, In: a.In,
		Region: a.Region, Service: a.Service, IDSlot: slot("id"), SecretSlot: slot("secret"), SessionSlot: slot("session"),
		TokenURL: a.TokenURL, ClientIDSlot: slot("client_id"), ClientSecretSlot: slot("client_secret"), RefreshSlot: slot("refresh"), Scopes: a.Scopes, ClientAuth: a.ClientAuth,
		AppID: a.AppID, InstallationID: a.InstallationID, APIURL: a.APIURL,
	}
	if a.Type == "github_app" {
		b.KeySlot = slot("from")
	} else {
		b.Slot = slot("from")
	}
	return b
}

// tokenHost is the host to which egress itself speaks to use a credential.
// No route leads the agent there.
func tokenHost(a *bundle.Auth) (policy.Pattern, bool) {
	if a == nil {
		return policy.Pattern{}, false
	}
	text := a.TokenURL
	if a.Type == "github_app" {
		text = cmp.Or(a.APIURL, "https://api.github.com")
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return policy.Pattern{}, false
	}
	p, err := policy.ParsePattern(u.Host)
	return p, err == nil
}
