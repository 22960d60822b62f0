package egress

import (
	"testing"
	"time"

	"airlock/internal/policy"
)

// BenchmarkDecide is the policy's share of a request.
func BenchmarkDecide(b *testing.B) {
	rs := sampleRules(b)
	a, err := policy.ParseAuthority("api.ok.test", 443)
	if err != nil {
		b.Fatal(err)
	}
	q, now := requestInfo{tls: true, authority: a, method: "POST", path: "/v1/chat/completions", query: "a=b", content: "application/json"}, time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if v, _ := rs.decide(q, now); !v.Allow {
			b.Fatal(v)
		}
	}
}
