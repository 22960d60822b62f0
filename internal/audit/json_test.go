package audit

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzEntry compares with encoding/json.
func FuzzEntry(f *testing.F) {
	f.Add("allow", "routes[0]", "a \"why\" <b>", "/x\x00\xff\u2028", uint64(7), int64(1e18))
	f.Fuzz(func(t *testing.T, verdict, rule, why, path string, seq uint64, when int64) {
		e := Entry{Time: time.Unix(0, when).UTC(), Seq: seq, Prev: rule, Daemon: "egress", Pair: why, Verdict: verdict, Rule: rule, Why: why, Host: "a.test:443", Method: verdict, Path: path, Repo: rule, Ref: path, Proposal: why, By: verdict}
		want, err := json.Marshal(e)
		if err != nil {
			return // a year that RFC 3339 has no form for
		}
		if got := appendEntry(nil, &e); string(got) != string(want) {
			t.Errorf("%s\nwant\n%s", got, want)
		}
	})
}
