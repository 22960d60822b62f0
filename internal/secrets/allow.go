package secrets

import (
	"regexp"
	"slices"
	"strings"

	"github.com/zricethezav/gitleaks/v8/config"
)

// rule is gitleaks' rule, without what only its own detector needs.
type rule struct {
	id      string
	regex   *regexp.Regexp // nil: the path alone decides
	path    *regexp.Regexp // nil: any
	group   int
	entropy float64
	words   []string
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

func newRule(r config.Rule) (rule, error) {
	allow, err := newAllowlists(r.Allowlists)
	return rule{
		id: r.RuleID, regex: r.Regex, path: r.Path, group: r.SecretGroup, entropy: r.Entropy, words: r.Keywords, allow: allow,
	}, err
}

func newAllowlists(all []*config.Allowlist) ([]allowlist, error) {
	var out []allowlist
	for _, a := range all {
		and := a.MatchCondition == config.AllowlistMatchAnd
		stop, err := newWords(a.StopWords)
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

// lineAround is the line, or lines, of a match.
func lineAround(text string, at []int) string {
	start := strings.LastIndexByte(text[:at[0]], '\n') + 1
	end := strings.IndexByte(text[at[1]:], '\n')
	if end < 0 {
		return text[start:]
	}
	return text[start : at[1]+end]
}
