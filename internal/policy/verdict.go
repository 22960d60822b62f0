package policy

// Verdict is a decision. The zero Verdict denies.
type Verdict struct {
	Allow bool
	Rule  string // the line of configuration, or the name of the check, that decided
	Why   string // for the audit, and for whoever reads the refusal
}

// Allowed is a verdict that lets pass by the rule.
func Allowed(rule string) Verdict { return Verdict{Allow: true, Rule: rule} }

// Denied is a verdict that refuses, with the reason.
func Denied(rule, why string) Verdict { return Verdict{Rule: rule, Why: why} }

// Word is the verdict in the words of the audit.
func (v Verdict) Word() string {
	if v.Allow {
		return "allow"
	}
	return "deny"
}
