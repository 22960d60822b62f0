package egress

import (
	"net/http"
	"testing"

	"airlock/internal/bundle"
)

func TestOverridden(t *testing.T) {
	some, any := &bundle.Route{Methods: []string{"GET", "POST"}}, &bundle.Route{}
	for _, c := range []struct {
		name, value, query string
		route              *bundle.Route
		allow              bool
	}{
		{"X-Http-Method-Override", "DELETE", "", some, false},
		{"x_http_method_override", " delete", "", some, false},
		{"X-Http-Method", "PATCH", "", some, false},
		{"X-Http-Method-Override", "GET", "", some, true},
		{"X-Http-Method-Override", "DELETE", "", any, true},
		{"X-Original-Url", "/admin", "", any, false},
		{"X_Rewrite-URL", "/admin", "", any, false},
		{"X-Note", "DELETE", "a=b&_method=put", some, false},
		{"X-Note", "DELETE", "a=b&%5Fmethod=put;x", some, false},
		{"X-Note", "DELETE", "_method=put", any, true},
		{"X-Note", "/admin", "method=put", some, true},
	} {
		if v := checkOverride(http.Header{c.name: {c.value}}, c.query, c.route); v.Allow != c.allow || !v.Allow && v.Why == "" {
			t.Errorf("%s: %s, ?%s: %+v", c.name, c.value, c.query, v)
		}
	}
}
