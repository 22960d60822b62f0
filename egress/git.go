package egress

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"airlock/internal/policy"
)

// The services of git over HTTP (gitprotocol-http).
const (
	fetchService = "git-upload-pack"
	pushService  = "git-receive-pack"
)

// davMethods are those of a push to a plain web server (git-http-push), which
// nothing else of a repository needs.
var davMethods = []string{"PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "MKCOL", "MOVE", "COPY", "PUT", "DELETE"}

// pushesGit recognises a push in any spelling that a server might read as
// one: the smart protocol by its service, the dumb one by writing to where a
// repository keeps its objects and refs.
func pushesGit(a requestInfo) bool {
	if hasSegment(a.path, pushService) || advertises(a, pushService) || strings.Contains(strings.ToLower(a.content), pushService) {
		return true
	}
	if !slices.Contains(davMethods, a.method) {
		return false
	}
	return slices.ContainsFunc(lowered(a.path), func(path string) bool {
		for _, place := range []string{"info/refs", "refs/heads/", "refs/tags/", "objects/"} {
			if strings.Contains(path, ".git/"+place) || (a.method != http.MethodPut && a.method != http.MethodDelete && strings.Contains(path, "/"+place)) {
				return true
			}
		}
		return strings.HasSuffix(path, "/info/refs")
	})
}

// fetchesGit tells whether a request is one of the two of a clone or a fetch,
// and nothing else.
func fetchesGit(cleanPath string, a requestInfo) bool {
	if strings.HasSuffix(cleanPath, "/"+fetchService) {
		return a.method == http.MethodPost
	}
	query, err := url.ParseQuery(a.query)
	return err == nil && strings.HasSuffix(cleanPath, "/info/refs") && slices.Equal(query["service"], []string{fetchService}) &&
		(a.method == http.MethodGet || a.method == http.MethodHead)
}

// resemblesFetch is fetchesGit for who refuses: in any spelling that a server
// might read as one.
func resemblesFetch(a requestInfo) bool {
	reads := a.method == http.MethodGet || a.method == http.MethodHead
	return (!reads && hasSegment(a.path, fetchService)) || advertises(a, fetchService)
}

// advertises tells whether a request asks which refs a service knows.
func advertises(a requestInfo, service string) bool {
	return hasSegment(a.path, "refs") && mentions(a.query, service)
}

// hasSegment tells whether a path has that segment, before or after its dot
// segments are resolved, with path parameters or without.
func hasSegment(escaped, want string) bool {
	odd := func(r rune) bool { return r == '%' || r >= 0x80 }
	if !strings.Contains(strings.ToLower(escaped), want) && !strings.ContainsFunc(escaped, odd) {
		return false // nothing in it reads as something else
	}
	for _, path := range lowered(escaped) {
		for segment := range strings.SplitSeq(path, "/") {
			if name, _, _ := strings.Cut(segment, ";"); strings.TrimSpace(name) == want {
				return true
			}
		}
	}
	return false
}

// lowered is a path in each way that a lenient server reads it.
func lowered(escaped string) []string {
	decoded, err := policy.DecodePath(escaped)
	if err != nil {
		return nil // it is refused for that
	}
	all := policy.Readings(decoded)
	for i := range all {
		all[i] = strings.ToLower(all[i])
	}
	return all
}

// mentions tells whether a query holds a word, however often it is encoded.
func mentions(query, word string) bool {
	for range 8 {
		if strings.Contains(strings.ToLower(query), word) {
			return true
		}
		var again bool
		if query, again = policy.Unescape(query); !again {
			return false
		}
	}
	return true // nobody encodes nine times with a good intention
}
