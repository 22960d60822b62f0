package hostctl

import (
	"path/filepath"
	"slices"
	"time"

	"airlock/hostctl/pair"
	"airlock/internal/bundle"
	"airlock/internal/proposal"
)

// planGitAllow lets one value into one repository: git-gate's file as it shall
// be.
func planGitAllow(p pair.Plan, prop proposal.Proposal, note string, g grant, now time.Time) ([]change, error) {
	if len(g.paths) > 0 || len(g.methods) > 0 {
		return nil, usagef("%s is about a value in a repository: --path and --method make no sense for it", prop.ID)
	}
	ch := change{daemon: bundle.GitGate, path: filepath.Join(p.Etc(), "git-gate.yaml")}
	var f bundle.GitGateFile
	var err error
	if ch.old, err = readInto(ch.path, &f); err != nil {
		return nil, err
	}
	f = withGitAllow(f, prop, note, g.length, now)
	if ch.new, err = render("the new list of values", f); err != nil {
		return nil, err
	}
	return []change{ch}, nil
}

// withGitAllow is the file with one value more; one that is there gets another
// end.
func withGitAllow(f bundle.GitGateFile, prop proposal.Proposal, note string, length time.Duration, now time.Time) bundle.GitGateFile {
	entry := bundle.GitAllowed{Repo: prop.Repo, Rule: prop.Rule, Digest: prop.Digest, Reason: prop.Place}
	if note != "" {
		entry.Reason = note + " (" + prop.Place + ")"
	}
	if length > 0 {
		entry.Expires = now.Add(length).UTC().Truncate(time.Second)
	}
	f.Scan.Allow = slices.DeleteFunc(slices.Clone(f.Scan.Allow), func(a bundle.GitAllowed) bool {
		return a.Repo == entry.Repo && a.Rule == entry.Rule && a.Digest == entry.Digest
	})
	f.Scan.Allow = append(f.Scan.Allow, entry)
	return f
}
