package egress

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"airlock/internal/bundle"
	"airlock/internal/http1"
	"airlock/internal/policy"
)

// Fields with which some servers and frameworks override the method or the path of a request.
var (
	methodOverrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}
	pathOverrides   = []string{"X-Original-Url", "X-Rewrite-Url", "X-Original-Uri"}
)

// checkOverride denies an allowed request that a server may read as one with another method or path that
// the route does not allow.
func checkOverride(h http.Header, query string, route *bundle.Route) policy.Verdict {
	for name, values := range h {
		for _, field := range pathOverrides {
			if http1.SameField(name, field) {
				return policy.Denied("route", "the field "+field+" names another path than the request")
			}
		}
		for _, field := range methodOverrides {
			if !http1.SameField(name, field) {
				continue
			}
			for _, method := range values {
				if !allowsMethod(route, method) {
					return policy.Denied("route", "the field "+field+" names a method that the route is not for")
				}
			}
		}
	}
	for parameter := range strings.FieldsFuncSeq(query, func(c rune) bool { return c == '&' || c == ';' }) {
		name, method, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(name)
		if method, failed := url.QueryUnescape(method); err == nil && foldName(name) == methodParameter && (failed != nil || !allowsMethod(route, method)) {
			return policy.Denied("route", "the parameter _method names a method that the route is not for")
		}
	}
	return policy.Allowed("route")
}

func allowsMethod(route *bundle.Route, method string) bool {
	return len(route.Methods) == 0 || slices.Contains(route.Methods, strings.ToUpper(strings.TrimSpace(method)))
}
