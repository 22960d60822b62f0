package hostctl

import (
	"strings"
	"testing"
	"time"

	"airlock/internal/bundle"
	"airlock/internal/proposal"
)

func TestWithGitAllow(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	digest := strings.Repeat("0f", 32)
	p := proposal.Proposal{ID: "p-abcdefgh", Kind: proposal.GitAllow, Repo: "app", Rule: "jwt", Digest: digest, Place: "a:1, object 01234567"}
	f := bundle.GitGateFile{Version: 1, Repos: map[string]bundle.Repo{"app": {URL: "https://git.example.com/app.git"}}}
	f = withGitAllow(f, p, "", time.Hour, now)
	want := bundle.GitAllowed{Repo: "app", Rule: "jwt", Digest: digest, Reason: "a:1, object 01234567", Expires: now.Add(time.Hour)}
	if len(f.Scan.Allow) != 1 || f.Scan.Allow[0] != want {
		t.Errorf("%+v", f.Scan.Allow)
	}
	f = withGitAllow(f, p, "looked at", 0, now)
	want.Expires, want.Reason = time.Time{}, "looked at (a:1, object 01234567)"
	if len(f.Scan.Allow) != 1 || f.Scan.Allow[0] != want || f.Validate() != nil {
		t.Errorf("%+v, %v", f.Scan.Allow, f.Validate())
	}
	p.Rule = "EGRESS_TOKEN_0"
	if _, err := render("the new list", withGitAllow(f, p, "", 0, now)); err == nil {
		t.Error("a credential of the bundle is let in")
	}
}
