package control

import (
	"strings"
	"testing"

	"airlock/internal/policy"
)

// TestModeIsLoud shows in the table that a daemon does less than it should.
func TestModeIsLoud(t *testing.T) {
	st := Status{Ready: true, Daemons: []Daemon{{Name: "egress", State: "ready", Mode: "learn mode: whatever is asked of *.pkgs.example passes"}}}
	if text := st.table(fixed(0, true), now); !strings.Contains(text, "\x1b[33;1m        learn mode: whatever is asked of *.pkgs.example passes\x1b[0m\n") {
		t.Errorf("%q", text)
	}
}

func TestExplainedText(t *testing.T) {
	e := Explained{Question: policy.Question{Method: "GET", URL: "https://a.test/\x1b[2J"}, Daemons: []policy.Explanation{
		{Daemon: "egress", Rule: "no route", Why: "no route names a.test:443", Nearest: "routes[0] b.test", NearestAt: "egress.yaml:5", Line: `{host: "a.test"}`},
		{Daemon: "pipelock", Allow: true, Rule: "allow[0] a.test", At: "pipelock.yaml:3", Nearest: "allow[0] a.test"},
	}}
	const want = `refused: GET https://a.test/?[2J
  egress refuses it by no route
    why: no route names a.test:443
    nearest: routes[0] b.test (egress.yaml:5)
    would pass with: {host: "a.test"}
  pipelock allows it by allow[0] a.test (pipelock.yaml:3)
`
	if got := e.Text(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestCheckQuestion(t *testing.T) {
	for _, bad := range [][2]string{{"", "https://a.test/"}, {"CONNECT", "https://a.test/"}, {"G T", "https://a.test/"}, {"GET", ""}, {"GET", "https://a.test/" + strings.Repeat("a", maxURL)}} {
		if q, err := CheckQuestion(bad[0], bad[1]); err == nil {
			t.Errorf("%q is a question: %+v", bad, q)
		}
	}
	if q, err := CheckQuestion("post", "https://a.test/"); err != nil || q.Method != "POST" {
		t.Errorf("%+v, %v", q, err)
	}
}
