package httpd

import (
	"net/http"
	"strconv"
	"strings"
)

// gitClients are the beginnings of the User-Agent of git and its relatives.
var gitClients = []string{"git/", "go-git/", "JGit/"}

// showsText reports whether a request that accepts anything, or does not say what it
// accepts, is of a client that shows the person a body only if it is plain text:
// git, and the go command, whose User-Agent is that of every program in Go.
func showsText(r *http.Request) bool {
	agent := r.UserAgent()
	for _, prefix := range gitClients {
		if strings.HasPrefix(agent, prefix) {
			return true
		}
	}
	if !strings.HasPrefix(agent, "Go-http-client/") || r.URL == nil {
		return false
	}
	path := r.URL.Path // of a module proxy (go.dev/ref/mod#goproxy-protocol), a checksum database, or a module's own site
	return strings.Contains(path, "/@v/") || strings.HasSuffix(path, "/@latest") || strings.HasPrefix(path, "/lookup/") || strings.HasPrefix(path, "/tile/") ||
		strings.HasPrefix(path, "/sumdb/") || r.URL.Query().Has("go-get")
}

// PrefersText reports whether a refusal of the request is told as plain text: where
// its Accept field (RFC 9110 §12.5.1) prefers that to JSON, and for git and the go
// command, which show nothing else.
func PrefersText(r *http.Request) bool {
	json, text, named := 0.0, 0.0, false
	for _, list := range r.Header["Accept"] {
		for item := range strings.SplitSeq(list, ",") {
			kind, parameters, _ := strings.Cut(item, ";")
			kind, q := strings.ToLower(strings.TrimSpace(kind)), quality(parameters)
			switch {
			case kind == "application/json" || strings.HasSuffix(kind, "+json") || kind == "application/*":
				json, named = max(json, q), true
			case kind == "text/plain" || kind == "text/*":
				text, named = max(text, q), true
			case kind == "*/*":
				json, text = max(json, q), max(text, q)
			case kind != "":
				// Another type alone is no wish for JSON; a person may read the text.
				text = max(text, 0.001)
			}
		}
	}
	if len(r.Header["Accept"]) == 0 {
		json, text = 1, 1
	}
	return text > json || !named && showsText(r)
}

// quality is the weight among the parameters of a type in an Accept field (RFC
// 9110 §12.4.2).
func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}
