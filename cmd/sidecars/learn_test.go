package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestLearnMode lets pass what no route names, without a credential, and says
// so everywhere; a reload ends it.
func TestLearnMode(t *testing.T) {
	b := prepare(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Authorization")) // the agent may have gone
	}))
	file := strings.Replace(b.egressYAML(""), "routes:", "mode: learn\nlearn: ['*.ok.test:PORT']\nroutes:", 1)
	port := strconv.Itoa(b.origin.Port())
	b.write("egress.yaml", strings.Replace(file, "PORT", port, 1))
	b.write("pipelock.yaml", b.pipelockYAML("  - '*.ok.test:"+port+"'\n"))
	b.run()
	mode := func() string {
		st, err := b.ctl.Status(context.Background())
		must(t, err)
		d, _ := st.Find("egress")
		return d.Mode
	}
	if m := mode(); !strings.HasPrefix(m, "learn mode: whatever is asked of *.ok.test:"+port+" passes") {
		t.Errorf("the status says %q", m)
	}
	if out, err := b.command("status").CombinedOutput(); err != nil || !strings.Contains(string(out), "learn mode: ") {
		t.Errorf("%v: %s", err, out)
	}
	if status, body := b.get(b.url("api.ok.test", "/v1/x")); status != 200 || body != "Bearer [redacted:EGRESS_TOKEN_0]" {
		t.Errorf("by its route: %d %q", status, body)
	}
	for _, target := range []string{b.url("api.ok.test", "/admin"), b.url("new.ok.test", "/x")} {
		if status, body := b.get(target); status != 200 || body != "" {
			t.Errorf("%s: %d %q", target, status, body)
		}
	}
	for _, target := range []string{b.url("new.ok.test", "/x/git-receive-pack"), b.url("evil.test", "/")} {
		if status, _ := b.get(target); status != 403 {
			t.Errorf("%s: %d", target, status)
		}
	}
	text, err := os.ReadFile(b.dirs.Audit("egress"))
	must(t, err)
	if n := strings.Count(string(text), `"verdict":"allow","rule":"learn","why":`); n != 2 || !strings.Contains(string(text), `the route is for the paths [\"/v1/*\"]`) {
		t.Errorf("%d lessons in the audit:\n%s", n, text)
	}
	var metrics string
	must(t, b.ctl.Do(context.Background(), "GET", "/metrics", nil, nil, &metrics))
	for _, want := range []string{`airlock_egress_learned_requests_total{daemon="egress"} 2`, `airlock_egress_learn_mode{daemon="egress"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	b.write("egress.yaml", b.egressYAML(""))
	must(t, b.ctl.Do(context.Background(), "POST", "/reload", map[string][]string{"daemon": {"egress"}}, nil, nil))
	if status, _ := b.get(b.url("new.ok.test", "/x")); status != 403 || mode() != "" {
		t.Errorf("after the reload: %d, %q", status, mode())
	}
	if said := strings.Join(b.output.all, "\n"); !strings.Contains(said, "level=WARN msg=\"learn mode: whatever") {
		t.Error("the log does not say it")
	}
}
