package pipelock

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// What is done about a finding.
const (
	actionBlock  = "block"
	actionRedact = "redact"
	actionAsk    = "ask"
	actionWarn   = "warn"
)

// Words of the audit for what is found and not refused at once.
const (
	wordRedacted = "redacted"
	wordWarn     = "warn"
	wordAsk      = "ask"
	wordApproved = "approved"
)

// actions say what is done about a finding, by the host it would go to.
type actions struct {
	usual string
	hosts []hostAction // the narrowest first
}

type hostAction struct {
	pattern policy.Pattern
	action  string
}

func newActions(f bundle.SecretScan) actions {
	a := actions{usual: cmp.Or(f.Action, actionBlock)}
	for pattern, h := range f.Hosts {
		a.hosts = append(a.hosts, hostAction{pattern, cmp.Or(h.Action, a.usual)})
	}
	slices.SortFunc(a.hosts, func(x, y hostAction) int { return narrower(x.pattern, y.pattern) })
	return a
}

// narrower orders patterns: a name before those with a star, a long one
// before a short one, and one with a port before the one without.
func narrower(x, y policy.Pattern) int {
	stars := func(p policy.Pattern) int { return strings.Count(p.String(), "*") }
	labels := func(p policy.Pattern) int { return strings.Count(p.String(), ".") }
	return cmp.Or(stars(x)-stars(y), labels(y)-labels(x), int(y.Port())-int(x.Port()), strings.Compare(x.String(), y.String()))
}

// of is what is done about a finding in what goes to an authority.
func (a actions) of(to policy.Authority) string {
	for _, h := range a.hosts {
		if h.pattern.Matches(to.Host) && (h.pattern.Port() == 0 || h.pattern.Port() == to.Port) {
			return h.action
		}
	}
	return a.usual
}

// maxGrants bounds how often a person is asked about one request or one
// connection.
const maxGrants = 3

// resolve applies the configured action to a finding that cannot be redacted. granted lists what a
// person has approved in this request.
func (to scanContext) resolve(ctx context.Context, v policy.Verdict, granted []string) (policy.Verdict, []string) {
	switch {
	case !isFinding(v):
		return v, granted
	case to.action == actionWarn:
		if err := to.report(wordWarn, v); err != nil {
			return unwritten(), granted
		}
		return policy.Allowed("scan"), granted
	case to.action == actionRedact:
		v.Why += "; it cannot be overwritten there"
		return v, granted
	case to.action != actionAsk:
		return v, granted
	case slices.Contains(granted, v.Rule+v.Why):
		return policy.Allowed("scan"), granted
	case len(granted) >= maxGrants:
		v.Why += "; so much was found that nobody is asked any more"
		return v, granted
	}
	answer := to.ask(ctx, v)
	if answer.Allow {
		granted = append(granted, v.Rule+v.Why)
	}
	return answer, granted
}

// unwritten is the refusal when a verdict cannot be recorded.
func unwritten() policy.Verdict {
	return policy.Denied("audit", "the verdict could not be written down")
}
