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

// Question is a request that nobody has sent.
type Question struct {
	Method string `json:"method"`
	URL    string `json:"url"`
}

// Explanation is a daemon's verdict on a question, with what a person needs
// who wants another one.
type Explanation struct {
	Daemon    string `json:"daemon"`
	Allow     bool   `json:"allow"`
	Final     bool   `json:"final,omitempty"` // answered there: it goes no further
	Rule      string `json:"rule"`
	At        string `json:"at,omitempty"` // file and line of the rule; empty for a check that no line turns off
	Why       string `json:"why,omitempty"`
	Nearest   string `json:"nearest,omitempty"`    // refused: the rule that came nearest
	NearestAt string `json:"nearest_at,omitempty"` // its file and line
	Line      string `json:"line,omitempty"`       // refused: the line of configuration that would let it pass
	Auth      string `json:"auth,omitempty"`       // allowed: the type of the credential that it would get
}
