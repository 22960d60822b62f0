package audit

import (
	"encoding/json"
	"strconv"
	"time"
)

// appendEntry writes an entry as encoding/json would, without its reflection:
// every request waits for two of them.
func appendEntry(b []byte, e *Entry) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, e.Seq, 10)
	for _, f := range [...]struct {
		name, value string
		always      bool
	}{
		{"prev", e.Prev, true}, {"daemon", e.Daemon, true}, {"pair", e.Pair, false}, {"verdict", e.Verdict, true},
		{"rule", e.Rule, false}, {"why", e.Why, false}, {"host", e.Host, false}, {"method", e.Method, false}, {"path", e.Path, false},
		{"repo", e.Repo, false}, {"ref", e.Ref, false}, {"proposal", e.Proposal, false}, {"by", e.By, false},
	} {
		if f.value != "" || f.always {
			b = append(append(append(b, `,"`...), f.name...), `":`...)
			b = appendString(b, f.value)
		}
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string cannot fail
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
