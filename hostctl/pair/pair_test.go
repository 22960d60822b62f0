package pair_test

import (
	"encoding/json"
	"strings"
	"testing"

	"airlock/hostctl/pair"
)

func good() pair.Plan {
	return pair.Plan{
		Name: "demo", Dir: "/state/demo", Sidecars: "/bin/sidecars",
		Secrets: map[string]string{"EGRESS_TOKEN_0": "sesame-open"},
		Agent:   pair.Agent{Command: []string{"bash"}, Env: map[string]string{"B": "2", "A": "1"}},
	}
}

func TestValidate(t *testing.T) {
	tests := map[string]struct {
		change func(*pair.Plan)
		wrong  string // empty: nothing is
	}{
		"good":               {func(p *pair.Plan) {}, ""},
		"copy":               {func(p *pair.Plan) { p.Agent.Workspace = pair.Workspace{Path: "/w", Mode: pair.Copy} }, ""},
		"name with slash":    {func(p *pair.Plan) { p.Name = "../x" }, "pair name"},
		"name too long":      {func(p *pair.Plan) { p.Name = strings.Repeat("a", 42) }, "pair name"},
		"hyphen first":       {func(p *pair.Plan) { p.Name = "-rf" }, "pair name"},
		"upper case":         {func(p *pair.Plan) { p.Name = "Demo" }, "pair name"},
		"no command":         {func(p *pair.Plan) { p.Agent.Command = nil }, "no command"},
		"relative dir":       {func(p *pair.Plan) { p.Dir = "state" }, "absolute path"},
		"relative workspace": {func(p *pair.Plan) { p.Agent.Workspace = pair.Workspace{Path: ".", Mode: pair.Bind} }, "absolute path"},
		"unknown mode":       {func(p *pair.Plan) { p.Agent.Workspace.Mode = "share" }, "copy, bind, none"},
		"variable name":      {func(p *pair.Plan) { p.Agent.Env["A=B"] = "" }, "variable"},
		"zero byte":          {func(p *pair.Plan) { p.Agent.Env["A"] = "x\x00y" }, "zero byte"},
		"unknown layer":      {func(p *pair.Plan) { p.AllowMissing = []string{"namespaces"} }, "may be missing"},
		"negative":           {func(p *pair.Plan) { p.Agent.Resources.Pids = -1 }, "negative"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := good()
			tt.change(&p)
			err := p.Validate()
			if tt.wrong == "" && err != nil {
				t.Fatalf("refused: %v", err)
			}
			if tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
				t.Fatalf("got %v, want an error about %q", err, tt.wrong)
			}
		})
	}
}

func TestSecretsAreNotInTheJSONOfAPlan(t *testing.T) {
	data, err := json.Marshal(good())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "sesame") || strings.Contains(string(data), "EGRESS_TOKEN") {
		t.Fatal("a plan on disk would hold a secret")
	}
}

func TestEnvironIsSorted(t *testing.T) {
	if got := strings.Join(good().Agent.Environ(), " "); got != "A=1 B=2" {
		t.Fatal(got)
	}
}
