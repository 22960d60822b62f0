package bundle

import (
	"time"

	"airlock/internal/policy"
)

// Allowed is an entry of the allowlist. In a file it is the host alone, or
// {host: HOST, expires: TIME}.
type Allowed struct {
	Host    policy.Pattern `yaml:"host"`
	Expires time.Time      `yaml:"expires,omitempty"` // zero: never
}

// At tells whether the entry is in force.
func (a Allowed) At(now time.Time) bool { return a.Expires.IsZero() || now.Before(a.Expires) }

// Equal tells whether two entries say the same.
func (a Allowed) Equal(b Allowed) bool {
	return a.Host.String() == b.Host.String() && a.Expires.Equal(b.Expires)
}

// UnmarshalYAML reads either form.
func (a *Allowed) UnmarshalYAML(unmarshal func(any) error) error {
	var form any
	if err := unmarshal(&form); err != nil {
		return err
	}
	if _, ok := form.(map[string]any); ok {
		type plain Allowed
		return unmarshal((*plain)(a))
	}
	return unmarshal(&a.Host)
}

// MarshalYAML writes the short form where that says it all.
func (a Allowed) MarshalYAML() (any, error) {
	if a.Expires.IsZero() {
		return a.Host, nil
	}
	type plain Allowed
	return plain(a), nil
}
