package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"airlock/internal/activation"
	"airlock/internal/bundle"
	"airlock/internal/policy"
	"airlock/internal/proposal"
)

// maxPlace bounds the place and the agent's reason in a proposal, in bytes each.
const maxPlace = 2048

// proposeGitAllow stores git-gate's proposal to accept a value as no secret. Approval changes
// git-gate's configuration, so git-gate does not wait for it. A proposal that the operator has denied
// is not stored again.
func (s *supervisor) proposeGitAllow(_ context.Context, question []byte, _ func(id string)) activation.Decision {
	var q policy.GitAllow
	f, store, err := s.readQuestion(question, &q)
	if err != nil {
		return activation.Decision{Error: err.Error()}
	}
	p := proposal.Proposal{
		Kind: proposal.GitAllow, Daemon: bundle.GitGate, Repo: q.Repo, Rule: q.Rule, Digest: q.Digest,
		Place: s.foreignText(q.Place), Why: s.foreignText(q.Says),
	}
	if old, denied, err := store.Refused(p); err != nil || denied {
		return activation.Decision{Error: strings.TrimSpace(fmt.Sprintf("the operator has said no (%s) %s", old.ID, old.Answer))}
	}
	if p, err = store.Create(p, cmp.Or(f.Limits.OpenProposals, defaultOpen)); err != nil {
		return activation.Decision{Error: err.Error()}
	}
	return activation.Decision{Answer: p.ID}
}

// foreignText returns foreign text for a proposal: masked, bounded and valid UTF-8.
func (s *supervisor) foreignText(text string) string {
	text = s.out.mask.maskString(text)
	return strings.ToValidUTF8(text[:min(len(text), maxPlace)], "")
}
