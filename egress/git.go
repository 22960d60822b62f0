package egress

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"airlock/internal/policy"
)

// Services of git over HTTP (gitprotocol-http).
const (
	fetchService = "git-upload-pack"
	pushService  = "git-receive-pack"
)

// davMethods are the methods of a push to a plain web server (git-http-push). No other use of a
// repository needs them.
var davMethods = []string{"PROPFIND", "PROPPATCH", "LOCK", "UNLOCK", "MKCOL", "MOVE", "COPY", "PUT", "DELETE"}

// pushesGit reports whether a server may read the request as a push: of the smart protocol by its
// service, of the dumb protocol by a write to the objects or refs of a repository.
func pushesGit(a requestInfo) bool {
	if hasSegment(a.path, pushService) || advertises(a, pushService) || strings.Contains(strings.ToLower(a.content), pushService) {
		return true
	}
	if !slices.Contains(davMethods, a.method) {
		return false
	}
	return slices.ContainsFunc(lenientPaths(a.path), func(path string) bool {
		for _, place := range []string{"info/refs", "refs/heads/", "refs/tags/", "objects/"} {
			if strings.Contains(path, ".git/"+place) || (a.method != http.MethodPut && a.method != http.MethodDelete && strings.Contains(path, "/"+place)) {
				return true
			}
		}
		return strings.HasSuffix(path, "/info/refs")
	})
}

// fetchesGit reports whether a request is exactly one of the two of a clone or a fetch.
func fetchesGit(cleanPath string, a requestInfo) bool {
	if strings.HasSuffix(cleanPath, "/"+fetchService) {
		return a.method == http.MethodPost
	}
	query, err := url.ParseQuery(a.query)
	return err == nil && strings.HasSuffix(cleanPath, "/info/refs") && slices.Equal(query["service"], []string{fetchService}) &&
		(a.method == http.MethodGet || a.method == http.MethodHead)
}

// resemblesFetch reports whether a server may read the request as one of a clone or a fetch.
func resemblesFetch(a requestInfo) bool {
	reads := a.method == http.MethodGet || a.method == http.MethodHead
	return (!reads && hasSegment(a.path, fetchService)) || advertises(a, fetchService)
}

// advertises reports whether a request asks for the refs of a service.
func advertises(a requestInfo, service string) bool {
	return hasSegment(a.path, "refs") && queryMentions(a.query, service)
}

// hasSegment reports whether a path has that segment, before or after its dot
// segments are resolved, with path parameters or without.
func hasSegment(escaped, want string) bool {
	odd := func(r rune) bool { return r == '%' || r >= 0x80 }
	if !strings.Contains(strings.ToLower(escaped), want) && !strings.ContainsFunc(escaped, odd) {
		return false // no character with another reading
	}
	for _, path := range lenientPaths(escaped) {
		for segment := range strings.SplitSeq(path, "/") {
			if name, _, _ := strings.Cut(segment, ";"); strings.TrimSpace(name) == want {
				return true
			}
		}
	}
	return false
}

// lenientPaths returns the readings of a path by lenient servers.
func lenientPaths(escaped string) []string {
	decoded, err := policy.DecodePath(escaped)
	if err != nil {
		return nil // an invalid path is refused anyway
	}
	all := policy.Readings(decoded)
	for i := range all {
		all[i] = strings.ToLower(all[i])
	}
	return all
}

// queryMentions reports whether a query contains a word, also if it is percent-encoded several times.
func queryMentions(query, word string) bool {
	for range 8 {
		if strings.Contains(strings.ToLower(query), word) {
			return true
		}
		var again bool
		if query, again = policy.Unescape(query); !again {
			return false
		}
	}
	return true // encoded nine times: refused
}
