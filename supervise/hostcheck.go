package supervise

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	"airlock/internal/bundle"
	"airlock/internal/httpd"
	"airlock/internal/policy"
)

// ownNames are the names of this server within a pair.
var ownNames = []string{bundle.Supervise, "localhost"}

// checkHostAndOrigin refuses requests whose Host or Origin is not of the pair. It prevents DNS
// rebinding: the name of a web page in a browser of the agent may resolve to this server, and the
// browser then sends that name in both fields.
func checkHostAndOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var local netip.Addr
		if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
			if at, err := netip.ParseAddrPort(a.String()); err == nil {
				local = at.Addr().Unmap()
			}
		}
		rule := ""
		switch {
		case !ownHost(r.Host, local):
			rule = "host"
		case !ownOrigins(r.Header["Origin"], local):
			rule = "origin"
		}
		if rule != "" {
			httpd.Refuse(w, http.StatusForbidden, httpd.Refusal{
				By: bundle.Supervise, Rule: rule, Why: "the request names another " + rule + " than this server's: the pair calls it supervise", URL: r.URL.Path,
				Ask: "use the address that the pair is set up with",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownHost reports whether a Host field, or the host of an origin, names this server:
// by one of its names, or by a loopback address or the one that the connection
// came to. An address cannot be the result of DNS rebinding.
func ownHost(host string, local netip.Addr) bool {
	a, err := policy.ParseAuthority(host, 80)
	if err != nil {
		return false
	}
	if addr := a.Host.Addr(); addr.IsValid() {
		return addr.Unmap().IsLoopback() || addr.Unmap() == local
	}
	return slices.Contains(ownNames, a.Host.String())
}

// ownOrigins reports whether a request has no Origin, or only those of this server.
func ownOrigins(origins []string, local netip.Addr) bool {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || !ownHost(u.Host, local) {
			return false
		}
	}
	return true
}
