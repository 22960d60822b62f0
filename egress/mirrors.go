package egress

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/policy"
)

// mirrors are the repositories of git-gate, by their identities.
type mirrors map[bundle.GitIdentity]mirror

type mirror struct {
	rule string
	to   string
}

// newMirrors returns the mirrors of a validated configuration.
func newMirrors(all []bundle.Mirror) mirrors {
	known := mirrors{}
	for i, m := range all {
		u, err := bundle.ParseGitURL(m.URL)
		if err != nil {
			continue
		}
		id, err := bundle.IdentityOf(u)
		if _, twice := known[id]; err != nil || twice {
			continue
		}
		known[id] = mirror{rule: "mirrors[" + strconv.Itoa(i) + "] " + m.URL, to: strings.TrimSuffix(m.To, "/")}
	}
	return known
}

// repositoryPlaces are the beginnings of the paths below a repository that git and Git LFS request.
var repositoryPlaces = []string{"/info/refs", "/info/lfs/"}

// redirect returns the URL on git-gate for a request for one of its repositories. It compares the
// identity of the repository, so all spellings of its URL match.
func (ms mirrors) redirect(a requestInfo) (to string, v policy.Verdict) {
	if len(ms) == 0 || !a.tls {
		return "", policy.Verdict{}
	}
	path, err := policy.CleanPath(a.path)
	if err != nil {
		return "", policy.Verdict{}
	}
	for _, place := range repositoryPlaces {
		i := strings.Index(path, place)
		if i < 0 {
			continue
		}
		if place == "/info/refs" && (i+len(place) != len(path) || a.method != http.MethodGet || !strings.HasPrefix(a.query, "service=git-")) {
			continue
		}
		m, ok := ms[bundle.GitIdentity{At: a.authority, Path: bundle.RepositoryPath(path[:i])}]
		if !ok {
			continue
		}
		target := m.to + (&url.URL{Path: path[i:]}).EscapedPath()
		if a.query != "" {
			target += "?" + a.query
		}
		return target, policy.Verdict{Allow: true, Rule: m.rule, Why: "sent to git-gate, which has this repository"}
	}
	return "", policy.Verdict{}
}

// sendTo redirects the client to git-gate.
func sendTo(w http.ResponseWriter, to string) {
	h := w.Header()
	h["Location"] = []string{to}
	h["Cache-Control"] = []string{"no-store"}
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusTemporaryRedirect)
}
