package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"airlock/internal/control"
)

// TestExplainAsksTheLiveRules changes the files before and after a reload:
// what counts is what the daemons have in force.
func TestExplainAsksTheLiveRules(t *testing.T) {
	b := start(t, nil)
	ctx := context.Background()
	explain := func(method, url string) control.Explained {
		t.Helper()
		e, err := b.ctl.Explain(ctx, method, url)
		must(t, err)
		if len(e.Daemons) != 2 || e.Daemons[0].Daemon != "egress" || e.Daemons[1].Daemon != "pipelock" {
			t.Fatalf("%+v", e)
		}
		return e
	}
	port := b.origin.Port()
	if e := explain("get", b.url("API.ok.test", "/v1/%2e/x")); !e.Allow || e.Daemons[0].At != "egress.yaml:5" || e.Daemons[0].Auth != "bearer" || e.Daemons[1].At != "pipelock.yaml:9" {
		t.Errorf("%+v", e)
	}
	if e := explain("GET", b.url("api.ok.test", "/v1/../admin")); e.Allow || e.Daemons[0].Nearest != fmt.Sprintf("routes[0] api.ok.test:%d", port) || !e.Daemons[1].Allow {
		t.Errorf("%+v", e)
	}
	newHost := b.url("new.ok.test", "/x")
	if e := explain("GET", newHost); e.Allow || e.Daemons[0].Rule != "no route" || e.Daemons[1].Line != fmt.Sprintf(`"new.ok.test:%d"`, port) {
		t.Errorf("%+v", e)
	}
	b.write("egress.yaml", b.egressYAML(fmt.Sprintf("  - host: new.ok.test:%d\n", port)))
	b.write("pipelock.yaml", b.pipelockYAML(fmt.Sprintf("  - new.ok.test:%d\n", port)))
	if e := explain("GET", newHost); e.Daemons[0].Allow || e.Daemons[1].Allow {
		t.Errorf("before the reload: %+v", e)
	}
	for path, daemon := range map[string]string{"/reload": "egress", "/restart": "pipelock"} {
		must(t, b.ctl.Do(ctx, "POST", path, map[string][]string{"daemon": {daemon}}, nil, nil))
	}
	if e := explain("GET", newHost); !e.Allow || e.Daemons[0].At != "egress.yaml:9" || e.Daemons[1].At != "pipelock.yaml:11" {
		t.Errorf("after the reload: %+v", e)
	}
	if e, err := b.ctl.Explain(ctx, "GET", "https://_egress.local/"); err != nil || !e.Allow || len(e.Daemons) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if n := len(b.origin.Seen()); n != 0 {
		t.Errorf("%d requests reached the origin", n)
	}
	for _, daemon := range []string{"egress", "pipelock"} {
		if text, err := os.ReadFile(b.dirs.Audit(daemon)); err != nil || len(text) != 0 {
			t.Errorf("the audit of %s: %q, %v", daemon, text, err)
		}
	}
}

// TestExplainSpeaks reads what people read.
func TestExplainSpeaks(t *testing.T) {
	b := start(t, nil)
	out, err := b.command("explain", "GET", b.url("api.ok.test", "/admin")).CombinedOutput()
	must(t, err)
	for _, want := range []string{"refused: GET https://api.ok.test", `egress refuses it by routes[0] api.ok.test`, "(egress.yaml:5)", `why: the route is for the paths ["/v1/*"]`, "would pass with: {host:", "pipelock allows it by allow[0]"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, err := b.command("routes").CombinedOutput(); err != nil || !strings.Contains(string(out), `"paths":["/v1/*"],"auth":"bearer"`) {
		t.Errorf("%s, %v", out, err)
	}
	for want, args := range map[string][]string{
		"user information": {"GET", "https://user:the-password@api.ok.test/"}, "an absolute URL": {"GET", "api.ok.test"}, "a method like GET": {"CONNECT", "https://api.ok.test/"},
		"wants a method and a URL": {"https://api.ok.test/"}, "at most 2048": {"GET", "https://api.ok.test/" + strings.Repeat("a", 2100)},
	} {
		out, err := b.command(append([]string{"explain"}, args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "the-password") {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if e, err := b.ctl.Explain(context.Background(), "GET", b.url("api.ok.test", "/v1/"+strings.Repeat("&", 2000))); err == nil {
		t.Errorf("a question too long for the link: %+v", e)
	}
}
