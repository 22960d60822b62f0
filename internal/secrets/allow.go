package secrets

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/zricethezav/gitleaks/v8/config"
)

// rule is gitleaks' rule, without what only its own detector needs. What it
// compiles to is made when a text first has one of its words: most rules are
// never needed, and all of them together take 40 ms and 6 MB.
type rule struct {
	id       string
	words    []string
	named    bool // by its name, not by how it looks, it knows a secret
	pathOnly bool // the path alone decides
	pathed   bool // it wants a path
	body     func() *body
}

// body is a rule's expressions, compiled.
type body struct {
	matchWindow
	regex   *regexp.Regexp // nil: the path alone decides
	relaxed *relaxedRule   // nil: the rule is not precise enough for texts that were joined
	shape   *relaxedRule   // the token itself, between any neighbours; nil: the rule recognises a secret by its surroundings
	path    *regexp.Regexp // nil: any
	group   int
	entropy float64
	allow   []allowlist
}

// allowlist excuses findings by their content. Conditions on paths and commits are never met.
type allowlist struct {
	never   bool // it wants a path or a commit besides
	all     bool // every condition must be met, not only one
	target  string
	regexes []*regexp.Regexp
	stop    *words
}

// compile makes the body of a rule that gitleaks has translated.
func compile(r config.Rule) (*body, error) {
	allow, err := newAllowlists(r.Allowlists)
	if err != nil {
		return nil, fmt.Errorf("rule %s: %w", r.RuleID, err)
	}
	b := &body{regex: r.Regex, path: r.Path, group: r.SecretGroup, entropy: r.Entropy, allow: allow}
	if r.Regex != nil && len(r.Keywords) > 0 {
		b.matchWindow = matchWindowOf(r.Regex.String(), r.Keywords)
		b.relaxed = b.relax(r.Regex.String(), r.Keywords)
		b.shape = shapeOf(r.RuleID, r.Regex.String(), r.Keywords)
	}
	return b, nil
}

func newAllowlists(all []*config.Allowlist) ([]allowlist, error) {
	var out []allowlist
	for _, a := range all {
		and := a.MatchCondition == config.AllowlistMatchAnd
		stop, err := newWords(slices.Sorted(slices.Values(a.StopWords))) // gitleaks shuffles them
		if err != nil {
			return nil, err
		}
		out = append(out, allowlist{
			never: and && len(a.Paths)+len(a.Commits) > 0, all: and, target: a.RegexTarget, regexes: a.Regexes, stop: stop,
		})
	}
	return out, nil
}

// allows judges one finding.
func (a *allowlist) allows(secret, match, line string) bool {
	target := secret
	switch a.target {
	case "match":
		target = match
	case "line":
		target = line
	}
	fits := slices.ContainsFunc(a.regexes, func(r *regexp.Regexp) bool { return r.MatchString(target) })
	stops := a.stop.in(secret)
	if !a.all {
		return fits || stops
	}
	return !a.never && (fits || len(a.regexes) == 0) && (stops || a.stop.empty())
}

// maxAround is how much of a line is looked at on each side of a match, in bytes.
const maxAround = 1 << 10

// lineAround is the line, or lines, of a match.
func lineAround(text string, at []int) string {
	from, to := max(0, at[0]-maxAround), min(len(text), at[1]+maxAround)
	start := from + strings.LastIndexByte(text[from:at[0]], '\n') + 1
	if end := strings.IndexByte(text[at[1]:to], '\n'); end >= 0 {
		to = at[1] + end
	}
	return text[start:to]
}
